"""Image files as bytes, many at once; what is wrong with one is a text, not an exception."""

import errno
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import pyarrow as pa

from avader.errors import InputError
from avader.images.checks import plain
from avader.images.decode import MAX_BYTES
from avader.io import storage

# The longest ending first: it is taken off a path to make an id.
IMAGE_SUFFIXES = (".fits.gz", ".fits", ".jpeg", ".png", ".jpg", ".fit")
READERS = 8
# Errors of a busy machine or network, not of the file: they stop the unit, which is tried again.
_PASSING = {errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EAGAIN, errno.EINTR, errno.ETIMEDOUT}


def read_images(
    folders: Sequence[str], paths: Sequence[str | None]
) -> tuple[pa.Array, list[str | None]]:
    """The bytes of files, each below its folder, null where they cannot be had, and why not."""
    with ThreadPoolExecutor(READERS) as pool:
        read = list(pool.map(_read_image, folders, paths))
    return pa.array([data for data, _ in read], pa.binary()), [problem for _, problem in read]


def _read_image(folder: str, path: str | None) -> tuple[bytes | None, str | None]:
    if not path:
        return None, "the path of the image is null or empty"
    if path.startswith("/") or "://" in path:
        return None, plain(f"wanted a path relative to the table's folder, came {path}")
    uri = storage.join(folder, path)
    try:
        with storage.open_input(uri) as file:
            data = file.read(MAX_BYTES + 1)
    except (InputError, OSError) as error:
        cause = error.__cause__ if isinstance(error, InputError) else error
        if cause is None or not _is_of_the_file(cause, uri=uri):
            raise
        return None, plain(f"cannot read {path}: {_words(cause)}")
    if len(data) > MAX_BYTES:
        return None, plain(f"{path} is larger than {MAX_BYTES} bytes, too large for a cutout")
    return data, None


def _is_of_the_file(error: BaseException, *, uri: str) -> bool:
    """Whether an error will come back at every try, so that the object is a reject.

    On S3 a refused or failed request may be the credentials' or the network's fault: it stops the
    unit, lest a whole survey become rejects.
    """
    if isinstance(error, FileNotFoundError | IsADirectoryError | NotADirectoryError | ValueError):
        return True
    return storage.is_local(uri) and isinstance(error, OSError) and error.errno not in _PASSING


def _words(error: BaseException) -> str:
    if isinstance(error, FileNotFoundError):
        return "no such file"
    return str(getattr(error, "strerror", None) or error or type(error).__name__)
