"""What can be wrong with a cutout: a closed list of reasons, and the error that carries one."""

import re
from enum import StrEnum

DETAIL_LENGTH = 300
_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")


class Reason(StrEnum):
    """Why an object is a reject; the values stand in the column `reason`."""

    UNREADABLE = "unreadable"
    NOT_AN_IMAGE = "not_an_image"
    TRUNCATED = "truncated"
    WRONG_SHAPE = "wrong_shape"
    WRONG_BANDS = "wrong_bands"
    TOO_SMALL = "too_small"
    TOO_LARGE = "too_large"
    MISSING_PIXELS = "missing_pixels"
    CONSTANT = "constant"
    DUPLICATE_ID = "duplicate_id"
    NO_ID = "no_id"
    BAD_POSITION = "bad_position"
    BAD_SCALE = "bad_scale"
    WRONG_SIZE = "wrong_size"
    OUTSIDE_FOOTPRINT = "outside_footprint"
    NOT_FINITE = "not_finite"


REASON_MEANINGS = {
    Reason.UNREADABLE: "the bytes could not be had, or they do not decode",
    Reason.NOT_AN_IMAGE: "the bytes are no PNG, JPEG or FITS image",
    Reason.TRUNCATED: "the file ends before its image does",
    Reason.WRONG_SHAPE: "the image is not square, or not one plane or a stack of planes",
    Reason.WRONG_BANDS: "the image lacks a band that the preprocessing wants",
    Reason.TOO_SMALL: "the image is smaller than the crop",
    Reason.TOO_LARGE: "the image has more pixels than any cutout may have",
    Reason.MISSING_PIXELS: "more pixels are NaN or masked than may be filled",
    Reason.CONSTANT: "every pixel has the same value, so there are no limits to stretch between",
    Reason.DUPLICATE_ID: "an object earlier in the source has the same id, and stands for it",
    Reason.NO_ID: "the id is null or empty",
    Reason.BAD_POSITION: "right ascension or declination is missing or out of range",
    Reason.BAD_SCALE: "the column that sets the cutout's scale is missing, not positive, or beyond "
    "what the survey service draws",
    Reason.WRONG_SIZE: "the survey service sent another size than it was asked for",
    Reason.OUTSIDE_FOOTPRINT: "the survey has no image of the place, or of less than half of it",
    Reason.NOT_FINITE: "the model gives no finite latent for the image",
}


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


def plain(text: str) -> str:
    """One printable line of at most 300 characters, without memory addresses."""
    line = " ".join(_ADDRESS.sub("", text).split())
    line = "".join(character if character.isprintable() else "?" for character in line)
    return line if len(line) <= DETAIL_LENGTH else line[: DETAIL_LENGTH - 3] + "..."
