"""Cutouts as a data set's shards hold them: as model-ready pixels, or as the bytes that came.

Bytes are prepared when they are read, so that models with other preprocessing, or with bands or
framing that nobody has thought of yet, see the same survey without packing it again.

Legend: N cutouts, C bands, H W pixels.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from avader.catalogue import rows, schema
from avader.catalogue.columns import FILE_TYPE, Flag, source_names
from avader.errors import InputError
from avader.images.checks import CutoutError, Reason
from avader.images.cutouts import Cutout, read_cutout
from avader.recipe import Preprocessing

Shape = tuple[int, int, int]
Pixels = NDArray[np.uint8] | NDArray[np.float16]
ReadPixels = Callable[[pa.ChunkedArray], Pixels]
AT_ONCE = 64
"""Images that are turned into Python's bytes together."""


def stored_as_bytes(images: pa.DataType) -> bool:
    """Whether a column of images of this type holds files, not pixels."""
    return images == FILE_TYPE


def checked_cutout(data: bytes, preprocessing: Preprocessing, shape: Shape) -> Cutout:
    """The cutout in a file. Raises CutoutError with what is wrong with it, as a wrong shape."""
    cutout = read_cutout(data, preprocessing)
    if cutout.pixels.shape != shape:
        raise CutoutError(
            Reason.WRONG_BANDS, f"wanted {shape[0]} bands, got {cutout.pixels.shape[0]}"
        )
    return cutout


def pixel_reader(settings: Mapping[str, Any]) -> ReadPixels:
    """`pixels_of` for the data set of these plan settings."""
    preprocessing = Preprocessing(**settings["preprocessing"])
    return partial(pixels_of, preprocessing=preprocessing, shape=tuple(settings["shape"]))


def pixels_of(images: pa.ChunkedArray, preprocessing: Preprocessing, shape: Shape) -> Pixels:
    """Pixels (N, C, H, W) of a shard's images, stored either way; shape: (C, H, W).

    preprocessing: that of the data set, which every one of its files stood when it was packed.
    Raises InputError where one no longer does.
    """
    if not stored_as_bytes(images.type):
        return rows.pixels(images)
    pixels = np.empty((len(images), *shape), preprocessing.dtype)
    for number, image in enumerate(_files(images)):
        try:
            pixels[number] = checked_cutout(image, preprocessing, shape).pixels
        except CutoutError as error:
            raise InputError(
                f"wanted stored images that can be prepared as when they were packed, got {error}; "
                "run `avader verify`, then pack again"
            ) from error
    return pixels


def prepared(
    table: pa.Table, preprocessing: Preprocessing, shape: Shape
) -> tuple[pa.Table, list[rows.Reject]]:
    """A shard of files as one of model-ready pixels, and what this preprocessing refuses of it.

    shape: (C, H, W) of the pixels. Columns that preprocessing decides are made anew.
    """
    kept, cutouts, rejects = list[int](), list[Cutout](), list[rows.Reject]()
    names = table["object_id"].to_pylist()
    for number, image in enumerate(_files(table["image"])):
        try:
            cutouts.append(checked_cutout(image, preprocessing, shape))
            kept.append(number)
        except CutoutError as error:
            rejects.append(rows.Reject(names[number], error.reason, error.detail))
    wanted = schema.cutout_schema(
        shape,
        dtype=preprocessing.dtype,
        positions="ra" in table.column_names,
        optional=source_names(preprocessing),
        carried=schema.carried_fields(table.schema),
    )
    columns = image_columns(cutouts, wanted)
    columns["image"] = stacked([cutout.pixels for cutout in cutouts], wanted)
    # Typed, since pyarrow takes an empty plain list for one of nulls.
    light = table.drop_columns(["image"]).take(pa.array(kept, pa.int64()))
    return rows.table(wanted, {**_by_name(light), **columns}), rejects


def image_columns(cutouts: Sequence[Cutout], wanted: pa.Schema) -> dict[str, NDArray[Any]]:
    """The columns about cutouts that are made with their pixels, but for these."""
    turns = [cutout.orientation for cutout in cutouts if cutout.orientation is not None]
    masks = [cutout.source for cutout in cutouts if cutout.source is not None]
    columns: dict[str, NDArray[Any]] = {
        "limit_low": np.array([cutout.low for cutout in cutouts], np.float64),
        "limit_high": np.array([cutout.high for cutout in cutouts], np.float64),
        "flags": np.array([_flags(cutout) for cutout in cutouts], np.int32),
        "orientation_angle": np.array([turn.angle for turn in turns], np.float32),
        "orientation_flips": np.array([turn.flips for turn in turns], np.uint8),
        "mask_fraction": np.array([mask.mean() for mask in masks], np.float32),
    }
    if "source_mask" in wanted.names:
        packed = [np.packbits(mask) for mask in masks]
        length = wanted.field("source_mask").type.list_size
        columns["source_mask"] = np.array(packed, np.uint8).reshape(len(masks), length)
    return columns


def stacked(pixels: Sequence[NDArray[Any]], wanted: pa.Schema) -> NDArray[Any]:
    """Pixels (C, H, W) of cutouts as (N, C, H, W); of N = 0 too, by the schema."""
    return (
        np.stack(pixels) if pixels else np.zeros((0, *wanted.field("image").type.shape), np.uint8)
    )


def _files(images: pa.ChunkedArray) -> Iterator[bytes]:
    """The bytes of each image, few at a time."""
    for chunk in images.chunks:
        for start in range(0, len(chunk), AT_ONCE):
            yield from chunk.slice(start, AT_ONCE).to_pylist()


def _by_name(table: pa.Table) -> dict[str, pa.ChunkedArray]:
    return dict(zip(table.column_names, table.columns, strict=True))


def _flags(cutout: Cutout) -> int:
    return (
        cutout.saturated * Flag.SATURATED
        | cutout.touches_edge * Flag.TOUCHES_EDGE
        | cutout.masked * Flag.MASKED_PIXELS
    )
