"""Tiles through a GPU: two in flight, so that copies hide behind the arithmetic.

A lane is a stream with its own arrays: pinned ones on the host, and a CUDA graph of the whole
computation of a tile, which takes one launch where the network's kernels would take a hundred.
torch.compile fuses what lies between the convolutions, where a GPU mostly waits for its memory. It
must not choose kernels by their time, which would make bits depend on the run.

Legend: T images of a tile.
"""

import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from avader.errors import InputError
from avader.plan import TILES
from avader.recipe import Network

LANES = 2
"""Tiles under way."""
COMPUTATIONS = 4
"""Each with lanes of its own: to encode, to decode, to pixels without measures and with them."""
# A library may choose its kernels and take its work space on the first calls; not while captured.
FIRST_CALLS = 2
# No choice of kernels by time.
OPTIONS: dict[str, str | int | bool | Callable[..., Any]] = {
    "deterministic": True,
    "triton.autotune_pointwise": False,
}

Compute = Callable[[Tensor], Tensor]


def check_tile(tile: int, network: Network, device: torch.device) -> None:
    """Raise InputError for no images at once, or where a GPU lacks memory for so many.

    A CPU's is counted before any worker starts.
    """
    if tile < 1:
        raise InputError(f"tile: wanted at least 1 image at once, got {tile}")
    if device.type != "cuda":
        return
    most, free = _room(network, device)
    if tile > most:
        raise InputError(
            f"tile: wanted at most {most:,} images at once, for which the GPU's {free / 2**30:.1f} "
            f"GiB of free memory have room, got {tile:,}; take a smaller one"
        )


def suiting_tile(network: Network, device: torch.device) -> int:
    """Images at once that suit a device: on a GPU 256, halved until its free memory has room."""
    if device.type != "cuda":
        return TILES["cpu"]
    tile, room = TILES["gpu"], _room(network, device)[0] // COMPUTATIONS
    while tile > max(1, room):
        tile //= 2
    return tile


def _room(network: Network, device: torch.device) -> tuple[int, int]:
    """Images at once that a GPU has memory for, and its bytes that are free."""
    free, _ = torch.cuda.mem_get_info(device)
    return free // (LANES * network.image_memory), free


class Lane:
    """One tile at a time: copied to the GPU, computed, copied back, all in the background."""

    def __init__(self, compute: Compute, tile: Tensor, device: torch.device) -> None:
        """tile: of the shape and type that will come (T, ...); compute: of tiles on the device."""
        self.stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        # The weights may still be on their way, by another stream.
        self.stream.wait_stream(torch.cuda.current_stream(device))
        self.taken = torch.empty_like(tile, pin_memory=True)
        with torch.cuda.stream(self.stream):
            self.into = torch.zeros_like(tile, device=device)
            for _ in range(FIRST_CALLS):
                compute(self.into)
        self.stream.synchronize()
        self.graph = torch.cuda.CUDAGraph()
        # Other threads, such as a loader's that pins memory, may call CUDA meanwhile.
        with torch.cuda.graph(self.graph, stream=self.stream, capture_error_mode="thread_local"):
            self.out = compute(self.into)
        self.given = torch.empty_like(self.out, device="cpu", pin_memory=True)
        # To wait takes none of the cores that compress.
        self.done = torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]

    def start(self, rows: NDArray[Any]) -> None:
        """Send rows on their way, at most T, the tile padded with zeros."""
        self.stream.synchronize()  # what a run that was broken off has left, else nothing
        host = self.taken.numpy()
        host[: len(rows)] = rows
        host[len(rows) :] = 0
        with torch.cuda.stream(self.stream):
            self.into.copy_(self.taken, non_blocking=True)
            self.graph.replay()
            self.given.copy_(self.out, non_blocking=True)
            self.done.record()

    def finish(self) -> NDArray[Any]:
        """What came of the tile (T, ...), until the lane starts again."""
        self.done.synchronize()
        done: NDArray[Any] = self.given.numpy()
        return done


class Lanes:
    """Lanes for one computation on one shape of tiles."""

    def __init__(self, compute: Compute, tile: Tensor, device: torch.device) -> None:
        """As for a Lane."""
        self.tile = len(tile)
        fused = torch.compile(compute, fullgraph=True, dynamic=False, options=OPTIONS)
        # One for every engine of the process, which torch takes for the same code made anew.
        most: dict[str, object] = dict.fromkeys(
            ("recompile_limit", "accumulated_recompile_limit"), 1000
        )
        with torch._dynamo.config.patch(most), warnings.catch_warnings():
            # TF32 is off on purpose; what torch's own code is to call is not for our users.
            warnings.filterwarnings("ignore", message="TensorFloat32 tensor cores")
            warnings.filterwarnings("ignore", category=DeprecationWarning, module="torch")
            try:
                self.lanes = [Lane(fused, tile, device) for _ in range(LANES)]
            except torch.OutOfMemoryError as error:  # beside the lanes of other computations
                raise InputError(
                    f"tile: the GPU lacks memory for {len(tile):,} images at once; take a smaller "
                    f"one: {error}"
                ) from error

    def run(self, rows: NDArray[Any]) -> Iterator[tuple[int, NDArray[Any]]]:
        """Where each tile begins and what came of its rows, which holds until the next is asked."""
        begun: list[tuple[int, int, Lane]] = []
        for number, start in enumerate(range(0, len(rows), self.tile)):
            if len(begun) == LANES:
                yield self._first(begun)
            part = np.ascontiguousarray(rows[start : start + self.tile])
            lane = self.lanes[number % LANES]
            lane.start(part)
            begun.append((start, len(part), lane))
        while begun:
            yield self._first(begun)

    @staticmethod
    def _first(begun: list[tuple[int, int, Lane]]) -> tuple[int, NDArray[Any]]:
        start, count, lane = begun.pop(0)
        return start, lane.finish()[:count]
