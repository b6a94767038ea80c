"""The HDUs of a FITS file (FITS standard 4.0, sections 3, 4 and 7.1): headers, places of data.

astropy reads the header cards. The walk over the blocks is done here, so that sizes are checked
before any pixel is touched, a truncated file is told as such, and no extension (a mask!) is
skipped in silence.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from avader.images.checks import CutoutError, Reason
from avader.images.limits import (
    MAX_ALL_HEADER_BLOCKS,
    MAX_HDUS,
    MAX_HEADER_BLOCKS,
    Data,
    Deadline,
)

if TYPE_CHECKING:
    from astropy.io.fits import Header

BLOCK = 2880
CARD = 80
TYPES = {8: "u1", 16: ">i2", 32: ">i4", 64: ">i8", -32: ">f4", -64: ">f8"}
# No file has more bytes; a header may claim so many that the number cannot be written.
_MOST_BYTES = 2**63


@dataclass(frozen=True)
class Hdu:
    """Header and place of its data, bytes from the start of the file."""

    number: int
    header: "Header"
    start: int
    size: int

    @property
    def kind(self) -> str:
        """IMAGE for the primary; else what XTENSION says."""
        return str(self.header.get("XTENSION")).strip() if self.number else "IMAGE"

    @property
    def name(self) -> str:
        """EXTNAME, in capitals, as the standard compares it."""
        return str(self.header.get("EXTNAME", "")).strip().upper()

    @property
    def bitpix(self) -> int:
        """Type of the values: a key of TYPES."""
        bitpix = self.integer("BITPIX")
        if bitpix not in TYPES:
            raise CutoutError(
                Reason.BAD_HEADER, f"BITPIX of HDU {self.number} is {bitpix}, no FITS type"
            )
        return bitpix

    @property
    def shape(self) -> tuple[int, ...]:
        """Lengths of the axes, slowest first."""
        axes = self.integer("NAXIS")
        if axes > 999:
            raise CutoutError(Reason.BAD_HEADER, f"NAXIS of HDU {self.number} is {axes}")
        return tuple(self.integer(f"NAXIS{axis}") for axis in range(axes, 0, -1))

    def integer(self, name: str, default: int | None = None) -> int:
        """A keyword that must be an integer, negative only for BITPIX. Raises CutoutError."""
        value = self.header.get(name, default)
        if not isinstance(value, int) or isinstance(value, bool):
            raise CutoutError(
                Reason.BAD_HEADER, f"{name} of HDU {self.number}: wanted an integer, came {value!r}"
            )
        if value < 0 and name != "BITPIX":
            raise CutoutError(
                Reason.BAD_HEADER, f"{name} of HDU {self.number}: came {value}, below 0"
            )
        return value


def is_number(value: Any) -> bool:
    """Whether a card's value is a finite number."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def hdus(data: Data, deadline: Deadline) -> Iterator[Hdu]:
    """Every HDU of the file, in order; padding of zeros or blanks may follow the last."""
    offset = number = blocks = 0
    while offset < len(data) and data[offset : offset + BLOCK].strip(b"\0 "):
        deadline.check()
        if number >= MAX_HDUS:
            raise CutoutError(Reason.TOO_COMPLEX, f"wanted at most {MAX_HDUS} HDUs, came more")
        header, start = _header(data, offset=offset, number=number)
        blocks += (start - offset) // BLOCK
        if blocks > MAX_ALL_HEADER_BLOCKS:
            raise CutoutError(
                Reason.TOO_COMPLEX,
                f"wanted at most {MAX_ALL_HEADER_BLOCKS} blocks of headers, came more",
            )
        size = _data_size(Hdu(number, header, start, 0))
        if start + size > len(data):
            raise CutoutError(
                Reason.TRUNCATED,
                f"HDU {number} wants {size} bytes of data, came {max(len(data) - start, 0)}",
            )
        yield Hdu(number, header, start, size)
        offset = start + -(-size // BLOCK) * BLOCK
        number += 1


def _header(data: Data, *, offset: int, number: int) -> tuple["Header", int]:
    """The header that begins at an offset, and the offset of its data."""
    from astropy.io.fits import Header  # half a second, of every worker that reads other files

    if number and not data.startswith(b"XTENSION", offset):
        raise CutoutError(
            Reason.BAD_HEADER, f"wanted a FITS extension at byte {offset}, came something else"
        )
    stop = min(len(data), offset + MAX_HEADER_BLOCKS * BLOCK)
    for card in range(offset, stop - CARD + 1, CARD):
        if data.startswith(b"END     ", card):
            text = data[offset:card].decode("ascii", errors="replace")
            return Header.fromstring(text), offset + -(-(card + CARD - offset) // BLOCK) * BLOCK
    reason = Reason.TRUNCATED if stop == len(data) else Reason.TOO_COMPLEX
    raise CutoutError(reason, f"the header of HDU {number} has no END card")


def _data_size(hdu: Hdu) -> int:
    """Bytes of data that the header announces (FITS standard 4.0, equations 1 and 2)."""
    bitpix, shape = hdu.bitpix, hdu.shape
    if not shape:
        return 0
    if len(shape) > 1 and shape[-1] == 0 and hdu.header.get("GROUPS") is True:
        raise CutoutError(Reason.NO_FITS_IMAGE, "wanted a FITS image, came random groups")
    groups, extra = hdu.integer("GCOUNT", default=1), hdu.integer("PCOUNT", default=0)
    size = abs(bitpix) // 8 * groups * (extra + math.prod(shape))
    if size > _MOST_BYTES:
        raise CutoutError(
            Reason.BAD_HEADER, f"the sizes of HDU {hdu.number} make more bytes than a file can have"
        )
    return size
