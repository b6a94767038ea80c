"""What can be wrong with a cutout: a closed list of reasons, and the error that carries one."""

import re
from enum import StrEnum
from typing import Self

DETAIL_LENGTH = 300
_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")


class Reason(StrEnum):
    """Why an object is a reject; the values stand in the column `reason`."""

    # The row
    NO_ID = "no_id"
    DUPLICATE_ID = "duplicate_id"
    NO_POSITION = "no_position"
    BAD_POSITION = "bad_position"
    BAD_SCALE = "bad_scale"
    # Where its image is
    NO_IMAGE = "no_image"
    BAD_PATH = "bad_path"
    NO_FILE = "no_file"
    UNREADABLE = "unreadable"
    SERVICE_REFUSED = "service_refused"
    OUTSIDE_FOOTPRINT = "outside_footprint"
    WRONG_SIZE = "wrong_size"
    # The file
    EMPTY_FILE = "empty_file"
    FILE_TOO_LARGE = "file_too_large"
    TEXT = "text"
    OTHER_FORMAT = "other_format"
    NOT_AN_IMAGE = "not_an_image"
    TRUNCATED = "truncated"
    BAD_CHECKSUM = "bad_checksum"
    CORRUPT = "corrupt"
    TOO_LARGE = "too_large"
    TOO_COMPLEX = "too_complex"
    TIME_LIMIT = "time_limit"
    OTHER_COLOURS = "other_colours"
    SEVERAL_FRAMES = "several_frames"
    # FITS
    BAD_HEADER = "bad_header"
    NO_FITS_IMAGE = "no_fits_image"
    FITS_TABLE = "fits_table"
    TILE_COMPRESSED = "tile_compressed"
    WRONG_AXES = "wrong_axes"
    BAD_SCALING = "bad_scaling"
    BAD_MASK = "bad_mask"
    # Shape and bands
    TOO_SMALL = "too_small"
    NOT_SQUARE = "not_square"
    WRONG_BANDS = "wrong_bands"
    BANDS_DIFFER = "bands_differ"
    # Pixels
    ALL_MISSING = "all_missing"
    MISSING_PIXELS = "missing_pixels"
    BLANK = "blank"
    CONSTANT = "constant"
    NO_RANGE = "no_range"
    OUTSIDE_LIMITS = "outside_limits"
    OVERFLOW = "overflow"
    NOT_FINITE = "not_finite"


REASON_MEANINGS = {
    Reason.NO_ID: "the id is null or empty",
    Reason.DUPLICATE_ID: "an object earlier in the source has the same id, and stands for it",
    Reason.NO_POSITION: "right ascension or declination is null or not finite",
    Reason.BAD_POSITION: "right ascension or declination is out of range",
    Reason.BAD_SCALE: "the column that sets the cutout's scale is missing, not positive, or beyond "
    "what the survey service draws",
    Reason.NO_IMAGE: "the row's image, or its path, is null or empty",
    Reason.BAD_PATH: "the image's path is not relative to the table's folder, or no file name",
    Reason.NO_FILE: "there is no file at the image's path",
    Reason.UNREADABLE: "the file is there but cannot be read: permission, a folder, a broken disk",
    Reason.SERVICE_REFUSED: "the survey service answered for this object with an error",
    Reason.OUTSIDE_FOOTPRINT: "the survey has no image of the place, or of less than half of it",
    Reason.WRONG_SIZE: "the survey service sent another size than it was asked for",
    Reason.EMPTY_FILE: "the file has no bytes",
    Reason.FILE_TOO_LARGE: "the file, or what a gzip file holds, has more bytes than any cutout",
    Reason.TEXT: "the file is text, perhaps an error message or a web page saved as an image",
    Reason.OTHER_FORMAT: "a known format, but not PNG, JPEG or FITS, or not the one asked for",
    Reason.NOT_AN_IMAGE: "the bytes are of no known format",
    Reason.TRUNCATED: "the file ends before its image does",
    Reason.BAD_CHECKSUM: "a checksum in the file does not fit its bytes: they were changed",
    Reason.CORRUPT: "the file is whole, but its image does not decode",
    Reason.TOO_LARGE: "the image has more pixels than any cutout may have",
    Reason.TOO_COMPLEX: "more scans, chunks, header cards or HDUs than any cutout has",
    Reason.TIME_LIMIT: "decoding took longer than any cutout takes",
    Reason.OTHER_COLOURS: "inks (CMYK), or 16-bit colours in PNG, which are not read",
    Reason.SEVERAL_FRAMES: "the file is an animation or several pictures, and none is the image",
    Reason.BAD_HEADER: "a FITS header lacks a mandatory keyword, or has one that is not valid",
    Reason.NO_FITS_IMAGE: "the FITS file has no image with data",
    Reason.FITS_TABLE: "the FITS file holds tables and no image",
    Reason.TILE_COMPRESSED: "the FITS image is tile-compressed: unpack it with funpack",
    Reason.WRONG_AXES: "the FITS image is not one plane (H, W) or a stack of planes (C, H, W)",
    Reason.BAD_SCALING: "BSCALE, BZERO or BLANK of the FITS image is not valid",
    Reason.BAD_MASK: "the FITS extension MASK is no image, or of another shape than the image",
    Reason.TOO_SMALL: "the image is smaller than the crop",
    Reason.NOT_SQUARE: "the image is not square, and no crop is asked for",
    Reason.WRONG_BANDS: "the image lacks a band that the preprocessing wants, or has others",
    Reason.BANDS_DIFFER: "the FITS extensions that hold the bands differ in shape",
    Reason.ALL_MISSING: "every pixel is NaN or masked",
    Reason.MISSING_PIXELS: "more pixels are NaN or masked than may be filled",
    Reason.BLANK: "every pixel is 0: nothing was drawn or observed there",
    Reason.CONSTANT: "every pixel of a band has the same value, in all bands",
    Reason.NO_RANGE: "the limits of the stretch are equal, though pixels differ",
    Reason.OUTSIDE_LIMITS: "all flux is on one side of the fixed limits",
    Reason.OVERFLOW: "weights or kernel take the flux beyond float32",
    Reason.NOT_FINITE: "the model gives no finite latent for the image",
}


def reason_table() -> str:
    """The reasons and their meanings as a table in Markdown."""
    rows = [f"| `{reason}` | {meaning} |" for reason, meaning in REASON_MEANINGS.items()]
    return "\n".join(["| reason | meaning |", "|---|---|", *rows])


class CutoutError(Exception):
    """A cutout that cannot be used: a reject with its reason, never a stop.

    reason: one of the closed list; detail: one plain line, what was wanted and what came. The
    detail is the same in every run, so that rejects are too.
    """

    def __init__(self, reason: Reason, detail: str) -> None:
        self.reason = reason
        self.detail = plain(detail)
        super().__init__(reason, self.detail)

    def __str__(self) -> str:
        return f"{self.reason}: {self.detail}"

    @classmethod
    def parse(cls, text: str) -> Self:
        """The error whose text this is."""
        reason, _, detail = text.partition(": ")
        return cls(Reason(reason), detail)


def plain(text: str) -> str:
    """One printable line of at most 300 characters, without memory addresses."""
    line = " ".join(_ADDRESS.sub("", text).split())
    line = "".join(character if character.isprintable() else "?" for character in line)
    return line if len(line) <= DETAIL_LENGTH else line[: DETAIL_LENGTH - 3] + "..."
