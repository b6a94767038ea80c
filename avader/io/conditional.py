"""One small object that several machines write: created once, replaced only as it was last seen.

S3: conditional PUTs (If-None-Match, If-Match). Local disk: a hard link, which replaces nothing,
and a rename under a lock on the file that it replaces. Where a storage has neither (S3 servers
that answer 501, other kinds of storage, a network disk without locks) the object is looked at and
then written, and of two writers within that moment both may think that they won. Some S3 servers
do the same within (SeaweedFS 4.48 for If-Match, not for If-None-Match).
"""

import errno
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import IO

import fsspec

from avader.io import local, storage
from avader.io.retry import client_error

FAILED, CONFLICT = 412, 409
"""HTTP states of a condition that does not hold, and of two writers at once: try again."""


@dataclass(frozen=True)
class Seen:
    """An object as it was read or written. etag: S3's name of this version, else empty."""

    data: bytes
    etag: str = ""


def read(uri: str) -> Seen | None:
    """The object, or None where there is none. Raises InputError where it cannot be read."""
    fs, path = storage.filesystem(uri)
    return storage.attempt("read", uri, partial(_read, fs, path))


def create(uri: str, data: bytes) -> Seen | None:
    """Write an object where there is none; None where there is one.

    Raises InputError where the place cannot be written.
    """
    fs, path = storage.filesystem(uri)
    call = partial(_create, path, data) if storage.is_local(uri) else partial(_put, fs, path, data)
    return storage.attempt("write", uri, call)


def replace(uri: str, data: bytes, seen: Seen) -> Seen | None:
    """Write an object over the one that was seen; None where that is no longer there.

    Raises InputError where the place cannot be written.
    """
    fs, path = storage.filesystem(uri)
    if storage.is_local(uri):
        return storage.attempt("write", uri, partial(_write_over, path, data, seen))
    return storage.attempt("write", uri, partial(_put, fs, path, data, seen))


def remove(uri: str, seen: Seen) -> None:
    """Remove the object that was seen, and no other, but for the moment of the look on S3."""
    fs, path = storage.filesystem(uri)
    call = partial(_unlink, path, seen) if storage.is_local(uri) else partial(_rm, fs, path, seen)
    storage.attempt("remove", uri, call)


def _read(fs: fsspec.AbstractFileSystem, path: str) -> Seen | None:
    try:
        # The version first: where another one is written in between, replace refuses.
        etag = "" if "file" in fs.protocol else fs.info(path, refresh=True).get("ETag", "")
        return Seen(fs.cat_file(path), etag)
    except FileNotFoundError:
        return None


def _put(
    fs: fsspec.AbstractFileSystem, path: str, data: bytes, seen: Seen | None = None
) -> Seen | None:
    """Write where the object is as seen; seen: None for no object."""
    if seen is not None and not seen.etag:
        return _look_and_put(fs, path, data, seen)
    condition = {"mode": "create"} if seen is None else {"IfMatch": seen.etag}
    try:
        answer = fs.pipe_file(path, data, **condition)
    except OSError as error:
        if error.errno == errno.ENOSYS:
            return _look_and_put(fs, path, data, seen)
        gone = seen is not None and isinstance(error, FileNotFoundError)
        status = _status(error)
        if not (gone or isinstance(error, FileExistsError) or status in (FAILED, CONFLICT)):
            raise
        # Refused by our own write, where its answer was lost and it was sent again?
        found = _read(fs, path)
        if found is not None and found.data == data:
            return found
        if status == CONFLICT:
            raise
        return None
    return Seen(data, (answer or {}).get("ETag", ""))


def _look_and_put(
    fs: fsspec.AbstractFileSystem, path: str, data: bytes, seen: Seen | None
) -> Seen | None:
    found = _read(fs, path)
    if found is not None and found.data == data:
        return found  # our own write, whose answer was lost
    if found != seen:
        return None
    fs.pipe_file(path, data)
    found = _read(fs, path)
    return found if found is not None and found.data == data else None


def _rm(fs: fsspec.AbstractFileSystem, path: str, seen: Seen) -> None:
    if _read(fs, path) == seen:
        fs.rm_file(path)


def _status(error: OSError) -> int | None:
    """The HTTP state behind an error of s3fs."""
    answer = client_error(error)
    if answer is None:
        return None
    return answer.response.get("ResponseMetadata", {}).get("HTTPStatusCode")


def _create(path: str, data: bytes) -> Seen | None:
    return Seen(data) if local.create(path, data) else None


def _write_over(path: str, data: bytes, seen: Seen) -> Seen | None:
    with _locked(path, seen) as held:
        if held:
            local.write(path, (data,))
    return Seen(data) if held else None


def _unlink(path: str, seen: Seen) -> None:
    with _locked(path, seen) as held:
        if held:
            os.unlink(path)


@contextmanager
def _locked(path: str, seen: Seen) -> Iterator[bool]:
    """Whether the file is the one that was seen, and stays so within the block."""
    try:
        # Writable, since network disks lock no other.
        file = open(path, "r+b")  # noqa: SIM115 - closed below
    except FileNotFoundError:
        yield False
        return
    with file:
        yield _lock(file) and file.read() == seen.data and _is_at(file, path)


def _lock(file: IO[bytes]) -> bool:
    """Lock a file until it is closed; False where another process is at it."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # a disk without locks
        pass
    return True


def _is_at(file: IO[bytes], path: str) -> bool:
    """Whether the path still leads to this open file."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), os.stat(path))
    except FileNotFoundError:
        return False
