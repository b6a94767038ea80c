"""Files of the local disk, written whole or not at all."""

import errno
import os
import secrets
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK)
"""What disks without hard links answer."""


def write(path: str, chunks: Iterable[bytes]) -> None:
    """Write a file aside under a hidden name, sync it, then rename it over what was there."""
    with _aside(path, chunks) as aside:
        os.replace(aside, path)


def create(path: str, data: bytes) -> bool:
    """Write a file where there is none, seen whole or not at all; False where there is one.

    On a disk without hard links a reader may see it while it is written.
    """
    with _aside(path, (data,)) as aside:
        try:
            os.link(aside, path)
        except FileExistsError:
            return False
        except OSError as error:
            if error.errno not in NO_LINKS:
                raise
            return _create_in_place(path, data)
    return True


def check_writable(path: str) -> None:
    """Raise OSError where it can be seen that no file can be written here."""
    if os.path.isdir(path):
        raise _refused(errno.EISDIR, path)
    folder = os.path.dirname(path)
    while folder and not os.path.lexists(folder):
        folder = os.path.dirname(folder)
    if not os.path.isdir(folder):
        raise _refused(errno.ENOTDIR, folder)
    if not os.access(folder, os.W_OK | os.X_OK):
        raise _refused(errno.EACCES, folder)


def _refused(code: int, path: str) -> OSError:
    return OSError(code, os.strerror(code), path)


@contextmanager
def _aside(path: str, chunks: Iterable[bytes]) -> Iterator[str]:
    """A synced file of this content beside the path, gone after the block."""
    folder, name = os.path.split(path)
    os.makedirs(folder, exist_ok=True)
    aside = os.path.join(folder, f".{name}.{os.getpid()}.{secrets.token_hex(4)}.tmp")
    try:
        with open(aside, "xb") as file:
            file.writelines(chunks)
            file.flush()
            os.fsync(file.fileno())
        yield aside
    finally:
        if os.path.exists(aside):
            os.unlink(aside)


def _create_in_place(path: str, data: bytes) -> bool:
    try:
        with open(path, "xb") as file:
            file.write(data)
    except FileExistsError:
        return False
    return True


def remove_asides(folder: str) -> None:
    """Remove the files that killed writers left aside in a folder; those of live ones stay."""
    for entry in os.scandir(folder) if os.path.isdir(folder) else ():
        if entry.name.startswith(".") and entry.name.endswith(".tmp") and not _is_alive(entry.name):
            os.unlink(entry.path)


def _is_alive(aside: str) -> bool:
    """Whether the process that writes this aside file still runs on this machine."""
    pid = aside.split(".")[-3]
    return pid.isdigit() and os.path.exists(f"/proc/{pid}")
