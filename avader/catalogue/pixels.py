"""Positions on the sky as HEALPix pixels."""

import numpy as np
from astropy.coordinates import Latitude, Longitude
from cdshealpix.nested import lonlat_to_healpix

SPATIAL_ORDER = 29


def healpix_29(ra: np.ndarray, dec: np.ndarray) -> np.ndarray:
    """HEALPix pixel of order 29, nested, of each position.

    ra, dec: (N,) float64, degrees ICRS, finite, dec within -90..90. Returns (N,) int64.
    """
    if len(ra) == 0:
        return np.zeros(0, np.int64)
    longitude, latitude = Longitude(ra, unit="deg"), Latitude(dec, unit="deg")
    return np.asarray(lonlat_to_healpix(longitude, latitude, SPATIAL_ORDER)).astype(np.int64)


def position_problem(ra: float | None, dec: float | None) -> str | None:
    """What is wrong with a position, or None."""
    if ra is None or dec is None or not (np.isfinite(ra) and np.isfinite(dec)):
        return f"wanted finite ra and dec in degrees, got {ra} and {dec}"
    if not (-360 <= ra <= 360 and -90 <= dec <= 90):
        return f"wanted ra in -360..360 and dec in -90..90 degrees, got {ra} and {dec}"
    return None
