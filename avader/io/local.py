"""Files of the local disk, written whole or not at all."""

import os
import secrets
from collections.abc import Iterable


def write(path: str, chunks: Iterable[bytes]) -> None:
    """Write a file aside under a hidden name, sync it, then rename it over what was there."""
    folder, name = os.path.split(path)
    os.makedirs(folder, exist_ok=True)
    aside = os.path.join(folder, f".{name}.{os.getpid()}.{secrets.token_hex(4)}.tmp")
    try:
        with open(aside, "xb") as file:
            file.writelines(chunks)
            file.flush()
            os.fsync(file.fileno())
        os.replace(aside, path)
    except BaseException:
        if os.path.exists(aside):
            os.unlink(aside)
        raise


def remove_asides(folder: str) -> None:
    """Remove the files that killed writers left aside in a folder; those of live ones stay."""
    for entry in os.scandir(folder) if os.path.isdir(folder) else ():
        if entry.name.startswith(".") and entry.name.endswith(".tmp") and not _is_alive(entry.name):
            os.unlink(entry.path)


def _is_alive(aside: str) -> bool:
    """Whether the process that writes this aside file still runs on this machine."""
    pid = aside.split(".")[-3]
    return pid.isdigit() and os.path.exists(f"/proc/{pid}")
