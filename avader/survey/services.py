"""Survey services that cut images out of the sky: what they are asked, what they should answer.

SDSS ImgCutout and the viewer of the Legacy Surveys. Pure: `client` does the asking.
"""

import math
from dataclasses import asdict, dataclass
from typing import Any, Literal
from urllib.parse import urlencode

import numpy as np
import numpy.typing as npt

from avader.images.checks import CutoutError, Reason
from avader.images.decode import Image, decode_image

Name = Literal["sdss", "legacy"]
HOMES: dict[Name, str] = {
    "sdss": "https://skyserver.sdss.org",
    "legacy": "https://www.legacysurvey.org",
}
# The survey's own pixels, arcsec.
PIXELS: dict[Name, float] = {"sdss": 0.396127, "legacy": 0.262}
LAYERS: dict[Name, str] = {"sdss": "dr17", "legacy": "ls-dr10"}
BANDS: dict[Name, str] = {"sdss": "", "legacy": "grz"}
# Arcsec/px that ImgCutout draws, both ends included; the viewer states no limits.
SCALES: dict[Name, tuple[float, float]] = {"sdss": (0.015, 60.0), "legacy": (0.0, math.inf)}
# Real cutouts have at most 0.46 of their pixels at exactly 0 (7,911 of SDSS, the edges of fields
# among them); the tile that says "outside the footprint" has 0.9.
MOST_BLANK = 0.5


@dataclass(frozen=True)
class Service:
    """A service and what it is asked for.

    layer: SDSS: the data release; Legacy Surveys: the layer. size: side, px. scale: arcsec/px, or
    with scale_column, in units of that column per px. bands: letters, for the Legacy Surveys.
    home: scheme and host, and what comes before the service's own path.
    """

    name: Name
    layer: str
    size: int
    scale: float
    scale_column: str | None
    format: Literal["jpeg", "fits"]
    bands: str
    home: str

    @property
    def content(self) -> dict[str, Any]:
        """What decides the images, for a plan: all but the address."""
        return {name: value for name, value in asdict(self).items() if name != "home"}

    @property
    def planes(self) -> int:
        """Bands of an image."""
        return 3 if self.format == "jpeg" else len(self.bands)

    @property
    def most_bytes(self) -> int:
        """More than an image as asked for can have; what comes beyond is not read."""
        return 8 * self.planes * self.size**2 + 2**20

    def scale_at(self, value: float | None) -> float:
        """Arcsec/px of an object; value: of the scale column, where there is one.

        Raises CutoutError where there is none that the service can draw.
        """
        if self.scale_column is None:
            return self.scale
        low, high = SCALES[self.name]
        if value is None or not (math.isfinite(value) and value > 0):
            raise CutoutError(
                Reason.BAD_SCALE, f"wanted a positive {self.scale_column}, got {value}"
            )
        scale = self.scale * value
        if not low <= scale <= high:
            raise CutoutError(
                Reason.BAD_SCALE,
                f"wanted {low:g} to {high:g} arcsec/px, got {scale:g} ({self.scale:g} x "
                f"{self.scale_column} = {value:g})",
            )
        return scale

    def address(self, ra: float, dec: float, scale: float) -> str:
        """The URL of a cutout; ra, dec: degrees ICRS; scale: arcsec/px."""
        place = {"ra": f"{ra % 360:.7f}", "dec": f"{dec:.7f}"}
        if self.name == "sdss":
            path = f"{self.layer}/SkyServerWS/ImgCutout/getjpeg"
            asked = {"scale": f"{scale:.8g}", "width": self.size, "height": self.size}
        else:
            path = f"viewer/{self.format}-cutout"
            asked = {"layer": self.layer, "pixscale": f"{scale:.8g}", "size": self.size}
            asked |= {"bands": self.bands}
        return f"{self.home.rstrip('/')}/{path}?{urlencode({**place, **asked})}"

    def check(self, data: bytes) -> None:
        """Raise CutoutError where an answer is not the image that was asked for.

        No image, another format, size or number of bands, or no sky in it.
        """
        wanted = b"\xff\xd8\xff" if self.format == "jpeg" else b"SIMPLE  ="
        image = decode_image(data)
        if not data.startswith(wanted):
            raise CutoutError(Reason.OTHER_FORMAT, f"wanted {self.format}, came {data[:8]!r}")
        planes, height, width = image.flux.shape
        if (height, width) != (self.size, self.size):
            raise CutoutError(
                Reason.WRONG_SIZE,
                f"asked for {self.size} x {self.size} px, came {height} x {width} px",
            )
        if planes != self.planes:
            raise CutoutError(
                Reason.WRONG_BANDS, f"asked for {self.planes} bands, came {planes} bands"
            )
        self._check_sky(image)

    def _check_sky(self, image: Image) -> None:
        """Raise CutoutError where more than half of the image is blank, in any band of FITS."""
        # Black is 0 in every band of a colour image, where one dark band alone is a colour.
        jpeg = self.format == "jpeg"
        shares = [_blank(p) for p in (image.flux.sum(0, keepdims=True) if jpeg else image.flux)]
        if max(shares) > MOST_BLANK:
            where = "" if jpeg else f" in band {self.bands[int(np.argmax(shares))]}"
            raise CutoutError(
                Reason.OUTSIDE_FOOTPRINT,
                f"{max(shares):.0%} of the pixels are blank{where}: the survey has no image there",
            )


def _blank(plane: npt.NDArray[np.float32]) -> float:
    """Share of pixels of a plane (H, W) at 0 or NaN; 1 where every pixel is the same."""
    values = plane[np.isfinite(plane)]
    if not values.size or values.min() == values.max():
        return 1.0
    return 1 - np.count_nonzero(values) / plane.size
