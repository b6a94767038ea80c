"""What a model makes of images at the end of a phase: reconstructions, residuals and samples.

Legend: n images, K rows of samples, m samples of a row, C bands, H W pixels.
"""

import io
from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from avader.report.figures import (
    INK,
    METADATA,
    display_softening,
    picture,
    residual_limit,
    residual_picture,
)

SIDE = 80
"""Least side of an image that is shown, px, reached by whole factors; the greatest is below 2 x."""
GAP = 3
MARGIN = 12
LABEL = 118
HEAD = 40
TEXT_DPI = 100

Tile = np.ndarray
Strip = tuple[str, Sequence[Tile]]


def phase_png(
    images: np.ndarray,
    reconstructions: np.ndarray,
    samples: np.ndarray,
    *,
    title: str,
    samples_title: str,
    names: Sequence[str],
) -> bytes:
    """Inputs (n, C, H, W), their reconstructions and residuals, then rows of samples, as PNG.

    samples: (K, m, C, H, W); names: of each row of samples (K,). Values in [0, 1] are shown as in
    the report, all by one stretch; those outside are clipped.
    """
    softening = display_softening(images)
    residuals = images.astype(np.float64) - reconstructions
    limit = residual_limit(residuals)
    strips: list[Strip] = [
        ("input", [picture(image, softening=softening) for image in images]),
        ("reconstruction", [picture(image, softening=softening) for image in reconstructions]),
        (f"residual, ±{limit:g}", [residual_picture(each, limit=limit) for each in residuals]),
    ]
    drawn: list[Strip] = [
        (name, [picture(image, softening=softening) for image in row])
        for name, row in zip(names, samples, strict=True)
    ]
    return _sheet([(title, strips), (samples_title, drawn)])


def _sheet(blocks: Sequence[tuple[str, Sequence[Strip]]]) -> bytes:
    """Blocks of strips, each under its heading, as one picture."""
    side = shown(blocks[0][1][0][1][0]).shape[0]
    columns = max(len(tiles) for _, strips in blocks for _, tiles in strips)
    rows = sum(len(strips) for _, strips in blocks)
    width = MARGIN + LABEL + columns * (side + GAP) + MARGIN
    height = len(blocks) * HEAD + rows * (side + GAP) + MARGIN
    canvas = np.ones((height, width, 3))
    figure = Figure(figsize=(width / TEXT_DPI, height / TEXT_DPI), dpi=TEXT_DPI)
    top = 0
    for heading, strips in blocks:
        _write(figure, MARGIN, top + HEAD / 2, heading, size=11)
        top += HEAD
        for name, tiles in strips:
            _write(figure, MARGIN, top + side / 2, name, size=8)
            for column, tile in enumerate(tiles):
                left = MARGIN + LABEL + column * (side + GAP)
                canvas[top : top + side, left : left + side] = shown(tile)
            top += side + GAP
    figure.figimage(canvas)
    out = io.BytesIO()
    figure.savefig(out, format="png", dpi=TEXT_DPI, metadata=METADATA)
    return out.getvalue()


def _write(figure: Figure, x: float, y: float, text: str, *, size: float) -> None:
    """Text whose left middle is at pixel (x, y) from the top left corner."""
    width, height = figure.get_size_inches() * TEXT_DPI
    figure.text(x / width, 1 - y / height, text, fontsize=size, color=INK, va="center")


def shown(tile: np.ndarray) -> np.ndarray:
    """Colours (H, W, 3) enlarged or reduced by a whole factor, to SIDE px and a little more.

    Enlarged by repeated pixels, reduced by their means; what a factor leaves over is cut off.
    """
    side = tile.shape[0]
    if side < SIDE:
        factor = -(-SIDE // side)
        return np.repeat(np.repeat(tile, factor, axis=0), factor, axis=1)
    factor = side // SIDE
    kept = side // factor
    cut = tile[: kept * factor, : kept * factor]
    means: np.ndarray = cut.reshape(kept, factor, kept, factor, 3).mean(axis=(1, 3))
    return means
