"""What a training's images take, and the free memory of the machine or container it runs in."""

from pathlib import Path

import numpy as np

from avader.errors import InputError
from avader.io.manifest import Manifest
from avader.pipelines.progress import size
from avader.recipe import Recipe

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


def check_memory(data: Manifest, recipe: Recipe, *, gibibytes: float, world: int) -> None:
    """Raise InputError where images are neither held nor streamed in so much memory a worker."""
    limit = int(gibibytes * 2**30)
    if data.totals["rows"] * bytes_each(data, recipe) > limit:
        check_window(data, recipe, limit=limit, world=world)


def check_window(data: Manifest, recipe: Recipe, *, limit: int, world: int) -> int:
    """Bytes that each of the workers holds where images are streamed.

    limit: bytes that a worker may hold. Raises InputError where a window takes more.
    """
    largest = max(part["rows"] for part in data.parts)
    rows = min(recipe.window, data.totals["rows"]) + largest
    most = rows * bytes_each(data, recipe) // world
    if most > limit:
        raise InputError(
            f"wanted a window of {recipe.window:,} images in {world} worker(s) of at most "
            f"{size(limit)} each (--memory-limit), got {size(most)} each; raise "
            "--memory-limit (in train, or --workers), or lower --window with another --out"
        )
    return most


def bytes_each(data: Manifest, recipe: Recipe) -> int:
    """Bytes of a stored image, and of its mask where the recipe asks for it."""
    bands, height, width = data.settings["shape"]
    pixel = np.dtype(data.settings["preprocessing"]["dtype"]).itemsize
    masked = recipe.outside_weight < 1
    return int(bands * height * width * pixel + masked * mask_bytes(height, width))


def mask_bytes(height: int, width: int) -> int:
    """Bytes of a mask, a bit a pixel."""
    return -(-height * width // 8)
