"""Files of the local disk, written whole or not at all."""

import errno
import os
import re
import secrets
import socket
import time
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress

NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK)
"""What disks without hard links answer."""
ASIDE = re.compile(r"\..+\.([0-9a-f]{8})-(\d+)\.[0-9a-f]+\.tmp")
"""The name of a file aside: the machine and the process that write it."""
YOUNG = 3600.0
"""Seconds for which another machine's file aside may still be written."""


def exists(path: str) -> bool:
    """Whether a file or folder is there. Raises OSError where that cannot be seen."""
    try:
        os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True


def find(folder: str, enter: Callable[[str], bool] = lambda _: True) -> list[str]:
    """All files below a folder, those of linked folders too; none where it is absent.

    enter: whether to look into a folder within. Raises OSError where one cannot be listed, which
    fsspec passes over in silence.
    """
    return list(_find(folder, enter, ()))


def _find(folder: str, enter: Callable[[str], bool], above: tuple[str, ...]) -> Iterator[str]:
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except (FileNotFoundError, NotADirectoryError):
        return
    here = (*above, os.path.realpath(folder))
    for entry in entries:
        if not entry.is_dir():
            yield entry.path
        # A link to a folder that holds it would never end.
        elif enter(entry.path) and os.path.realpath(entry.path) not in here:
            yield from _find(entry.path, enter, here)


def write(path: str, chunks: Iterable[bytes]) -> None:
    """Write a file aside under a hidden name, sync it, then rename it over what was there."""
    with _aside(path, chunks) as aside:
        os.replace(aside, path)
        _sync(os.path.dirname(path))


def create(path: str, data: bytes) -> bool:
    """Write a file where there is none, seen whole or not at all; False where there is one.

    On a disk without hard links it is looked for and then written, as conditional.py says.
    """
    with _aside(path, (data,)) as aside:
        try:
            os.link(aside, path)
        except FileExistsError:
            return False
        except OSError as error:
            if error.errno not in NO_LINKS:
                raise
            if os.path.lexists(path):
                return False
            os.replace(aside, path)
        _sync(os.path.dirname(path))
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
    writer = f"{this_machine()}-{os.getpid()}"
    aside = os.path.join(folder, f".{name}.{writer}.{secrets.token_hex(4)}.tmp")
    try:
        with open(aside, "xb") as file:
            file.writelines(chunks)
            file.flush()
            os.fsync(file.fileno())
        yield aside
    finally:
        if os.path.exists(aside):
            os.unlink(aside)


def _sync(folder: str) -> None:
    """Have a folder's new names outlast a loss of power, where its disk can."""
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def remove_asides(folder: str) -> None:
    """Remove the files that killed writers left aside in a folder; those of live ones stay."""
    for entry in os.scandir(folder) if os.path.isdir(folder) else ():
        named = ASIDE.fullmatch(entry.name)
        with suppress(FileNotFoundError):  # another run removes them too
            if named and not _may_live(named[1], named[2], entry.stat().st_mtime):
                os.unlink(entry.path)


def _may_live(machine: str, pid: str, written: float) -> bool:
    """Whether the writer of a file aside may still be at it."""
    if machine == this_machine():
        return os.path.exists(f"/proc/{pid}")
    return time.time() - written < YOUNG


def this_machine() -> str:
    """This machine, as the names of its files aside say it."""
    return f"{zlib.crc32(socket.gethostname().encode()):08x}"
