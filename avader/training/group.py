"""The ranks that train together, and the two things they do together: add up and hand round.

Gradients are added here, once per batch and by plain sums, so that a batch's gradient is exactly
that of all its rows whatever the split; wrappers that average per rank would weigh rows unequally.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, distributed


@dataclass(frozen=True, slots=True)
class Group:
    """This process among `world` ranks; the default is one process alone."""

    rank: int = 0
    world: int = 1

    @property
    def is_first(self) -> bool:
        """Whether this is rank 0, which writes and tells."""
        return self.rank == 0

    def add(self, tensors: list[Tensor]) -> None:
        """Replace each tensor by its sum over all ranks, in place: one exchange per dtype."""
        if self.world == 1:
            return
        for dtype in sorted({tensor.dtype for tensor in tensors}, key=str):
            alike = [tensor for tensor in tensors if tensor.dtype == dtype]
            flat = torch.cat([tensor.reshape(-1) for tensor in alike])
            distributed.all_reduce(flat)
            sizes = [tensor.numel() for tensor in alike]
            for tensor, total in zip(alike, torch.split(flat, sizes), strict=True):
                tensor.copy_(total.view_as(tensor))

    def extremes(self, values: Tensor) -> tuple[Tensor, Tensor]:
        """Least and greatest of all ranks' values, scalars; a rank's own may be none."""
        far = torch.finfo(values.dtype).max
        least = values.min() if values.numel() else values.new_tensor(far)
        greatest = values.max() if values.numel() else values.new_tensor(-far)
        both = torch.stack([-least, greatest])
        self.raise_to_greatest(both)
        return -both[0], both[1]

    def raise_to_greatest(self, values: Tensor) -> None:
        """Replace each value by the greatest of all ranks', in place."""
        if self.world > 1:
            distributed.all_reduce(values, op=distributed.ReduceOp.MAX)

    def from_first(self, value: Any) -> Any:
        """Rank 0's value, on every rank; the others' is ignored."""
        if self.world == 1:
            return value
        box = [value]
        distributed.broadcast_object_list(box, src=0)
        return box[0]

    def gather(self, value: Any) -> list[Any]:
        """Every rank's value in order of rank, on every rank."""
        if self.world == 1:
            return [value]
        values: list[Any] = [None] * self.world
        distributed.all_gather_object(values, value)
        return values
