"""A synthetic catalogue as shuffled batches for a training loop, from any store.

    data = avader.torch_dataset("catalogues/synthetic", batch=128, seed=1)
    for epoch in range(10):
        data.set_epoch(epoch)
        for batch in data: ...  # image uint8 (B, C, H, W), component (B,), index (B,)

Objects come from a few pieces of the catalogue at once, in an order that the seed and the epoch
decide. A recipe's images are decoded as they are asked for.

Legend: B objects of a batch, C bands, H W pixels.
"""

import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor
from torch.utils.data import IterableDataset, get_worker_info

from avader.api.catalogue import Catalogue, open_catalogue
from avader.catalogue import rows, schema
from avader.errors import InputError
from avader.io import shards
from avader.plan import ranges

MIXED = 8
"""Pieces whose objects are mixed: those of the next ones come when these are through."""
MIXED_BYTES = 256 * 2**20
"""Of the stored pixels that are mixed, at most; of one piece where that has more."""
Batch = dict[str, Tensor]


class Piece(NamedTuple):
    """Rows of a row group of a part's file, from start to before stop."""

    path: str
    group: int
    start: int
    stop: int


class Stream(IterableDataset[Batch]):
    """Batches of a synthetic catalogue: index (B,), component (B,), image (B, C, H, W) uint8.

    In a DataLoader, which is given batch_size=None, each worker makes its own share of the batches.
    Shares differ by one object at most.
    """

    def __init__(
        self,
        catalogue: Catalogue,
        *,
        batch: int,
        seed: int,
        shuffle: bool,
        share: tuple[int, int],
    ) -> None:
        """As torch_dataset takes them."""
        catalogue.check_synthetic()
        number, of = share
        if seed < 0:
            raise InputError(f"wanted a seed from 0, got {seed}")
        if batch < 1 or not 0 <= number < of:
            raise InputError(
                f"wanted batch from 1, and share as (number from 0, of so many), got {batch} and "
                f"{share}"
            )
        self.catalogue, self.batch, self.seed = catalogue, batch, seed
        self.shuffle, self.share = shuffle, share
        self.device = catalogue.remaker.device or "cpu"
        # Shared with a DataLoader's workers, which may stay from one epoch to the next.
        self._epoch = _shared(torch.zeros((), dtype=torch.int64))

    def __setstate__(self, state: dict[str, Any]) -> None:
        """As it was pickled; elsewhere than in a DataLoader's worker the epoch is its own."""
        self.__dict__.update(state)
        _shared(self._epoch)

    def set_epoch(self, epoch: int) -> None:
        """Let the next order be this epoch's."""
        self._epoch.fill_(epoch)

    def __iter__(self) -> Iterator[Batch]:
        """Every object of the share once; the last batch may be smaller."""
        waiting: list[pa.Table] = []
        for window in self._windows():
            table = pa.concat_tables([*waiting, window])
            whole = len(table) - len(table) % self.batch
            for start in range(0, whole, self.batch):
                yield self._tensors(table.slice(start, self.batch))
            waiting = [table.slice(whole)]
        for rest in waiting:
            if len(rest):
                yield self._tensors(rest)

    def _windows(self) -> Iterator[pa.Table]:
        """Objects of MIXED pieces or fewer at a time, in the epoch's order."""
        worker = get_worker_info()
        pieces, order = self._pieces(), np.random.default_rng((self.seed, int(self._epoch)))
        if self.shuffle:
            pieces = [pieces[at] for at in order.permutation(len(pieces))]
        number, of = self.share
        if worker is not None:
            number, of = number * worker.num_workers + worker.id, of * worker.num_workers
        total = sum(piece.stop - piece.start for piece in pieces)
        mine = _between(pieces, total * number // of, total * (number + 1) // of)
        step = self._mixed() if self.shuffle else 1
        for start in range(0, len(mine), step):
            table = pa.concat_tables(self._read(piece) for piece in mine[start : start + step])
            yield table.take(order.permutation(len(table))) if self.shuffle else table

    def _mixed(self) -> int:
        """Pieces of a window: fewer where pixels are stored, and many."""
        held = self.catalogue.manifest
        if held.settings.get("store", "images") != "images":
            return MIXED
        most = max((part["rows"] for part in held.parts), default=0)
        rows_of = min(held.settings["writer"]["row_group_size"], most)
        return max(1, min(MIXED, MIXED_BYTES // max(1, rows_of * math.prod(held.facts["shape"]))))

    def _pieces(self) -> list[Piece]:
        """The catalogue in pieces, in its order."""
        held = self.catalogue.manifest
        step = held.settings["writer"]["row_group_size"]
        return [
            Piece(part["path"], group, 0, stop - start)
            for part in held.parts
            for group, (start, stop) in enumerate(ranges(part["rows"], step))
        ]

    def _read(self, piece: Piece) -> pa.Table:
        """Its objects: with images as they are stored, or with what images are made from."""
        names = ["index", "component", *["image"] * self.catalogue.holds_images]
        table = shards.read_group(self.catalogue.manifest.uri, piece.path, piece.group, names)
        table = table.slice(piece.start, piece.stop - piece.start)
        if self.catalogue.holds_images:
            return table
        sky = self.catalogue.remaker.sky
        drawn = sky.drawn(table["index"].to_numpy())
        latent = drawn["latent"].shape[1]
        wanted = schema.synthetic_schema(sky.engine.image_shape, latent=latent, names=drawn)
        return rows.table(wanted, drawn)

    def _tensors(self, table: pa.Table) -> Batch:
        if self.catalogue.holds_images:
            pixels = self.catalogue.pixels(table["image"])
        else:
            drawn = {name: rows.values(table[name]) for name in table.column_names}
            pixels = self.catalogue.remaker.images(drawn)
        columns = {
            "index": rows.values(table["index"]),
            "component": rows.values(table["component"]),
        }
        return {
            name: torch.tensor(values, device=self.device)
            for name, values in {**columns, "image": pixels}.items()
        }


def _shared(value: Tensor) -> Tensor:
    """The value in memory that this process and those that it begins have together."""
    return value.share_memory_()  # type: ignore[no-untyped-call]


def _between(pieces: Sequence[Piece], first: int, stop: int) -> list[Piece]:
    """Of pieces one after another, the rows from the first to before the stop."""
    found, before = [], 0
    for piece in pieces:
        rows_of = piece.stop - piece.start
        low, high = max(first - before, 0), min(stop - before, rows_of)
        if low < high:
            found.append(piece._replace(start=piece.start + low, stop=piece.start + high))
        before += rows_of
    return found


def torch_dataset(
    catalogue: str | Catalogue,
    *,
    batch: int = 64,
    seed: int = 0,
    shuffle: bool = True,
    share: tuple[int, int] = (0, 1),
    device: str | None = None,
) -> Stream:
    """A PyTorch IterableDataset of a synthetic catalogue's batches, shuffled anew by set_epoch.

    catalogue: opened, or its URI. seed: of the order, with the epoch of set_epoch. share: (number,
    of): this process's share of the objects, such as (rank, world size); shares differ by one
    object at most, so the last batch may come to some processes alone. device: torch's name, of
    where batches are and a recipe's images are decoded; by default cpu, or what a catalogue was
    opened with. Raises InputError for a catalogue that is not synthetic.
    """
    if isinstance(catalogue, str):
        catalogue = open_catalogue(catalogue, device=device)
    elif device is not None:
        model = catalogue.remaker.model
        catalogue = Catalogue(catalogue.manifest, model=model, device=device)
    return Stream(catalogue, batch=batch, seed=seed, shuffle=shuffle, share=share)
