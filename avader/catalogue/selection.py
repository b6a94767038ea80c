"""Which rows of a catalogue are wanted: by id, place on the sky, component, probability.

Each is asked twice: of a part's statistics, so that what cannot hold a wanted row is not read,
and of the rows themselves.

Legend: N rows, K components.
"""

import math
from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from avader.catalogue.rows import flat_values

Mask = NDArray[np.bool_]
# Least and greatest value of each column of some rows, as Parquet's statistics give them.
Ranges = Mapping[str, tuple[object, object]]
ARCSEC = 3600.0
# Degrees that a box around a cone is larger than the cone, for rounding: near a pole the box's
# half width is an arcsine close to 1, right to 1e-6 degrees alone.
SLACK = 1e-5


@dataclass(frozen=True)
class Cone:
    """Positions within a radius of a centre, the rim included.

    ra, dec: the centre, degrees ICRS; radius: arcsec, above 0.
    """

    ra: float
    dec: float
    radius: float

    def holds(self, ra: NDArray[np.float64], dec: NDArray[np.float64]) -> Mask:
        """(N,) whether positions (N,), in degrees, are within the radius, on the great circle."""
        from astropy.coordinates import angular_separation  # it takes half a second

        centre, places = np.radians((self.ra, self.dec)), np.radians((ra, dec))
        apart = np.degrees(angular_separation(*centre, *places)) * ARCSEC
        return np.asarray(apart <= self.radius, bool)

    def may_hold(self, ra: tuple[float, float], dec: tuple[float, float]) -> bool:
        """Whether a box of positions, least and greatest in degrees, may reach into the cone.

        ra may be of any turn: -1 is 359. A box never misses the cone wrongly; it may reach into
        the cone's box and still miss the cone.
        """
        radius = self.radius / ARCSEC + SLACK
        if dec[1] < self.dec - radius or dec[0] > self.dec + radius:
            return False
        if abs(self.dec) + radius >= 90:  # a pole is inside: every right ascension
            return True
        sine = math.sin(math.radians(radius)) / math.cos(math.radians(self.dec))
        half = math.degrees(math.asin(sine)) + SLACK
        # The first whole turn at which the cone's end is not before the box's beginning.
        turns = math.ceil((ra[0] - self.ra - half) / 360)
        return self.ra - half + 360 * turns <= ra[1]


@dataclass(frozen=True)
class Selection:
    """Rows that satisfy all that is asked; nothing asked: all rows.

    ids: those wanted, of the id column's type, in order and each once; id_column: its name.
    components: numbers from 0. min_probability: least probability of the row's own component.
    """

    id_column: str
    ids: pa.Array | None = None
    cone: Cone | None = None
    components: tuple[int, ...] = ()
    min_probability: float | None = None

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the columns that it asks about."""
        return (
            *((self.id_column,) if self.ids is not None else ()),
            *(("ra", "dec") if self.cone is not None else ()),
            *(("component",) if self.components or self.min_probability is not None else ()),
            *(("probability",) if self.min_probability is not None else ()),
        )

    def mask(self, table: pa.Table) -> Mask:
        """(N,) whether each row is wanted; the table has at least `columns`."""
        wanted = np.ones(table.num_rows, bool)
        if self.ids is not None:
            wanted &= pc.is_in(table[self.id_column], value_set=self.ids).to_numpy()
        if self.cone is not None:
            wanted &= self.cone.holds(table["ra"].to_numpy(), table["dec"].to_numpy())
        if self.components:
            wanted &= np.isin(table["component"].to_numpy(), self.components)
        if self.min_probability is not None:
            # In float32, as it is stored: a row that reads 0.7 is at least 0.7.
            wanted &= _own_probability(table) >= np.float32(self.min_probability)
        return wanted

    def may_hold(self, ranges: Ranges) -> bool:
        """Whether rows within these ranges may be wanted; a column without one may hold any."""
        if self.cone is not None and {"ra", "dec"} <= ranges.keys():
            ra, dec = (_floats(ranges[name]) for name in ("ra", "dec"))
            if not self.cone.may_hold(ra, dec):
                return False
        if self.components and "component" in ranges:
            low, high = _floats(ranges["component"])
            if not any(low <= component <= high for component in self.components):
                return False
        return self._may_hold_id(ranges)

    def _may_hold_id(self, ranges: Ranges) -> bool:
        if self.ids is None or self.id_column not in ranges:
            return True
        low, high = ranges[self.id_column]
        # Python compares text by code point, which is Parquet's order of UTF-8 too.
        first = bisect_left(self.ids, low, key=lambda id_: id_.as_py())  # type: ignore[call-overload]
        return first < len(self.ids) and self.ids[first].as_py() <= high

    def __str__(self) -> str:
        """The selection in words, for people and provenance."""
        words = []
        if self.ids is not None:
            words.append(f"{len(self.ids):,} ids")
        if self.cone is not None:
            cone = self.cone
            words.append(f"within {cone.radius:g} arcsec of RA {cone.ra!r}, Dec {cone.dec!r} deg")
        if self.components:
            words.append(f"component {', '.join(map(str, self.components))}")
        if self.min_probability is not None:
            words.append(f"probability of the component at least {self.min_probability:g}")
        return "; ".join(words) or "all rows"


def _own_probability(table: pa.Table) -> NDArray[np.float32]:
    """(N,) each row's probability of its own component."""
    column = table["probability"]
    values = flat_values(column).reshape(-1, column.type.list_size)
    picked: NDArray[np.float32] = values[np.arange(len(values)), table["component"].to_numpy()]
    return picked


def _floats(span: tuple[object, object]) -> tuple[float, float]:
    low, high = span
    return float(low), float(high)  # type: ignore[arg-type]
