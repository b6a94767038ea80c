"""What `verify` asks of the rows of a part: pure functions of tables, giving the faults found."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

Faults = list[str]
# float32 probabilities of K components: each is rounded by at most 6e-8.
SUM_TOLERANCE = 1e-5


@dataclass(frozen=True)
class RowCheck:
    """One thing asked of every row.

    name: in a word; asks: what is looked at, {} standing for the rows; columns: those it needs;
    find: a table with them -> faults.
    """

    name: str
    asks: str
    columns: tuple[str, ...]
    find: Callable[[pa.Table], Faults]

    def faults(self, table: pa.Table) -> Faults:
        """What is wrong with the rows of a table that has the columns; nulls are faults too."""
        absent = [
            f"{table[name].null_count:,} rows without {name}"
            for name in self.columns
            if table[name].null_count
        ]
        return absent or self.find(table)


def probabilities(table: pa.Table) -> Faults:
    """Rows whose probabilities, of either kind, are not within [0, 1] or whose sum is not 1."""
    faults = []
    for name in ("probability", "probability_broad"):
        values = _matrix(table, name)
        wrong = ~((values >= 0) & (values <= 1)).all(axis=1)
        wrong |= ~(np.abs(values.astype(np.float64).sum(axis=1) - 1) <= SUM_TOLERANCE)
        faults += _count(wrong, f"rows whose {name} does not sum to 1")
    return faults


def components(table: pa.Table) -> Faults:
    """Rows whose component is not the most probable one."""
    values = _matrix(table, "probability")
    component = table["component"].to_numpy()
    inside = (component >= 0) & (component < values.shape[1])
    picked = values[np.arange(len(values)), np.where(inside, component, 0)]
    wrong = ~inside | (picked < values.max(axis=1, initial=0))
    return _count(wrong, "rows whose component is not the most probable one")


def finite_numbers(table: pa.Table) -> Faults:
    """Rows with a latent or a likelihood that is not finite."""
    wrong = ~np.isfinite(_matrix(table, "latent_mean")).all(axis=1)
    wrong |= ~np.isfinite(_matrix(table, "latent_logvar")).all(axis=1)
    wrong |= ~np.isfinite(table["log_likelihood"].to_numpy())
    return _count(wrong, "rows with numbers that are not finite")


def stabilities(table: pa.Table) -> Faults:
    """Rows whose stability is not a share of 8 views, the image itself among them."""
    wrong = ~np.isin(table["stability"].to_numpy(), np.arange(1, 9) / 8)
    return _count(wrong, "rows whose stability is none of 1/8, 2/8, ... 1")


def limits(table: pa.Table) -> Faults:
    """Cutouts whose lower limit is not below their upper one."""
    low, high = table["limit_low"].to_numpy(), table["limit_high"].to_numpy()
    return _count(~(low < high), "cutouts whose limits are not low < high")


def ids(table: pa.Table) -> Faults:
    """Rows whose id is empty."""
    return _count(pc.equal(table["object_id"], "").to_numpy(), "rows without an id")


def order(table: pa.Table) -> Faults:
    """Rows before an earlier pixel's."""
    places = table["_healpix_29"].to_numpy()
    wrong = places[1:] < places[:-1]
    return _count(wrong, "rows whose _healpix_29 is less than that of the row before")


def latents(table: pa.Table) -> Faults:
    """Synthetic rows whose latent is not finite."""
    return _count(~np.isfinite(_matrix(table, "latent")).all(axis=1), "latents that are not finite")


def likelihoods(table: pa.Table) -> Faults:
    """Synthetic rows whose log-likelihood is not finite."""
    wrong = ~np.isfinite(table["log_likelihood"].to_numpy())
    return _count(wrong, "log-likelihoods that are not finite")


_IDS = RowCheck("ids", "presence in {}", ("object_id",), ids)
_CLASSIFIED = (
    _IDS,
    RowCheck(
        "probabilities",
        "sums of probability and probability_broad in {}",
        ("probability", "probability_broad"),
        probabilities,
    ),
    RowCheck(
        "components",
        "highest probability in {}",
        ("component", "probability"),
        components,
    ),
    RowCheck(
        "numbers",
        "finite latents and likelihoods in {}",
        ("latent_mean", "latent_logvar", "log_likelihood"),
        finite_numbers,
    ),
    RowCheck("stability", "shares of 8 views in {}", ("stability",), stabilities),
)
_SORTED = RowCheck("order", "_healpix_29 of {}", ("_healpix_29",), order)
# A check whose columns a folder may lack, and does, is not made.
CHECKS: dict[str, tuple[RowCheck, ...]] = {
    "cutouts": (
        _IDS,
        RowCheck("limits", "order of flux limits in {}", ("limit_low", "limit_high"), limits),
    ),
    "classified": _CLASSIFIED,
    "hats": (*_CLASSIFIED, _SORTED),
    "margin": (*_CLASSIFIED, _SORTED),
    "synthetic": (
        RowCheck("numbers", "finite latents in {}", ("latent",), latents),
        RowCheck("likelihoods", "finite log_likelihood in {}", ("log_likelihood",), likelihoods),
        _SORTED,
    ),
}


def _matrix(table: pa.Table, name: str) -> np.ndarray:
    """A fixed-size list column as (N, L)."""
    column = table[name].combine_chunks()
    return np.asarray(column.flatten()).reshape(len(column), column.type.list_size)


def _count(wrong: np.ndarray, what: str) -> Faults:
    number = int(np.count_nonzero(wrong))
    return [f"{number:,} {what}"] if number else []
