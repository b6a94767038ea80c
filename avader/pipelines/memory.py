"""The memory that a worker takes, said before work starts: it has one unit at a time.

Ray counts this much of a machine's memory for each worker, so that no machine gets more workers
than it has room for. The figures are of measured peaks, rounded up (tests/pipelines/test_memory.py
measures them again).
"""

import ctypes
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa

from avader.errors import InputError
from avader.io.manifest import Manifest
from avader.io.shards import vector_bytes
from avader.pipelines.progress import size
from avader.plan import Plan, Unit
from avader.recipe import Network

MIB = 2**20
M_TRIM_THRESHOLD, M_MMAP_MAX, M_ARENA_MAX = -1, -4, -8
"""glibc's numbers for them, of mallopt(3)."""
WORKER = 576 * MIB
"""A process with Ray, torch and a small model, before its first unit."""
GPU = 4096 * MIB
"""What CUDA takes of a machine's memory for a process. Assumed."""
HELPERS, HELPER, HELPER_COPIES = 2, 448 * MIB, 5.0
"""Processes that read for a worker with a GPU, and as many that write, at least; and what each of
them takes: besides itself the file that was read, the unit as a table, joined to be sent, and twice
as Ray's block."""
TEXT = 32
"""Bytes of an id or a name, its place among the others included."""


@dataclass(frozen=True)
class Need:
    """What one worker takes.

    pixels: bytes of its largest unit's pixels, or rows where it has none. copies: times it holds
    them at once, at most. besides: bytes of what it computes with. device: "cpu" or "gpu".
    helpers: of a GPU's worker, processes that read for it, and as many that write.
    """

    pixels: int = 0
    copies: float = 0.0
    besides: int = 0
    device: str = "cpu"
    helpers: int = HELPERS

    @property
    def total(self) -> int:
        """Bytes of a machine's memory, of a GPU's worker with those that read and write for it."""
        worker = WORKER + round(self.copies * self.pixels) + self.besides
        if self.device == "cpu":
            return worker
        return worker + GPU + 2 * self.helpers * (HELPER + round(HELPER_COPIES * self.pixels))

    def __str__(self) -> str:
        of = f", for shards of {size(self.pixels)}" if self.pixels else ""
        return f"about {size(self.total)} of memory{of}"


SMALL = Need()
"""Of a worker whose units are small."""


def image_bytes(settings: Mapping[str, Any]) -> int:
    """Bytes of an image of packed cutouts; settings: of their plan."""
    dtype = np.dtype(settings["preprocessing"].get("dtype", "uint8"))
    return int(math.prod(settings["shape"])) * dtype.itemsize


def network_bytes(network: Mapping[str, Any], *, tile: int, device: str = "cpu") -> int:
    """What a network computes with, of so many images at once; network: as in config.json.

    Of the machine's memory: a GPU computes in its own.
    """
    return 0 if device == "gpu" else tile * Network.model_validate(network).image_memory


def packing_need(plan: Plan, *, stored: int, objects: int) -> Need:
    """What a worker takes that packs so many objects; stored: bytes of an image as stored.

    Images one by one, as one array, in order, and as the file with its encoding; and the images as
    they came, which are taken to be no larger.
    """
    usual = plan.settings["rows_per_shard"]
    # A pixel that is there already, or cannot be cut further, may have more than was asked for.
    most = max((unit.inputs.get("count", usual) for unit in plan.units), default=usual)
    return Need(pixels=stored * min(most, objects), copies=7.0)


def joining_need(schema: pa.Schema, units: Iterable[Unit], *, stored: int = 0) -> Need:
    """What a worker takes that joins parts: their bytes, their rows twice, and the file.

    units: each with the rows of its parts. stored: bytes of a file that rows hold.
    """
    most = max((sum(part["rows"] for part in unit.inputs["parts"]) for unit in units), default=0)
    width = stored + sum(_width(field.type) for field in schema)
    return Need(pixels=most * width, copies=4.0)


def file_bytes(data: Manifest) -> int:
    """Bytes of a stored file, on average, of cutouts stored so; else 0."""
    if not data.holds_files:
        return 0
    return sum(part["size"] for part in data.parts) // max(1, data.totals["rows"])


def _width(kind: pa.DataType) -> int:
    """Bytes of a value; a text is taken for a short one."""
    if pa.types.is_primitive(kind):
        return kind.bit_width // 8
    return vector_bytes(kind) or TEXT


def workers_with_room(nodes: Iterable[Mapping[str, float]], need: Need) -> int:
    """Workers that machines have CPUs (or GPUs) and memory for; nodes: what Ray has on each.

    Raises InputError where no machine has memory for one.
    """
    slot = "CPU" if need.device == "cpu" else "GPU"
    usable = [node for node in nodes if node.get(slot, 0) >= 1]
    if not usable:
        raise InputError(
            f"wanted a machine with {slot}s for the workers, got none yet: wait for the cluster's "
            "machines to join it (`ray status`), or look why they don't"
        )
    rooms = [math.floor(node.get("memory", 0) / need.total) for node in usable]
    if not any(rooms):
        most = max((round(node.get("memory", 0)) for node in usable), default=0)
        raise InputError(
            f"a worker wants {need}, got {size(most)} that Ray may give on the largest machine; "
            "take a machine with more, or smaller shards (--rows-per-shard of pack and generate, "
            "--rows-per-pixel of hats), or a smaller --tile of classify and generate"
        )
    return sum(min(int(node[slot]), room) for node, room in zip(usable, rooms, strict=True))


def helpers_with_room(nodes: Iterable[Mapping[str, float]], need: Need) -> int:
    """Processes that read for a GPU's worker, and as many that write: one for each of its cores.

    They compress as well, which takes far longer than a GPU does. Fewer where memory would then
    not do for as many workers. nodes: as workers_with_room takes them.
    """
    gpus = [node for node in nodes if need.device != "cpu" and node.get("GPU", 0) >= 1]
    cores = max((int(node.get("CPU", 0) // node["GPU"]) for node in gpus), default=0)
    least = workers_with_room(gpus, need) if gpus else 0
    for helpers in range(cores, HELPERS, -1):
        more = replace(need, helpers=helpers)
        if any(node.get("memory", 0) >= more.total for node in gpus) and (
            workers_with_room(gpus, more) == least
        ):
            return helpers
    return HELPERS


def share_arenas() -> None:
    """Have the threads that this process begins from now on share two heaps.

    Each wave of units begins new threads; glibc would give each a heap of its own, up to 8 a CPU,
    and keep what they had: 3 MB more for every 1,000 units. Elsewhere than on glibc, nothing.
    """
    _mallopt(M_ARENA_MAX, 2)


def keep_freed_memory() -> None:
    """Have this process keep what it frees, for its next batch.

    glibc gives large arrays back to the system at once, and page faults then cost a fifth to two
    thirds of a network's speed on CPUs. Elsewhere than on glibc, nothing.
    """
    _mallopt(M_MMAP_MAX, 0)
    _mallopt(M_TRIM_THRESHOLD, 2**31 - 1)


def _mallopt(option: int, value: int) -> None:
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(option, value)
