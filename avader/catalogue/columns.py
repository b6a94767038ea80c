"""Name, type, unit, UCD, meaning and source of every column: the one source of truth.

Legend: B images, C bands, H W pixels, D latent dimensions, K components, M = ceil(H W / 8) bytes.
Vectors are fixed_size_list, which pyarrow, pandas, polars, DuckDB and astropy all open.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntFlag

import pyarrow as pa

from avader.recipe import Preprocessing


class Flag(IntFlag):
    """Bits of the column `flags`."""

    SATURATED = 1
    TOUCHES_EDGE = 2
    MASKED_PIXELS = 4
    LOW_LIKELIHOOD = 8


FLAG_MEANINGS = {
    Flag.SATURATED: "a pixel holds the greatest value its type (or SATURATE) can hold",
    Flag.TOUCHES_EDGE: "a pixel at the rim is brighter than half of the limits' range",
    Flag.MASKED_PIXELS: "missing pixels were filled",
    Flag.LOW_LIKELIHOOD: "log_likelihood is below that of 999 in 1000 draws of the mixture",
}


@dataclass(frozen=True)
class Column:
    """One column. length: "K", "D", "CHW", "M" for vectors, empty for scalars.

    unit: a VOUnit, empty for a plain number. source: who defined it so, where somebody else did.
    also: other types that a file may have, of a vector's values or of the whole.
    """

    name: str
    type: pa.DataType
    unit: str
    ucd: str
    meaning: str
    length: str = ""
    also: tuple[pa.DataType, ...] = ()
    source: str = ""

    @property
    def definition(self) -> str:
        """Meaning and source."""
        return f"{self.meaning} ({self.source})" if self.source else self.meaning

    @property
    def kind(self) -> str:
        """Type and length, in words: float[K]."""
        return f"{self.type}[{self.length}]" if self.length else str(self.type)

    def holds(self, found: pa.DataType) -> bool:
        """Whether a file's column of this type is the one declared, whatever its length.

        Images of cutouts are tensors, of either pixel type, or files.
        """
        if isinstance(found, pa.FixedShapeTensorType):
            return self is _CUTOUT_IMAGE and found.value_type in PIXEL_TYPES.values()
        if pa.types.is_fixed_size_list(found):
            return bool(self.length) and found.value_type in (self.type, *self.also)
        return found in self.also or (not self.length and found == self.type)


PIXEL_TYPES = {"uint8": pa.uint8(), "float16": pa.float16()}
FILE_TYPE = pa.large_binary()
"""Of images that are stored as the bytes that came."""


VADE = "Jiang et al. 2016, arXiv:1611.05148"
MOMENTS = "Bertin and Arnouts 1996, A&AS 117, 393"

_OBJECT_ID = Column("object_id", pa.string(), "", "meta.id;meta.main", "the survey's own id")
_POSITION = (
    Column("ra", pa.float64(), "deg", "pos.eq.ra;meta.main", "right ascension, ICRS"),
    Column("dec", pa.float64(), "deg", "pos.eq.dec;meta.main", "declination, ICRS"),
    Column("_healpix_29", pa.int64(), "", "pos.healpix", "HEALPix pixel, order 29, nested"),
)
_FLAGS = Column("flags", pa.int32(), "", "meta.code.qual", "bits, see the table of flags")
_COMPONENT = Column(
    "component",
    pa.int16(),
    "",
    "meta.code.class",
    "number of the mixture component, from 0",
    source=VADE,
)

_ORIENTATION = (
    Column(
        "orientation_angle",
        pa.float32(),
        "deg",
        "pos.posAng",
        "of the canonical image's x axis (the major axis) on the sky, from the cutout's x axis, 0 "
        "to 180, counter-clockwise with the first row on top",
    ),
    Column(
        "orientation_flips",
        pa.uint8(),
        "",
        "meta.code",
        "bits, flips from sky to canonical, after the turn back: 1 along x, 2 along y",
    ),
)
_MASK_FRACTION = Column(
    "mask_fraction", pa.float32(), "", "stat.value", "share of pixels of the central source"
)

_CUTOUT_IMAGE = Column(
    "image",
    pa.uint8(),
    "",
    "meta.dataset;obs.image",
    "model-ready pixels, tensor [C, H, W]; or with `--store bytes` the file that came, binary",
    "CHW",
    (FILE_TYPE,),
)

CUTOUT_COLUMNS = (
    _OBJECT_ID,
    *_POSITION,
    _CUTOUT_IMAGE,
    Column(
        "limit_low", pa.float64(), "", "phot.flux;stat.min", "flux at pixel value 0, input units"
    ),
    Column(
        "limit_high", pa.float64(), "", "phot.flux;stat.max", "flux at pixel value 1, input units"
    ),
    *_ORIENTATION,
    _MASK_FRACTION,
    Column(
        "source_mask",
        pa.uint8(),
        "",
        "meta.code",
        "pixels of the central source, [H, W] flattened, 8 a byte, the first in the highest bit",
        "M",
    ),
    _FLAGS,
)
CLASSIFIED_COLUMNS = (
    _OBJECT_ID,
    *_POSITION,
    _COMPONENT,
    Column(
        "probability", pa.float32(), "", "stat.probability", "posterior of every component", "K"
    ),
    Column(
        "probability_broad",
        pa.float32(),
        "",
        "stat.probability",
        "of every component, the mixture integrated over the encoder's posterior (mean and "
        "variance) where `probability` takes its mean alone",
        "K",
    ),
    Column("entropy", pa.float32(), "", "stat.value", "entropy of `probability`, nats"),
    Column(
        "stability",
        pa.float32(),
        "",
        "stat.value",
        "share of the image's 8 flips and quarter turns with this `component`, 1/8 to 1",
    ),
    Column("latent_mean", pa.float32(), "", "stat.value;stat.mean", "encoder's mean", "D"),
    Column("latent_logvar", pa.float32(), "", "stat.variance", "encoder's log variance, nats", "D"),
    Column(
        "log_likelihood",
        pa.float32(),
        "",
        "stat.likelihood",
        "log p(z) under the mixture at the encoder's mean, nats",
    ),
    Column(
        "reconstruction_error",
        pa.float32(),
        "",
        "stat.fit.residual",
        "mean squared error per pixel, on the [0, 1] scale",
    ),
    *_ORIENTATION,
    _MASK_FRACTION,
    _FLAGS,
)
_TRUTH = (
    Column(
        "log_likelihood",
        pa.float32(),
        "",
        "stat.likelihood",
        "log p(z) of the latent under the whole mixture, nats",
        source=VADE,
    ),
    Column(
        "flux",
        pa.float32(),
        "",
        "phot.flux",
        "light of the frame: the bands' sum above its background (the median of the outermost "
        "pixels), white is 1",
        source="avader's own",
    ),
    Column(
        "centroid_x",
        pa.float32(),
        "pixel",
        "pos.cartesian.x",
        "of the light, first column is 0",
        source=MOMENTS,
    ),
    Column(
        "centroid_y",
        pa.float32(),
        "pixel",
        "pos.cartesian.y",
        "of the light, first row is 0",
        source=MOMENTS,
    ),
    Column(
        "half_light_radius",
        pa.float32(),
        "pixel",
        "phys.angSize",
        "of the circle about the centroid that holds half of all light in the frame",
        source="Graham and Driver 2005, PASA 22, 118",
    ),
    Column(
        "axis_ratio",
        pa.float32(),
        "",
        "phys.size.axisRatio",
        "minor over major axis, of the second moments of all light in the frame",
        source=MOMENTS,
    ),
    Column(
        "position_angle",
        pa.float32(),
        "deg",
        "pos.posAng",
        "of the major axis from the x axis, 0 to 180, counter-clockwise with the first row on top",
        source=MOMENTS,
    ),
    Column(
        "concentration",
        pa.float32(),
        "",
        "stat.value",
        "5 log10(r80 / r20), of circles that hold shares of all light in the frame",
        source="Conselice 2003, ApJS 147, 1, eq. 1",
    ),
    Column(
        "gini",
        pa.float32(),
        "",
        "stat.value",
        "Gini coefficient of the light within two half-light radii",
        source="Lotz et al. 2004, AJ 128, 163, eq. 6",
    ),
)
SYNTHETIC_COLUMNS = (
    Column("index", pa.int64(), "", "meta.id;meta.main", "address in the synthetic sky, from 0"),
    *_POSITION,
    _COMPONENT,
    Column(
        "latent",
        pa.float32(),
        "",
        "stat.value",
        "the latent that was drawn; of a recipe rounded to float16",
        "D",
        (pa.float16(),),
        VADE,
    ),
    *_ORIENTATION,
    *_TRUTH,
    Column(
        "image",
        pa.uint8(),
        "",
        "meta.dataset;obs.image",
        "decoded pixels, [C, H, W] flattened; or with `--store encoded` a PNG or JPEG file, binary",
        "CHW",
        (FILE_TYPE,),
    ),
)
REJECT_COLUMNS = (
    _OBJECT_ID,
    Column("unit", pa.string(), "", "meta.id.part", "unit of work that refused the object"),
    Column("reason", pa.string(), "", "meta.code.error", "one of the listed reasons"),
    Column("detail", pa.string(), "", "meta.note", "what was wrong, in words"),
)
COLUMNS = {
    "cutouts": CUTOUT_COLUMNS,
    "classified": CLASSIFIED_COLUMNS,
    "synthetic": SYNTHETIC_COLUMNS,
    "hats": CLASSIFIED_COLUMNS,
    "margin": CLASSIFIED_COLUMNS,
    "rejects": REJECT_COLUMNS,
}
RESERVED = frozenset(column.name for columns in COLUMNS.values() for column in columns)
POSITION_NAMES = tuple(column.name for column in _POSITION)
ORIENTATION_NAMES = tuple(column.name for column in _ORIENTATION)
TRUTH_NAMES = frozenset(column.name for column in _TRUTH)
# Columns that a folder may lack.
OPTIONAL = frozenset(
    {*POSITION_NAMES, *ORIENTATION_NAMES, "mask_fraction", "source_mask", "stability"}
)
_SYNTHETIC_OPTIONAL = frozenset(c.name for c in SYNTHETIC_COLUMNS) - {"index", "component"}


def optional_names(kind: str) -> frozenset[str]:
    """Names of the columns that a folder of this kind may lack."""
    return _SYNTHETIC_OPTIONAL if kind == "synthetic" else OPTIONAL


def source_names(preprocessing: Preprocessing) -> tuple[str, ...]:
    """Names of the optional cutout columns, about the central source, that settings ask for."""
    turned, masked = preprocessing.orientation == "canonical", preprocessing.source_mask
    return (
        *(ORIENTATION_NAMES if turned else ()),
        *(("mask_fraction",) if turned or masked else ()),
        *(("source_mask",) if masked else ()),
    )


def column_table(columns: Sequence[Column]) -> str:
    """The columns as a Markdown table, for the README."""
    rows = ["| column | type | unit | UCD | meaning |", "|---|---|---|---|---|"]
    for column in columns:
        cells = f"`{column.name}`", column.kind, column.unit or "-", column.ucd, column.definition
        rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows)


def flag_table() -> str:
    """The bits of `flags` as a Markdown table, for the README."""
    rows = ["| bit | name | meaning |", "|---|---|---|"]
    rows += [
        f"| {flag.value} | `{flag.name}` | {meaning} |" for flag, meaning in FLAG_MEANINGS.items()
    ]
    return "\n".join(rows)
