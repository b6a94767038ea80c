"""Ranks as threads of this process, that add up by a barrier: real sums without processes."""

import threading
from collections.abc import Callable

import torch
from torch import Tensor

from avader.training.group import Group


class Threads:
    """A world of ranks; `run` gives each its thread."""

    def __init__(self, world: int) -> None:
        self.world = world
        self.barrier = threading.Barrier(world)
        self.given: dict[int, list[Tensor]] = {}

    def group(self, rank: int) -> Group:
        """The group of a rank."""
        return _ThreadGroup(rank, self.world, self)

    def run(self, work: Callable[[int], None]) -> None:
        """Call work(rank) on every rank's thread; raises the first error."""
        errors: list[BaseException] = []

        def guarded(rank: int) -> None:
            try:
                work(rank)
            except BaseException as error:  # noqa: BLE001 - raised below
                errors.append(error)
                self.barrier.abort()

        threads = [threading.Thread(target=guarded, args=(rank,)) for rank in range(self.world)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if errors:
            raise errors[0]


class _ThreadGroup(Group):
    def __init__(self, rank: int, world: int, threads: Threads) -> None:
        super().__init__(rank, world)
        object.__setattr__(self, "threads", threads)

    def _exchange(self, tensors: list[Tensor], combine: Callable[[Tensor], Tensor]) -> list[Tensor]:
        self.threads.given[self.rank] = [tensor.clone() for tensor in tensors]
        self.threads.barrier.wait()
        ranks = [self.threads.given[rank] for rank in range(self.world)]
        found = [combine(torch.stack(list(same))) for same in zip(*ranks, strict=True)]
        self.threads.barrier.wait()
        return found

    def add(self, tensors: list[Tensor]) -> None:
        for tensor, total in zip(
            tensors, self._exchange(tensors, lambda stacked: stacked.sum(0)), strict=True
        ):
            tensor.copy_(total)

    def raise_to_greatest(self, values: Tensor) -> None:
        (greatest,) = self._exchange([values], lambda stacked: stacked.amax(0))
        values.copy_(greatest)
