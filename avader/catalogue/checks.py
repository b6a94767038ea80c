"""What `verify` asks of a part: pure functions of tables, each giving the faults it found."""

import hashlib
from collections.abc import Callable

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

Faults = list[str]
# float32 probabilities of K components: each is rounded by at most 6e-8.
SUM_TOLERANCE = 1e-5


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


def limits(table: pa.Table) -> Faults:
    """Cutouts whose lower limit is not below their upper one."""
    low, high = table["limit_low"].to_numpy(), table["limit_high"].to_numpy()
    return _count(~(low < high), "cutouts whose limits are not low < high")


def ids(table: pa.Table) -> Faults:
    """Rows without an id."""
    missing = pc.or_(pc.is_null(table["object_id"]), pc.equal(table["object_id"], ""))
    return _count(missing.to_numpy(), "rows without an id")


def latents(table: pa.Table) -> Faults:
    """Synthetic rows whose latent is not finite."""
    return _count(~np.isfinite(_matrix(table, "latent")).all(axis=1), "latents that are not finite")


CHECKS: dict[str, tuple[Callable[[pa.Table], Faults], ...]] = {
    "cutouts": (ids, limits),
    "classified": (ids, probabilities, components, finite_numbers),
    "synthetic": (latents,),
}
# Columns that the checks and the count of duplicates read.
CHECKED_COLUMNS = {
    "cutouts": ("object_id", "limit_low", "limit_high"),
    "classified": (
        "object_id",
        "component",
        "probability",
        "probability_broad",
        "latent_mean",
        "latent_logvar",
        "log_likelihood",
    ),
    "synthetic": ("index", "component", "latent"),
}


def id_digests(table: pa.Table) -> NDArray[np.uint64]:
    """(N, 2) words of a 128-bit digest of each row's id."""
    raw = b"".join(
        hashlib.blake2b((name or "").encode(), digest_size=16).digest()
        for name in table["object_id"].to_pylist()
    )
    return np.frombuffer(raw, np.uint64).reshape(-1, 2)


def count_repeated(digests: NDArray[np.uint64]) -> int:
    """How many rows of (N, 2) digests repeat an earlier one."""
    return len(digests) - len(np.unique(digests, axis=0))


def _matrix(table: pa.Table, name: str) -> np.ndarray:
    """A fixed-size list column as (N, L)."""
    column = table[name].combine_chunks()
    return np.asarray(column.flatten()).reshape(len(column), column.type.list_size)


def _count(wrong: np.ndarray, what: str) -> Faults:
    number = int(np.count_nonzero(wrong))
    return [f"{number:,} {what}"] if number else []
