"""Free memory of the machine, or of the container, that a process runs in."""

from pathlib import Path

from avader.errors import InputError

GROUPS = (
    ("memory.max", "memory.current", "memory.stat", "inactive_file"),
    (
        "memory/memory.limit_in_bytes",
        "memory/memory.usage_in_bytes",
        "memory/memory.stat",
        "total_inactive_file",
    ),
)
"""Limit and use of a container, and what of its use gives way, by cgroups of version 2 and 1."""


def free_bytes(proc: str = "/proc", cgroup: str = "/sys/fs/cgroup") -> int:
    """Bytes that may be taken without swapping: the machine's, or what a container still has.

    Raises InputError where the system does not tell (not Linux).
    """
    try:
        meminfo = Path(proc, "meminfo").read_text()
    except OSError as error:
        raise InputError(
            f"wanted the free memory from {error.filename}, got none; set --memory-limit"
        ) from error
    free = _field(meminfo, "MemAvailable:") * 1024
    for limit, used, stat, file in GROUPS:
        try:
            most, now, facts = (Path(cgroup, name).read_text() for name in (limit, used, stat))
        except OSError:
            continue
        if most.strip().isdigit():  # "max": no limit
            free = min(free, max(int(most) - int(now) + _field(facts, file), 0))
    return free


def _field(text: str, name: str) -> int:
    """The number after a name that begins a line; 0 where there is none."""
    lines = (line.split() for line in text.splitlines())
    return next((int(line[1]) for line in lines if line and line[0] == name), 0)
