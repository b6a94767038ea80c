"""Images of a training: in memory where they fit, or streamed from their shards by Ray Data.

Which of the two changes no number: both have the order of training/order.py.

Legend: N rows, B rows of a shard, C bands, H W pixels.
"""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import ray.data
from numpy.typing import NDArray

from avader.errors import InputError
from avader.io import shards, storage
from avader.io.manifest import Manifest
from avader.pipelines.cluster import quieten_data
from avader.pipelines.progress import size
from avader.pipelines.training.memory import bytes_each, check_window, mask_bytes
from avader.recipe import Recipe
from avader.survey.stored import ReadPixels, pixel_reader
from avader.training.data import (
    Images,
    MemoryImages,
    Part,
    Pixels,
    Sequence,
    Share,
    held_out_rows,
    pixel_sum,
    shares,
    some_shares,
)
from avader.training.delivery import Content, Delivery, Errand
from avader.training.noise import Rows
from avader.training.order import block_edges

Batch = dict[str, NDArray[Any]]
Function = Callable[[Content], Batch]
"""Of the rows of a shard that are wanted."""

READERS = 4
"""Shards that a worker has read at once."""
AHEAD = 8
"""Shards that may wait in the object store for a worker to take them."""


def open_images(data: Manifest, recipe: Recipe, *, limit: int, world: int) -> Images:
    """The images, in memory where they take at most `limit` bytes, else streamed.

    world: workers that train together, each of which holds its part of a window of what is
    streamed. Raises InputError where that is more than the limit, and as load_images does.
    """
    wanted = data.totals["rows"] * bytes_each(data, recipe)
    if wanted <= limit:
        return load_images(data, recipe)
    return StreamedImages(data, recipe, limit=limit, world=world)


def nothing(data: Manifest, recipe: Recipe) -> Content:
    """No images: pixels (0, C, H, W) of the type stored, masks (0, H W / 8) where asked for."""
    bands, height, width = data.settings["shape"]
    kind = np.dtype(data.settings["preprocessing"]["dtype"])
    masked = recipe.outside_weight < 1
    masks = np.empty((0, mask_bytes(height, width)), np.uint8) if masked else None
    return np.empty((0, bands, height, width), kind), masks


def load_images(data: Manifest, recipe: Recipe) -> MemoryImages:
    """All images of packed cutouts as stored, with masks where the recipe asks for them.

    Raises InputError for shards that are not what the manifest lists, and pixels not finite.
    """
    none_pixels, none_masks = nothing(data, recipe)
    rows = data.totals["rows"]
    pixels: Pixels = np.empty((rows, *none_pixels.shape[1:]), none_pixels.dtype)
    masks = None if none_masks is None else np.empty((rows, *none_masks.shape[1:]), np.uint8)
    filled, read = 0, pixel_reader(data.settings)
    for part in (part for part in data.parts if part["rows"]):
        table = read_part(data.uri, part["path"], part["rows"], masked=masks is not None)
        images, bits = part_images(table, read)
        pixels[filled : filled + len(images)] = images
        if masks is not None and bits is not None:
            masks[filled : filled + len(images)] = bits
        filled += len(images)
    held_out = held_out_rows(rows, share=recipe.held_out, seed=recipe.seed)
    return MemoryImages(pixels, masks, held_out=held_out, edges=_edges(data))


def _edges(data: Manifest) -> Rows:
    """First row of each shard, and the number of rows after the last."""
    return block_edges([part["rows"] for part in data.parts])


def read_part(uri: str, path: str, rows: int, *, masked: bool) -> pa.Table:
    """A shard's images, and masks where they are asked for.

    Raises InputError where it has not as many rows as the manifest lists.
    """
    table = shards.read_part(uri, path, ["image", *(["source_mask"] if masked else [])])
    if table.num_rows != rows:
        raise InputError(
            f"wanted {rows:,} images in {path} of {storage.public_uri(uri)}, got "
            f"{table.num_rows:,}; the folder was changed after it was packed: run "
            "`avader verify`, then pack again"
        )
    return table


def part_images(table: pa.Table, read: ReadPixels) -> Content:
    """Pixels (B, C, H, W) and packed masks (B, H W / 8), where there are any, of a shard's rows.

    read: of the column of images, the pixels. Raises InputError for pixels that are not finite,
    and for stored files that can't be prepared any more.
    """
    pixels = read(table["image"])
    if pixels.dtype != np.uint8 and not np.isfinite(pixels).all():
        bad = int((~np.isfinite(pixels)).any(axis=(1, 2, 3)).sum())
        raise InputError(
            f"wanted finite pixels, got {bad} images of {len(pixels)} in a shard that are not; "
            "run `avader verify`, then pack again"
        )
    if "source_mask" not in table.column_names:
        return pixels, None
    flat = table["source_mask"].combine_chunks().flatten().to_numpy()
    return pixels, flat.reshape(len(pixels), -1)


class StreamedImages:
    """Images read from their shards as they are needed, each shard at most once in an epoch.

    Ray Data's tasks read ahead; a worker holds its rows of the window that it is in. A training
    that goes on in mid-epoch does not read the shards that are done.
    """

    def __init__(self, data: Manifest, recipe: Recipe, *, limit: int, world: int) -> None:
        """limit: bytes that a worker may hold. Raises InputError where a window takes more."""
        self.data, self.none, self.each = data, nothing(data, recipe), bytes_each(data, recipe)
        self.rows, self.edges = data.totals["rows"], _edges(data)
        self.held_out_rows = held_out_rows(self.rows, share=recipe.held_out, seed=recipe.seed)
        self.training_rows = np.setdiff1d(np.arange(self.rows), self.held_out_rows)
        self.largest = max(part["rows"] for part in data.parts)
        most = check_window(data, recipe, limit=limit, world=world)
        self.line = (
            f"{self.rows:,} images of {size(self.rows * self.each)} are more than the "
            f"{size(limit)} of a worker: streamed from {len(data.parts):,} shards, at most "
            f"{size(most)} in every worker"
        )

    @property
    def mean_pixel(self) -> float:
        """Mean of all pixels, in [0, 1]; reads all shards, and so finds what is wrong with them."""
        used = np.flatnonzero(np.diff(self.edges))
        every = [Errand(int(b), np.arange(self.edges[b + 1] - self.edges[b])) for b in used]
        total = sum(float(batch["sum"][0]) for batch in self._stream(every, _sum_of))
        return total / (self.rows * int(np.prod(self.none[0].shape[1:])))

    def parts(self, order: Sequence) -> Iterator[Part]:
        """An epoch's shares of a rank, in order."""
        return self._delivered(list(shares(self.training_rows, order, self.edges)))

    def some(self, rows: Rows, at_once: int) -> Iterator[Part]:
        """These rows, sorted, `at_once` at a time, for one rank alone."""
        return self._delivered(some_shares(rows, at_once))

    def _delivered(self, wanted: list[Share]) -> Iterator[Part]:
        return Delivery(wanted, self.edges).parts(self._read, self.none)

    def _read(self, errands: list[Errand]) -> Iterator[Content]:
        """What each errand wants, in order."""
        masked = self.none[1] is not None
        for batch in self._stream(errands, _images_of):
            yield batch["pixels"], batch["masks"] if masked else None

    def _stream(self, errands: list[Errand], function: Function) -> Iterator[Batch]:
        """What a function makes of each errand, in order, some of them ahead."""
        quieten_data()
        context = ray.data.DataContext.get_current()
        # Else what an errand gives would come in slices where it exceeds 192 MiB.
        context.target_max_block_size = None
        options = context.execution_options
        options.preserve_order = True
        options.resource_limits = ray.data.ExecutionResources(
            object_store_memory=AHEAD * self.largest * self.each
        )
        items = [
            {
                "path": self.data.parts[errand.block]["path"],
                "rows": self.data.parts[errand.block]["rows"],
                "wanted": errand.rows.astype(np.int64).tobytes(),
            }
            for errand in errands
        ]
        # No CPU is asked for: the workers of the training have them all.
        read = ray.data.from_items(items, override_num_blocks=len(items)).map_batches(
            _run_errand,
            batch_format="pyarrow",
            batch_size=None,
            fn_kwargs={
                "uri": self.data.uri,
                "masked": self.none[1] is not None,
                "read": pixel_reader(self.data.settings),
                "function": function,
            },
            compute=ray.data.TaskPoolStrategy(size=min(READERS, len(items))),
            num_cpus=0,
        )
        for batch in read.iter_batches(batch_size=None, prefetch_batches=1):
            if "problem" in batch:
                raise InputError(str(batch["problem"][0]))
            yield batch


def _run_errand(
    batch: pa.Table, *, uri: str, masked: bool, read: ReadPixels, function: Function
) -> Batch:
    """What a function makes of one shard and the rows wanted of it, or what is wrong with it.

    Told as data: Ray Data wraps what a task raises in words of its own.
    """
    (errand,) = batch.to_pylist()
    try:
        table = read_part(uri, errand["path"], errand["rows"], masked=masked)
        rows = np.frombuffer(errand["wanted"], np.int64)
        # Stored files are prepared for no row that is not wanted.
        if not np.array_equal(rows, np.arange(table.num_rows)):
            table = table.take(pa.array(rows))
        content = part_images(table, read)
    except InputError as error:
        return {"problem": np.array([str(error)])}
    return function(content)


def _images_of(content: Content) -> Batch:
    pixels, masks = content
    return {"pixels": pixels} if masks is None else {"pixels": pixels, "masks": masks}


def _sum_of(content: Content) -> Batch:
    """The sum of their pixels."""
    return {"sum": np.array([pixel_sum(content[0])])}
