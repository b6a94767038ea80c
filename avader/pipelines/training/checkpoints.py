"""Checkpoints of a training: training/checkpoints/<epochs done>-<batches within>.state.

Each is written whole or not at all, and holds its own digest. Names in order are the training's
order, and what has a name is a function of the recipe and the data, so a writer that was thought
dead does no harm. Written here and not by `ray.train.report`, which takes a checkpoint no sooner
than the controller's next look (2 s), and keeps a list of them that a kill can leave half-written.
"""

from collections.abc import Callable

from avader.errors import InputError
from avader.io import storage
from avader.training.state import TrainingState, is_whole

KEEP = 2
"""Checkpoints kept."""
SUFFIX = ".state"


class Checkpoints:
    """The checkpoints of a training; out: the model's folder URI. Rank 0 alone uses them."""

    def __init__(self, out: str) -> None:
        self.folder = storage.join(out, "training", "checkpoints")

    def save(self, state: TrainingState) -> None:
        """Write a checkpoint, then remove all but the newest ones."""
        batches = 0 if state.progress is None else state.progress.batches
        name = f"{state.epoch:06d}-{batches:09d}{SUFFIX}"
        storage.write_bytes(storage.join(self.folder, name), state.to_bytes())
        for uri in self._found()[:-KEEP]:
            storage.remove(uri)

    def latest(self, say: Callable[[str], None]) -> bytes | None:
        """The newest whole checkpoint, or None; newer ones that are not whole are removed."""
        storage.remove_asides(self.folder)
        while found := self._found():
            uri = found[-1]
            try:
                data = storage.read_bytes(uri)
            except InputError:
                if not storage.exists(uri):  # the last act of a writer that was thought dead
                    continue
                raise
            if is_whole(data):
                return data
            name = uri.rpartition("/")[2]
            say(f"  checkpoint {name} is not whole ({len(data):,} bytes): left out")
            storage.remove(uri)
        return None

    def _found(self) -> list[str]:
        """URIs of the checkpoints, oldest first."""
        return storage.list_files(self.folder, (SUFFIX,))
