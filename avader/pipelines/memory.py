"""Free memory of the machine, or of the container, that a process runs in."""

from pathlib import Path

GROUPS = (
    ("memory.max", "memory.current"),
    ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"),
)
"""Limit and use of a container, by cgroups of version 2 and 1."""


def free_bytes(proc: str = "/proc", cgroup: str = "/sys/fs/cgroup") -> int:
    """Bytes that may be taken without swapping: the machine's, or what a container still has.

    Raises RuntimeError where the system does not tell (not Linux).
    """
    try:
        lines = Path(proc, "meminfo").read_text().splitlines()
    except OSError as error:
        raise RuntimeError("wanted /proc/meminfo, got none; set --memory-limit") from error
    free = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    for limit, used in GROUPS:
        try:
            most, now = (Path(cgroup, name).read_text().strip() for name in (limit, used))
        except OSError:
            continue
        if most.isdigit():
            # What files left in memory counts as used there, although it gives way.
            free = min(free, max(int(most) - int(now), 0))
    return free
