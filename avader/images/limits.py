"""How much of anything one image may have, so that none takes a machine's memory or time.

All but the time are counted before or while it is spent, so that the same file is refused on every
machine. The largest image that is let in takes 1.4 GB and 6 s of CPU time until it is prepared
(tests/fuzz/largest.py measures it); anything larger, or anything that takes a library more steps
than a cutout has, is a reject.
"""

import math
import time
from io import BytesIO

from avader.images.checks import CutoutError, Reason

# Three bands of 4096 x 4096, the largest output, are the largest input too.
MAX_VALUES = 3 * 4096 * 4096
# The largest file worth reading: the greatest image in float64, its mask and its headers.
MAX_BYTES = 10 * MAX_VALUES
# A progressive JPEG of ordinary make has about ten scans; thousands would only burn time.
MAX_SCANS = 50
# Chunks of PNG, and pieces that Pillow asks for, about three a chunk. The largest image in chunks
# of 8 KiB, which is what libpng writes, has 25,000.
MAX_CHUNKS = 100_000
MAX_READS = 4 * MAX_CHUNKS
# Blocks of gzip's own (64 KiB each) in the largest file are 8,000.
MAX_MEMBERS = 20_000
# FITS: blocks of 36 cards in one header, and in all headers of a file.
MAX_HEADER_BLOCKS = 500
MAX_ALL_HEADER_BLOCKS = 2000
MAX_HDUS = 100
# CPU seconds to decode one image. The slowest that the other limits let in takes 1.5, so that it
# is a stop for what they do not foresee, never for a slow machine.
TIME_LIMIT = 30.0

Data = bytes | bytearray
"""A file's bytes, or the contents of a gzip file."""


class Deadline:
    """The time limit of one image: CPU seconds of the thread that decodes it.

    Not the clock's, so that a busy or sleeping machine makes no rejects. It is asked between the
    steps of decoders, whose longest single step the other limits bound.
    """

    def __init__(self) -> None:
        self._end = time.thread_time() + TIME_LIMIT

    def check(self) -> None:
        """Raise CutoutError once the time is over."""
        if time.thread_time() > self._end:
            raise CutoutError(
                Reason.TIME_LIMIT, f"wanted an image that decodes in {TIME_LIMIT:g} s of CPU time"
            )


class Reader(BytesIO):
    """Bytes that Pillow reads, piece by piece, until it has asked too often or for too long."""

    def __init__(self, data: Data, deadline: Deadline) -> None:
        super().__init__(data)
        self._deadline = deadline
        self._reads = 0

    def read(self, size: int | None = -1, /) -> bytes:
        """The next bytes. Raises CutoutError where a limit is met."""
        self._reads += 1
        if self._reads > MAX_READS:
            raise CutoutError(Reason.TOO_COMPLEX, f"wanted at most {MAX_READS} pieces, came more")
        self._deadline.check()
        return super().read(size)


def check_size(shape: tuple[int, ...]) -> None:
    """Raise CutoutError where an image of this shape is larger than any cutout may be, or empty."""
    count = math.prod(shape)
    if count > MAX_VALUES:
        raise CutoutError(
            Reason.TOO_LARGE, f"wanted at most {MAX_VALUES} values, came {sides(shape)} = {count}"
        )
    if count < 1:
        raise CutoutError(Reason.WRONG_AXES, f"wanted pixels, came {sides(shape)}")


def sides(shape: tuple[int, ...]) -> str:
    """A shape for people."""
    return " x ".join(str(side) for side in shape)
