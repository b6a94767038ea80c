"""What a model does not reconstruct of images, and the survey's noise that is measured from it.

Images are reconstructed as `classify` does it: on the CPU, in float32, from the encoder's mean.

Legend: N rows, B rows at once, C bands, H W pixels.
"""

from collections.abc import Iterable, Iterator, Mapping
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from avader.catalogue import rows
from avader.inference.engine import Engine
from avader.io import shards
from avader.io.manifest import Manifest
from avader.recipe import Preprocessing
from avader.survey.stored import prepared
from avader.synthetic.noise import Noise, power_spectrum
from avader.training.data import Images
from avader.training.delivery import Content
from avader.training.noise import Rows
from avader.training.order import block_edges

RUNS, RUN = 20, 100
"""Runs of neighbours among the images, and images of a run: so few shards are read for them."""
AT_ONCE = 64

Measured = tuple[NDArray[np.float64], dict[str, Any]]
"""A power spectrum (C, H, W // 2 + 1), and what is to be told about it."""


def spread(count: int) -> Rows:
    """Which of so many images are measured: all up to 2,000, else 20 runs of 100, evenly spread."""
    if count <= RUNS * RUN:
        return np.arange(count)
    starts = np.arange(RUNS) * (count - RUN) // (RUNS - 1)
    return (starts[:, None] + np.arange(RUN)).ravel()


def noise_of_training(engine: Engine, images: Images, *, data: str) -> Measured:
    """The noise of images held out, or of those trained on where none are; data: their digest.

    Outside of the sources where the training has masks; NaN where nothing is left.
    """
    held_out = len(images.held_out_rows) > 0
    chosen = images.held_out_rows if held_out else images.training_rows
    parts = images.some(chosen[spread(len(chosen))], AT_ONCE)
    contents = ((part.pixels, part.masks) for part in parts)
    told = {"images_are": "held out" if held_out else "those trained on", "data": data}
    return _measured(engine, contents, told)


def noise_of_packed(
    engine: Engine, data: Manifest, prepare: Preprocessing, *, accepted: Mapping[str, Any]
) -> Measured:
    """The noise of packed cutouts, outside of the sources where they have masks.

    prepare: how the model sees them. accepted: settings of it that differ from the model's, for the
    record. NaN where nothing is left.
    """
    told: dict[str, Any] = {"images_are": "packed cutouts", "data": data.digest}
    if accepted:
        told["preprocessing_accepted"] = dict(accepted)
    return _measured(engine, _packed(data, prepare, engine.image_shape), told)


def noise_line(spectrum: NDArray[np.floating[Any]], about: Mapping[str, Any]) -> str:
    """What was measured, for people."""
    rms = ", ".join(f"{value:.4f}" for value in Noise(spectrum, tuple(about["shape"])).rms)
    return (
        f"noise of {rms} a pixel (rms), measured on {about['images']:,} images "
        f"({about['images_are']}; {about['pixels']})"
    )


def _measured(engine: Engine, contents: Iterable[Content], told: Mapping[str, Any]) -> Measured:
    count, masked = 0, False

    def residuals() -> Iterator[NDArray[np.float64]]:
        nonlocal count, masked
        for pixels, masks in contents:
            count, masked = count + len(pixels), masked or masks is not None
            yield from _residuals(engine, pixels, masks)

    spectrum = power_spectrum(residuals())
    pixels = "outside of the sources" if masked else "whole frame"
    return spectrum, {**told, "images": count, "pixels": pixels, "shape": engine.image_shape}


def _residuals(
    engine: Engine, pixels: NDArray[Any], masks: NDArray[np.uint8] | None
) -> Iterator[NDArray[np.float64]]:
    """Each image less its reconstruction (C, H, W), on the scale [0, 1]; NaN in its source."""
    scale = 255 if pixels.dtype == np.uint8 else 1
    for start in range(0, len(pixels), AT_ONCE):
        some = pixels[start : start + AT_ONCE]
        found = some.astype(np.float64) / scale - engine.decode(engine.encode(some)[0])
        if masks is not None:
            height, width = found.shape[-2:]
            bits = np.unpackbits(masks[start : start + AT_ONCE], axis=1, count=height * width)
            source = bits.reshape(-1, 1, height, width).astype(bool)
            found[np.broadcast_to(source, found.shape)] = np.nan
        yield from found


def _packed(
    data: Manifest, preprocessing: Preprocessing, shape: tuple[int, int, int]
) -> Iterator[Content]:
    """The chosen images of each shard as the model sees them, but those that it refuses."""
    edges = block_edges([part["rows"] for part in data.parts])
    chosen = spread(int(edges[-1]))
    names = ["object_id", "image", *(["source_mask"] if preprocessing.source_mask else [])]
    for part, (first, stop) in zip(data.parts, pairwise(edges.tolist()), strict=True):
        own = chosen[(chosen >= first) & (chosen < stop)] - first
        if len(own):
            table = shards.read_part(data.uri, part["path"], names).take(pa.array(own))
            cutouts = prepared(table, preprocessing, shape)[0] if data.holds_files else table
            masks = rows.values(cutouts["source_mask"]) if preprocessing.source_mask else None
            yield rows.pixels(cutouts["image"]), masks
