"""The mock survey's files: FITS and PNG cutouts, the broken ones, and the rows of its table.

Both formats hold the same array, first row first, in counts of one detector that saturates: FITS
above the sky, float32; PNG as the detector read them, 16 bits, with the pedestal still in. So the
default limits, each image's least and greatest value, make them alike.
"""

from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

import numpy as np
import pyarrow as pa

from avader.images.encode import encode_fits, encode_png
from avader.survey.mock import STAMP, Galaxy, draw_galaxy, draw_image

BROKEN = ("truncated", "missing_pixels", "constant", "text", "not_square", "empty_file")
PEDESTAL = 1000.0  # counts that the detector adds
CEILING = 65535.0  # greatest count that the detector reads
ARCSEC = 0.4  # arcseconds per unit of length, so a stamp is 25.6 arcsec wide
LENGTHS = ("half_light_radius", "psf_fwhm")
TRUTH = pa.schema(
    [
        pa.field(name, kind, metadata={"unit": unit, "description": meaning})
        for name, kind, unit, meaning in (
            ("kind", pa.string(), "-", "elliptical, lenticular, spiral or edge_on"),
            ("flux", pa.float64(), "adu", "of the galaxy, without companion and background"),
            (
                "half_light_radius",
                pa.float64(),
                "pixel",
                "before the PSF: of an elliptical and of a lenticular's disk that of the circle of "
                "their ellipse's area, of other disks along the major axis; a bulge beside a disk "
                "has 0.3 of it",
            ),
            (
                "axis_ratio",
                pa.float64(),
                "-",
                "minor over major axis, of a disk as it is inclined; of edge_on scale height over "
                "scale length",
            ),
            (
                "position_angle",
                pa.float64(),
                "deg",
                "of the major axis, from the x axis towards later rows: clockwise with the first "
                "row on top",
            ),
            ("bulge_fraction", pa.float64(), "-", "of the flux"),
            ("arms", pa.int32(), "-", "number of spiral arms"),
            ("arm_strength", pa.float64(), "-", "of the arms over the disk, 0 to 1"),
            ("pitch", pa.float64(), "deg", "pitch angle of the arms"),
            ("winding", pa.int32(), "-", "1 or -1, the sense in which the arms are wound"),
            ("bar", pa.float64(), "-", "strength of the bar, 0 for none"),
            ("companion", pa.bool_(), "-", "whether a companion lies beside the galaxy"),
            ("psf_fwhm", pa.float64(), "pixel", "full width of the PSF at half maximum"),
        )
    ]
)
SCHEMA = pa.schema(
    [
        pa.field("object_id", pa.string()),
        pa.field("image", pa.string()),
        pa.field("ra", pa.float64()),
        pa.field("dec", pa.float64()),
        *(field.with_name(f"truth_{field.name}") for field in TRUTH),
        pa.field("truth_broken", pa.string()),
    ]
)


def object_id(index: int) -> str:
    """The id of galaxy `index`."""
    return f"mock-{index:08d}"


def broken_kind(index: int, *, broken: int) -> str:
    """How cutout `index` is broken, "" if it is not: 1, 3, 5, ... are, until there are enough."""
    turn = index // 2
    return BROKEN[turn % len(BROKEN)] if index % 2 and turn < broken else ""


def image_path(index: int) -> str:
    """The cutout's path below the survey's folder; half are FITS, half PNG."""
    return f"cutouts/{object_id(index)}.{'fits' if index // 2 % 2 else 'png'}"


def make_cutout(seed: int, index: int, *, size: int, broken: int) -> tuple[dict[str, Any], bytes]:
    """The table's row and the file's bytes of galaxy `index`; size is in px."""
    galaxy = draw_galaxy(seed, index)
    kind = broken_kind(index, broken=broken)
    counts = draw_image(galaxy, seed=seed, index=index, size=size)
    counts = _broken_counts(np.minimum(counts, CEILING - PEDESTAL), kind=kind)
    if image_path(index).endswith(".fits"):
        data = encode_fits(counts, header=_header(galaxy, index=index, shape=counts.shape))
    else:
        data = encode_png(np.clip(np.rint(counts + PEDESTAL), 0, CEILING).astype(np.uint16))
    return _row(galaxy, index=index, size=size, kind=kind), _broken_bytes(data, kind=kind)


def survey_table(rows: Iterable[dict[str, Any]], *, settings: str) -> pa.Table:
    """The survey's table; settings is a text kept in its metadata."""
    schema = SCHEMA.with_metadata({"avader.simulate": settings})
    return pa.Table.from_pylist(list(rows), schema=schema)


def _row(galaxy: Galaxy, *, index: int, size: int, kind: str) -> dict[str, Any]:
    """The table's row: lengths in px, angles in degrees, fluxes in counts."""
    truth = asdict(galaxy)
    for name in LENGTHS:
        truth[name] *= size / STAMP
    # The stamp's pixels are smaller or larger, its total flux is the same.
    row = {f"truth_{name}": truth[name] for name in TRUTH.names}
    position = {"ra": galaxy.ra, "dec": galaxy.dec}
    named = {"object_id": object_id(index), "image": image_path(index), "truth_broken": kind}
    return named | position | row


def _header(galaxy: Galaxy, *, index: int, shape: tuple[int, ...]) -> dict[str, str | float]:
    """Header cards: unit, saturation and a tangent-plane WCS, RA growing to the left."""
    height, width = shape
    step = ARCSEC * STAMP / max(shape) / 3600
    return {
        "OBJECT": object_id(index),
        "BUNIT": "adu",
        "SATURATE": CEILING - PEDESTAL,
        "RADESYS": "ICRS",
        "CTYPE1": "RA---TAN",
        "CTYPE2": "DEC--TAN",
        "CUNIT1": "deg",
        "CUNIT2": "deg",
        "CRPIX1": (width + 1) / 2,
        "CRPIX2": (height + 1) / 2,
        "CRVAL1": galaxy.ra,
        "CRVAL2": galaxy.dec,
        "CDELT1": -step,
        "CDELT2": step,
    }


def _broken_counts(counts: np.ndarray, *, kind: str) -> np.ndarray:
    """Counts as they are after what may go wrong on the way into a file."""
    size = len(counts)
    if kind == "missing_pixels":
        counts = counts.copy()
        counts[: size // 2, : size // 2] = np.nan
    elif kind == "constant":
        counts = np.ones_like(counts)
    elif kind == "not_square":
        counts = counts[:, : size // 2]
    return counts


def _broken_bytes(data: bytes, *, kind: str) -> bytes:
    """A file's bytes after what may go wrong with files."""
    if kind == "truncated":
        return data[: len(data) // 2]
    if kind == "text":
        return b"<html><body>503 Service Unavailable</body></html>\n"
    return b"" if kind == "empty_file" else data
