"""A training's history: its table as CSV text and back, and what kind of thing each column is.

A history is a row an epoch, each a mapping from a column's name to a number or a text. Columns
that are not known here are drawn all the same: whole numbers as counts, others as loss terms.
"""

import csv
import io
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

Value = float | int | str
Row = Mapping[str, Value]

ASIDE = {"epoch", "phase", "images", "seconds", "images_per_second"}
"""Columns that say where an epoch stands and how fast it was."""
COMPONENTS = "effective_components"
HELD_OUT = "held_out_"
WEIGHT = "weight_"


def to_csv(history: Sequence[Row]) -> bytes:
    """The history as CSV, a row an epoch; a column that an epoch has not is empty there."""
    text = io.StringIO()
    writer = csv.DictWriter(text, columns(history), lineterminator="\n", restval="")
    writer.writeheader()
    writer.writerows(history)
    return text.getvalue().encode()


def from_csv(text: str) -> list[dict[str, Value]]:
    """The history in CSV text; empty cells are left out.

    Raises ValueError where it is no table with a column `epoch` and rows of one length.
    """
    reader = csv.DictReader(io.StringIO(text))
    try:
        rows = list(reader)
    except csv.Error as error:
        raise ValueError(str(error)) from error
    if "epoch" not in (reader.fieldnames or ()):
        raise ValueError("wanted a column epoch in the first line")
    if any(None in row or None in row.values() for row in rows):
        raise ValueError("wanted as many cells in every row as in the first")
    return [{name: _value(cell) for name, cell in row.items() if cell != ""} for row in rows]


def columns(history: Iterable[Row]) -> list[str]:
    """All columns, in the order in which they came up."""
    return list(dict.fromkeys(name for row in history for name in row))


def series(history: Sequence[Row], name: str) -> np.ndarray:
    """A column (N,), float64; NaN where an epoch has no number."""
    values = (row.get(name) for row in history)
    return np.array([v if isinstance(v, int | float) else np.nan for v in values], np.float64)


def weights(history: Sequence[Row]) -> list[str]:
    """Columns that weigh loss terms."""
    named = [name for name in columns(history) if name.startswith(WEIGHT)]
    return [name for name in named if _any(history, name)]


def counts(history: Sequence[Row]) -> list[str]:
    """Columns of whole numbers that are not all 0: what was skipped, seeded anew, starving."""
    return [name for name in _measured(history) if _is_whole(history, name)]


def terms(history: Sequence[Row]) -> list[str]:
    """Loss terms that are not all 0, the known ones first; a held-out one is its term's."""
    known = ("loss", "reconstruction", "unit_kl", "mixture_kl")
    found = dict.fromkeys(name for name in known if _any(history, name))
    for name in _measured(history):
        if not _is_whole(history, name):
            found[name.removeprefix(HELD_OUT)] = None
    return list(found)


def words(name: str) -> str:
    """A column's name for people: "mixture KL", "held-out loss"."""
    text = name.replace(HELD_OUT, "held-out ").replace("_", " ")
    return f"{text[:-2]}KL" if text.split()[-1] == "kl" else text


def _measured(history: Sequence[Row]) -> list[str]:
    """Columns with a number other than 0 that are no weight and not aside."""
    other = {*ASIDE, "learning_rate", COMPONENTS, *weights(history)}
    return [name for name in columns(history) if name not in other and _any(history, name)]


def _any(history: Sequence[Row], name: str) -> bool:
    """Whether a column has a number other than 0."""
    return bool(np.nan_to_num(series(history, name)).any())


def _is_whole(history: Sequence[Row], name: str) -> bool:
    return all(isinstance(row[name], int) for row in history if name in row)


def _value(cell: str) -> Value:
    """The number in a cell, or its text."""
    for kind in (int, float):
        try:
            return kind(cell)
        except ValueError:
            continue
    return cell
