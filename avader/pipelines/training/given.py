"""What `train` gives to its workers, and what Ray Train calls in each of them.

The driver and Ray Train's controller hold both, and train nothing: they load none of what a worker
needs, which takes seconds.
"""

from dataclasses import dataclass
from typing import Any

from avader.io.manifest import Manifest
from avader.recipe import Recipe


@dataclass(frozen=True)
class WorkerTask:
    """What all workers of a training are given.

    name: the recipe's; out: folder URI; memory_limit: GiB of images in a worker, 0 for a part of
    what is free.
    """

    recipe: Recipe
    name: str
    data: Manifest
    out: str
    memory_limit: float = 0.0


def work(config: dict[str, Any]) -> None:
    """One worker's part: "task", a WorkerTask, told of on "notices"."""
    from avader.pipelines.training.worker import work_on

    work_on(config["task"], config["notices"])
