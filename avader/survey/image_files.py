"""Image files as bytes, some at a time; what is wrong with one is a text, not an exception."""

import errno
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import pyarrow as pa

from avader.errors import InputError
from avader.images.checks import CutoutError, Reason
from avader.images.limits import MAX_BYTES
from avader.io import storage

# The longest ending first: it is taken off a path to make an id.
IMAGE_SUFFIXES = (".fits.gz", ".fits", ".jpeg", ".png", ".jpg", ".fit")
READERS = 8
HELD_BYTES = 2**28
"""Bytes of images that are held together, or one file more."""
# Errors of a busy machine or network, not of the file: they stop the unit, which is tried again.
_PASSING = {errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EAGAIN, errno.EINTR, errno.ETIMEDOUT}


_Read = tuple[bytes | None, str | None]


def read_images(
    folders: Sequence[str], paths: Sequence[str | None]
) -> Iterator[tuple[pa.Array, list[str | None]]]:
    """The bytes of files, each below its folder, null where they cannot be had, and why not: the
    text of a CutoutError. In order, HELD_BYTES at a time; one group at least."""
    group, size = list[_Read](), 0
    for left, read in zip(range(len(paths) - 1, -1, -1), _reads(folders, paths), strict=True):
        group.append(read)
        size += len(read[0] or b"")
        if size >= HELD_BYTES and left:
            yield _columns(group)
            group, size = [], 0
    yield _columns(group)


def _columns(group: Sequence[_Read]) -> tuple[pa.Array, list[str | None]]:
    return pa.array([data for data, _ in group], pa.binary()), [problem for _, problem in group]


def _reads(folders: Sequence[str], paths: Sequence[str | None]) -> Iterator[_Read]:
    """What is read of each file, in order, so many at once."""
    waiting: deque[Future[_Read]] = deque()
    with ThreadPoolExecutor(READERS) as pool:
        for folder, path in zip(folders, paths, strict=True):
            waiting.append(pool.submit(_read_image, folder, path))
            if len(waiting) == READERS:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def _read_image(folder: str, path: str | None) -> _Read:
    if not path:
        return None, _problem(Reason.NO_IMAGE, "the path of the image is null or empty")
    if path.startswith("/") or "://" in path:
        wanted = "wanted a path relative to the table's folder"
        return None, _problem(Reason.BAD_PATH, f"{wanted}, came {path}")
    uri = storage.join(folder, path)
    try:
        with storage.open_input(uri) as file:
            data = file.read(MAX_BYTES + 1)
    except (InputError, OSError) as error:
        cause = error.__cause__ if isinstance(error, InputError) else error
        if cause is None or not _is_of_the_file(cause, uri=uri):
            raise
        return None, _problem(_reason(cause), f"cannot read {path}: {_words(cause)}")
    if len(data) > MAX_BYTES:
        too_large = f"{path} is larger than {MAX_BYTES} bytes, too large for a cutout"
        return None, _problem(Reason.FILE_TOO_LARGE, too_large)
    return data, None


def _is_of_the_file(error: BaseException, *, uri: str) -> bool:
    """Whether an error will come back at every try, so that the object is a reject.

    On S3 a refused or failed request may be the credentials' or the network's fault: it stops the
    unit, lest a whole survey become rejects.
    """
    if isinstance(error, FileNotFoundError | IsADirectoryError | NotADirectoryError | ValueError):
        return True
    return storage.is_local(uri) and isinstance(error, OSError) and error.errno not in _PASSING


def _problem(reason: Reason, detail: str) -> str:
    return str(CutoutError(reason, detail))


def _reason(error: BaseException) -> Reason:
    if isinstance(error, FileNotFoundError):
        return Reason.NO_FILE
    name_too_long = isinstance(error, OSError) and error.errno == errno.ENAMETOOLONG
    return Reason.BAD_PATH if name_too_long or isinstance(error, ValueError) else Reason.UNREADABLE


def _words(error: BaseException) -> str:
    if isinstance(error, FileNotFoundError):
        return "no such file"
    return str(getattr(error, "strerror", None) or error or type(error).__name__)
