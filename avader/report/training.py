"""The curves of a training: one panel a loss term, with the phases marked (the paper's figure 2).

A history is a row an epoch (see history.py). N: epochs.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import cycle, groupby

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, MaxNLocator

from avader.report.figures import FAINT, INK, chart_png
from avader.report.history import (
    COMPONENTS,
    HELD_OUT,
    WEIGHT,
    Row,
    counts,
    series,
    terms,
    weights,
    words,
)

COLUMNS = 3
PANEL = (3.8, 2.4)
"""Width and height of a panel, inches."""
MARKED = 40
"""Epochs up to which each is marked by a dot."""
WIDE = 30.0
"""Ratio of greatest to least value from which an axis is logarithmic."""
KINDS = {"gamma": "#dbe7f3", "annealing": "#fbe6cf", "static": "#e4efdc"}
OTHER_KINDS = ("#eadff0", "#f3dede", "#e3e3e3")
SOFT = "#5b6875"
LETTER = 0.055
"""Width of a letter of a phase's name, inches."""
LINES = ("#1f5a94", "#c4561b", "#3f7d3a", "#7a4a93", "#8f7a1e", "#47747f")
NAMES = {
    "loss": "total loss",
    "reconstruction": "reconstruction error, sum over pixels",
    "unit_kl": "KL to the unit Gaussian, nats",
    "mixture_kl": "KL to the mixture, nats",
    "l2": "L2",
}

Draw = Callable[[Axes, Sequence[Row], str], None]


@dataclass(frozen=True)
class Span:
    """Epochs first..last, from 1, of one phase; kind and period as its name has them."""

    kind: str
    period: str
    first: float
    last: float


def curves_png(history: Sequence[Row]) -> bytes:
    """The curves of a history of at least one epoch, as PNG.

    Panels: every loss term, the weights, the learning rate, the effective number of components,
    and counts of what happened (steps skipped, components seeded anew). Held-out values are
    dashed. A term that spans more than a factor of 30 has a logarithmic axis.
    """
    panels = _panels(history)
    rows = -(-len(panels) // COLUMNS)
    width, height = COLUMNS * PANEL[0], rows * PANEL[1] + 0.4
    figure = Figure(figsize=(width, height))
    grid = figure.subplots(rows, COLUMNS, squeeze=False)
    figure.subplots_adjust(
        left=0.6 / width,
        right=1 - 0.2 / width,
        bottom=0.5 / height,
        top=1 - 0.72 / height,
        wspace=0.22,
        hspace=0.5,
    )
    found = spans(history)
    colours = kind_colours(found)
    for axes, (draw, name) in zip(grid.flat, panels, strict=False):
        draw(axes, history, name)
        _frame(axes, history)
        _mark_phases(axes, found, colours)
    for axes in grid.flat[len(panels) :]:
        axes.set_visible(False)
    _legend(figure, colours, held_out=any(HELD_OUT in name for row in history for name in row))
    return chart_png(figure)


def _panels(history: Sequence[Row]) -> list[tuple[Draw, str]]:
    """What is drawn, in order, with the column's name; without what has no numbers yet."""
    panels: list[tuple[Draw, str]] = [(_draw_term, name) for name in terms(history)]
    panels += [(_draw_weights, ""), (_draw_rate, "")]
    panels += [(_draw_components, "")] if (series(history, COMPONENTS) > 0).any() else []
    return panels + ([(_draw_counts, "")] if counts(history) else [])


def spans(history: Sequence[Row]) -> list[Span]:
    """The phases of a history, in order; rows without one belong to a phase without a name."""
    epochs = _epochs(history)
    found = []
    numbered = zip(epochs, (str(row.get("phase", "")) for row in history), strict=True)
    for name, members in groupby(numbered, key=lambda pair: pair[1]):
        within = [epoch for epoch, _ in members]
        kind, _, period = name.rpartition(" ") if name[-1:].isdigit() else (name, "", "")
        found.append(Span(kind, period, within[0], within[-1]))
    return found


def kind_colours(found: Sequence[Span]) -> dict[str, str]:
    """A pale colour for every kind of phase, in the order they come up."""
    kinds = list(dict.fromkeys(span.kind for span in found))
    others = [kind for kind in kinds if kind not in KINDS]
    colours = {kind: OTHER_KINDS[n % len(OTHER_KINDS)] for n, kind in enumerate(others)}
    return {kind: KINDS.get(kind) or colours[kind] for kind in kinds}


def _epochs(history: Sequence[Row]) -> np.ndarray:
    """Numbers (N,) of the epochs, from 1."""
    epochs = series(history, "epoch")
    return np.where(np.isfinite(epochs), epochs, np.arange(1, len(history) + 1))


def _draw_term(axes: Axes, history: Sequence[Row], name: str) -> None:
    """A loss term, and its held-out values dashed; the mixture KL where it is part of the loss."""
    values, held_out = series(history, name), series(history, HELD_OUT + name)
    if name == "mixture_kl":
        unused = series(history, WEIGHT + name) == 0
        values, held_out = (np.where(unused, np.nan, each) for each in (values, held_out))
    _line(axes, history, values, LINES[0], "training")
    _line(axes, history, held_out, LINES[1], "held out", style="--")
    _scale(axes, np.concatenate([values, held_out]))
    trained = any(name in row for row in history)
    _title(axes, NAMES.get(name, words(name if trained else HELD_OUT + name)))


def _draw_weights(axes: Axes, history: Sequence[Row], _: str) -> None:
    """The factor on every weighted loss term."""
    names = weights(history)
    for colour, name in zip(cycle(LINES), names):
        _line(axes, history, series(history, name), colour, words(name.removeprefix(WEIGHT)))
    _title(axes, "weights of the loss terms")
    if names:
        _scale(axes, np.concatenate([series(history, name) for name in names]))
        _key(axes)


def _draw_rate(axes: Axes, history: Sequence[Row], _: str) -> None:
    rate = series(history, "learning_rate")
    _line(axes, history, rate, LINES[0], "learning rate")
    _scale(axes, rate)
    _title(axes, "learning rate")


def _draw_components(axes: Axes, history: Sequence[Row], _: str) -> None:
    """The effective number of components, where there is one."""
    number = series(history, COMPONENTS)
    _line(axes, history, np.where(number > 0, number, np.nan), LINES[0], "")
    _title(axes, "effective number of components")
    axes.set_ylim(0, 1.1 * np.nanmax(number))


def _draw_counts(axes: Axes, history: Sequence[Row], _: str) -> None:
    """Counts above 0 as dots: what was skipped, seeded anew, starving in an epoch."""
    names = counts(history)
    for colour, name in zip(cycle(LINES), names):
        values = series(history, name)
        shown = np.where(values > 0, values, np.nan)
        axes.plot(_epochs(history), shown, "o", color=colour, ms=3, alpha=0.8, label=words(name))
    axes.set_ylim(0, 1.15 * max(float(np.nanmax(series(history, name))) for name in names))
    axes.yaxis.set_major_locator(MaxNLocator(integer=True, nbins=5))
    _title(axes, "counts an epoch")
    _key(axes)


def _line(
    axes: Axes,
    history: Sequence[Row],
    values: np.ndarray,
    colour: str,
    label: str,
    style: str = "-",
) -> None:
    """A curve over the epochs with a number; dots where they are few."""
    if not np.isfinite(values).any():
        return
    shown = np.where(np.isfinite(values), values, np.nan)
    few = len(history) <= MARKED
    axes.plot(
        _epochs(history),
        shown,
        style,
        color=colour,
        linewidth=1.4,
        label=label,
        marker="o" if few else None,
        markersize=3,
    )


def _scale(axes: Axes, values: np.ndarray) -> None:
    """A logarithmic axis where the values above 0 span a wide range and none is below."""
    values = values[np.isfinite(values)]
    above = values[values > 0]
    if len(above) and values.min() >= 0 and above.max() > WIDE * above.min():
        axes.set_yscale("log", nonpositive="mask")
    else:
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: number_text(value)))


def number_text(value: float) -> str:
    """A number on an axis: "15,000", "0.25", "3.2e-4"."""
    if value and abs(value) < 1e-3:
        mantissa, _, exponent = f"{value:.2e}".partition("e")
        return f"{float(mantissa):g}e{int(exponent)}"
    return f"{value:,.6g}"


def _title(axes: Axes, text: str) -> None:
    axes.set_title(text, loc="left", fontsize=9, color=INK, pad=11)


def _frame(axes: Axes, history: Sequence[Row]) -> None:
    epochs = _epochs(history)
    axes.set_xlim(epochs[0] - 0.5, epochs[-1] + 0.5)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8, steps=[1, 2, 5, 10]))
    axes.set_xlabel("epoch", fontsize=8, color=INK, labelpad=1)
    axes.tick_params(labelsize=7.5, labelcolor=INK, length=2.5, color=FAINT, which="both")
    axes.spines[:].set_color(FAINT)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color="white", linewidth=0.9)
    axes.set_axisbelow(True)


def _mark_phases(axes: Axes, found: Sequence[Span], colours: dict[str, str]) -> None:
    """Bands in the colours of the kinds of phases, their names above."""
    for span in found:
        axes.axvspan(span.first - 0.5, span.last + 0.5, color=colours[span.kind], lw=0, zorder=0)
    room = (PANEL[0] - 0.7) / (found[-1].last - found[0].first + 1)
    for centre, text in labels(found, room=room):
        axes.annotate(
            text,
            (centre, 1),
            xycoords=("data", "axes fraction"),
            xytext=(0, 2),
            textcoords="offset points",
            ha="center",
            fontsize=6.5,
            color=SOFT,
        )


def labels(found: Sequence[Span], *, room: float) -> list[tuple[float, str]]:
    """Centres, in epochs, and names of the phases; room: inches an epoch.

    Their names where all have room, else the numbers of their periods where those have.
    """
    names = [(f"{span.kind} {span.period}".strip(), span.first, span.last) for span in found]
    if not _fit(names, room):
        periods = [list(group) for _, group in groupby(found, key=lambda span: span.period)]
        names = [(each[0].period or each[0].kind, each[0].first, each[-1].last) for each in periods]
        names = [name for name in names if _fit([name], room)]
    return [((first + last) / 2, text) for text, first, last in names]


def _fit(names: Sequence[tuple[str, float, float]], room: float) -> bool:
    return all(LETTER * (len(text) + 1) <= (last - first + 1) * room for text, first, last in names)


def _key(axes: Axes) -> None:
    axes.legend(frameon=True, framealpha=0.75, edgecolor="none", fontsize=7, loc="best")


def _legend(figure: Figure, colours: dict[str, str], *, held_out: bool) -> None:
    """The kinds of phases, and which line is which."""
    handles: list[Artist] = [
        Patch(color=colour, label=kind or "training") for kind, colour in colours.items()
    ]
    if held_out:
        handles.append(Line2D([], [], color=LINES[0], label="training images"))
        handles.append(
            Line2D(
                [], [], color=LINES[1], linestyle="--", label="held-out images, all pixels alike"
            )
        )
    figure.legend(
        handles=handles, loc="upper left", ncols=len(handles), frameon=False, fontsize=8.5
    )
