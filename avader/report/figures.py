"""Figures as PNG bytes: numpy arrays in, bytes out, no state kept.

Legend: C bands, H W pixels, D latent dimensions, K components, N rows. Images are (C, H, W) in
[0, 1]. Charts are drawn at twice the size they are shown at, so that they stay sharp.
"""

import io
from collections.abc import Sequence

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Normalize, to_hex
from matplotlib.figure import Figure
from matplotlib.image import imsave
from matplotlib.ticker import MaxNLocator

DOTS_PER_INCH = 200
INK = "#1b2733"
FAINT = "#c5ccd3"
SOFTENING = 0.08
METADATA = {"Software": "avader"}
_GAP = 3  # px between the panels of one picture


def component_colours(count: int) -> list[str]:
    """One colour per component, as hex: distinct up to 20, evenly spaced hues beyond."""
    if count <= 20:
        palette = mpl.colormaps["tab20"]
        return [to_hex(palette((2 * k) % 20 + (k >= 10))) for k in range(count)]
    return [to_hex(mpl.colormaps["turbo"](k / (count - 1))) for k in range(count)]


def display_softening(images: np.ndarray) -> float | None:
    """Softening of the asinh stretch for showing (N, C, H, W); None shows them as they are.

    Pixels that are linear in flux leave a galaxy's disk in the dark: they are stretched where
    fewer than 4 % of the pixels are above a quarter of the full scale.
    """
    return SOFTENING if images.size and float(np.mean(images > 0.25)) < 0.04 else None


def stretched(image: np.ndarray, *, softening: float | None) -> np.ndarray:
    """The image clipped to [0, 1], then asinh(x / s) / asinh(1 / s) where s is given."""
    clipped = np.clip(np.asarray(image, np.float64), 0, 1)
    if softening is None:
        return clipped
    curve: np.ndarray = np.arcsinh(clipped / softening) / np.arcsinh(1 / softening)
    return curve


def image_png(
    image: np.ndarray, *, softening: float | None = None, inverted: bool = False
) -> bytes:
    """A galaxy (C, H, W) as PNG: one band grey, three bands as colour, others by their mean.

    inverted shows light as dark, as on a photographic plate.
    """
    return pixels_png(picture(image, softening=softening, inverted=inverted))


def comparison_png(
    image: np.ndarray,
    reconstruction: np.ndarray,
    *,
    limit: float,
    softening: float | None = None,
) -> bytes:
    """Input, reconstruction and residual side by side; the residual from -limit to limit."""
    panels = [picture(each, softening=softening) for each in (image, reconstruction)]
    panels.append(residual_picture(image - reconstruction, limit=limit))
    gap = np.ones((panels[0].shape[0], _GAP, 3))
    return pixels_png(np.concatenate([panels[0], gap, panels[1], gap, panels[2]], axis=1))


def residual_picture(residual: np.ndarray, *, limit: float) -> np.ndarray:
    """Colours (H, W, 3) of a residual (C, H, W), mean of its bands: blue below 0, red above."""
    centred = Normalize(-limit, limit, clip=True)(np.mean(residual, axis=0))
    colours: np.ndarray = mpl.colormaps["RdBu_r"](np.asarray(centred))[..., :3]
    return colours


def residual_limit(residuals: np.ndarray) -> float:
    """A scale for residuals (N, C, H, W): their 99.5th percentile in size, in steps of 0.05."""
    if not residuals.size:
        return 0.05
    level = float(np.percentile(np.abs(residuals.mean(axis=1)), 99.5))
    return max(0.05, round(np.ceil(level / 0.05) * 0.05, 2))


def residual_bar(limit: float) -> bytes:
    """The colour bar of the residuals."""
    figure, axes = _axes(width=3.4, height=0.55)
    axes.imshow(
        np.linspace(-1, 1, 256)[None, :], cmap="RdBu_r", aspect="auto", extent=(-limit, limit, 0, 1)
    )
    axes.set_yticks([])
    axes.set_xticks([-limit, 0, limit], [f"−{limit:.2f}", "0", f"+{limit:.2f}"])
    return chart_png(figure)


def occupancy_chart(counts: np.ndarray, weights: np.ndarray) -> bytes:
    """Members (K,) of every component as bars, and the mixture's weights (K,) as marks.

    The weights are shown as the members that they would give.
    """
    count = len(counts)
    figure, axes = _axes(width=_width(count, least=5.5), height=4.0)
    positions = np.arange(count)
    expected = weights * counts.sum()
    axes.bar(positions, counts, color=component_colours(count), width=0.78)
    axes.scatter(positions, expected, marker="_", s=220, color=INK, label="mixture weight")
    for at, members, top in zip(positions, counts, np.maximum(counts, expected), strict=True):
        axes.annotate(
            f"{int(members):,}",
            (at, top),
            xytext=(0, 3),
            textcoords="offset points",
            ha="center",
            fontsize=7,
            color=INK,
        )
    axes.legend(frameon=False, fontsize=8, loc="upper right")
    axes.set(xlabel="component", ylabel="galaxies", xticks=positions, xlim=(-0.6, count - 0.4))
    axes.set_ylim(0, 1.22 * max(1.0, float(counts.max()), float(expected.max())))
    _open_frame(axes)
    return chart_png(figure)


def probability_chart(matrix: np.ndarray) -> bytes:
    """Mean probability of every component given the assigned one, (K, K) as in the paper's fig. 5.

    matrix[j, k]: mean probability of component j over the galaxies assigned to k; a column of
    NaN is a component without members, drawn grey.
    """
    count = len(matrix)
    side = _width(count, least=4.6)
    figure, axes = _axes(width=side + 0.9, height=side)
    colours = mpl.colormaps["Blues"].with_extremes(bad="#e6e8ea")
    shown = axes.imshow(matrix, cmap=colours, vmin=0, vmax=1)
    axes.set(
        xlabel="assigned component",
        ylabel="mean probability of component",
        xticks=np.arange(count),
        yticks=np.arange(count),
    )
    if count <= 24:
        _annotate(axes, matrix)
    bar = figure.colorbar(shown, ax=axes, fraction=0.046, pad=0.03)
    bar.outline.set_visible(False)
    bar.ax.tick_params(labelsize=8, labelcolor=INK, color=FAINT)
    axes.spines[:].set_visible(False)
    return chart_png(figure)


def latent_chart(
    points: np.ndarray,
    components: np.ndarray,
    means: np.ndarray,
    *,
    variance_shares: Sequence[float],
) -> bytes:
    """A map of latents: points (N, 2) coloured by component (N,), means (K, 2) as numbered discs.

    variance_shares: share of the latents' variance along each axis.
    """
    colours = component_colours(len(means))
    figure, axes = _axes(width=6.4, height=5.4)
    dots = [colours[k] for k in components]
    size = float(np.clip(2e4 / max(len(points), 1), 4, 18))
    axes.scatter(points[:, 0], points[:, 1], c=dots, s=size, alpha=0.6, linewidths=0)
    for number, (x, y) in enumerate(means):
        axes.annotate(
            str(number),
            (x, y),
            ha="center",
            va="center",
            fontsize=7.5,
            zorder=3 + number / 100,
            color=_readable_on(colours[number]),
            fontweight="bold",
            bbox={"boxstyle": "circle,pad=0.35", "fc": colours[number], "ec": "white", "lw": 1.2},
        )
    axes.update_datalim(means)
    axes.margins(0.06)
    axes.autoscale_view()
    names = [
        f"principal component {axis} ({100 * share:.0f} % of the variance)"
        for axis, share in enumerate(variance_shares, start=1)
    ]
    axes.set(xlabel=names[0], ylabel=names[1])
    _open_frame(axes)
    return chart_png(figure)


def principal_plane(latents: np.ndarray) -> tuple[np.ndarray, np.ndarray, tuple[float, float]]:
    """Centre (D,), two principal axes (2, D) and their shares of the variance, of latents (N, D).

    By singular value decomposition; an axis's sign makes its largest entry positive. With fewer
    than two dimensions of spread the missing axis is zero.
    """
    dimensions = latents.shape[1]
    if not len(latents):
        return np.zeros(dimensions), np.zeros((2, dimensions)), (0.0, 0.0)
    centre = latents.mean(axis=0)
    _, spread, axes = np.linalg.svd(latents - centre, full_matrices=False)
    plane = np.zeros((2, dimensions))
    plane[: min(2, len(axes))] = axes[:2]
    largest = np.argmax(np.abs(plane), axis=1)
    plane *= np.where(plane[[0, 1], largest] < 0, -1.0, 1.0)[:, None]
    variance = np.append(spread**2, [0.0, 0.0])
    total = variance.sum() or 1.0
    return centre, plane, (float(variance[0] / total), float(variance[1] / total))


def reject_chart(counts: dict[str, int]) -> bytes:
    """Rejects by reason, as bars, the most frequent first."""
    names = sorted(counts, key=lambda name: (-counts[name], name))
    figure, axes = _axes(width=5.5, height=0.6 + 0.32 * len(names))
    bars = axes.barh(names, [counts[name] for name in names], color="#8a4b4b", height=0.65)
    axes.bar_label(bars, [f"{counts[name]:,}" for name in names], fontsize=8, padding=3, color=INK)
    axes.invert_yaxis()
    axes.set(xlabel="rejects", xlim=(0, 1.15 * max(counts.values())))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    _open_frame(axes)
    return chart_png(figure)


def picture(image: np.ndarray, *, softening: float | None, inverted: bool = False) -> np.ndarray:
    """Colours (H, W, 3) of an image (C, H, W)."""
    shown = stretched(image, softening=softening)
    if len(shown) != 3:
        shown = np.repeat(shown.mean(axis=0, keepdims=True), 3, axis=0)
    colours: np.ndarray = np.moveaxis(1 - shown if inverted else shown, 0, -1)
    return colours


def _annotate(axes: Axes, matrix: np.ndarray) -> None:
    for (row, column), value in np.ndenumerate(matrix):
        if np.isfinite(value):
            text = f"{value:.2f}".removeprefix("0") if value < 0.995 else "1"
            colour = "white" if value > 0.55 else INK if value >= 0.005 else FAINT
            axes.text(column, row, text, ha="center", va="center", fontsize=6.5, color=colour)


def _readable_on(colour: str) -> str:
    """White or ink, whichever is easier to read on a colour."""
    red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return INK if 0.299 * red + 0.587 * green + 0.114 * blue > 150 else "white"


def _width(count: int, *, least: float) -> float:
    """Width of a chart with `count` columns, inches."""
    return float(min(max(least, 0.42 * count), 14.0))


def _axes(*, width: float, height: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.add_subplot()
    axes.tick_params(labelsize=8, colors=INK, length=2.5, color=FAINT)
    axes.xaxis.label.set(fontsize=9, color=INK)
    axes.yaxis.label.set(fontsize=9, color=INK)
    axes.spines[:].set_color(FAINT)
    return figure, axes


def _open_frame(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color="#eceff2", linewidth=0.8)
    axes.set_axisbelow(True)


def chart_png(figure: Figure) -> bytes:
    """The figure as PNG by the Agg backend."""
    out = io.BytesIO()
    figure.savefig(out, format="png", dpi=DOTS_PER_INCH, facecolor="white", metadata=METADATA)
    return out.getvalue()


def pixels_png(picture: np.ndarray) -> bytes:
    """Colours (H, W, 3) in [0, 1] as PNG, pixel by pixel."""
    out = io.BytesIO()
    levels = np.rint(255 * np.clip(picture, 0, 1)).astype(np.uint8)
    imsave(out, levels, format="png", metadata=METADATA)
    return out.getvalue()
