"""The largest images that are let in, and bombs: python -m tests.fuzz.largest FIRST STOP."""

import time
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
from astropy.io import fits

from avader.images.checks import CutoutError
from avader.images.cutouts import read_cutout
from avader.images.limits import MAX_SCANS, TIME_LIMIT
from avader.recipe import Preprocessing
from tests.fuzz.work import memory, work
from tests.images.samples import add_cards, fits_bytes, hdu_bytes, jpeg, png_chunks

SIDE = 4096
MOST_MIB = 1600  # what an image takes beyond the bytes of its file
SETTINGS = Preprocessing(
    missing="median", max_missing=1.0, orientation="canonical", source_mask=True
)


def many_scans() -> bytes:
    """A progressive JPEG whose last scan comes again and again."""
    light = np.zeros((SIDE, SIDE, 3), np.uint8)
    light[::16, ::16] = 200
    data = jpeg(light, progressive=True, quality=30)
    last = data[data.rindex(b"\xff\xda") : -2]
    return data[:-2] + last * (MAX_SCANS - data.count(b"\xff\xda")) + data[-2:]


def noise() -> bytes:
    """A JPEG of noise, which is the slowest to unpack."""
    values = np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 3), np.uint8)
    return jpeg(values, quality=95)


def scaled(kind: str, **cards: str) -> bytes:
    """A FITS cube that is scaled in float64."""
    cube = np.arange(3 * SIDE * SIDE).reshape(3, SIDE, SIDE) % 1000
    return add_cards(fits_bytes(cube.astype(kind)), BSCALE="2.0", BZERO="1.0", **cards)


def bands() -> bytes:
    """Three extensions of bytes, each scaled in float64."""
    hdus = [fits.PrimaryHDU()]
    for name in "GRI":
        image = fits.ImageHDU(np.arange(SIDE * SIDE, dtype=np.uint8).reshape(SIDE, SIDE))
        image.header["EXTNAME"], image.header["BSCALE"] = name, 2.0
        hdus.append(image)
    return hdu_bytes(hdus)


def gzip_bomb() -> bytes:
    """600 MiB of zeros in 600 KB."""
    packer = zlib.compressobj(9, wbits=31)
    pieces = [packer.compress(b"SIMPLE  =")]
    pieces += [packer.compress(bytes(2**20)) for _ in range(600)]
    return b"".join([*pieces, packer.flush()])


MAKERS: list[tuple[Callable[[], bytes], str]] = [
    (many_scans, "cutout"),
    (noise, "cutout"),
    (lambda: png_chunks(SIDE, SIDE, kind=2, body=bytes((SIDE * 3 + 1) * SIDE)), "blank"),
    (lambda: png_chunks(7000, 7000, depth=16, body=bytes(14_001 * 7000)), "blank"),
    (lambda: png_chunks(50_000_000, 1, body=bytes(50_000_001)), "not_square"),
    (lambda: scaled(">f8"), "cutout"),
    (lambda: scaled(">i8", BLANK="7"), "cutout"),
    (bands, "cutout"),
    (gzip_bomb, "file_too_large"),
]


def do_largest(number: int, _: Path) -> str:
    """What becomes of one of them, in the time and memory that it may take."""
    make, wanted = MAKERS[number]
    data = make()
    settings = SETTINGS
    if make is bands:
        settings = SETTINGS.model_copy(update={"extensions": ("G", "R", "I")})
    before, begun = memory("VmRSS", reset=True), time.process_time()
    try:
        read_cutout(data, settings)
        outcome = "cutout"
    except CutoutError as error:
        outcome = str(error.reason)
    took, grown = time.process_time() - begun, memory("VmHWM") - before
    assert outcome == wanted
    assert took < TIME_LIMIT / 2, f"{took:.1f} s of CPU time"
    assert grown < MOST_MIB, f"{grown} MiB"
    return f"{number}: {outcome} in {took:.1f} s and {grown} MiB"


if __name__ == "__main__":
    work(do_largest)
