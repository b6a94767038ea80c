"""Bad cutouts of every kind: a row of a table, what it is refused for, and a piece of the words."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
from astropy.io import fits
from PIL import Image as Pillow

from avader.images.checks import Reason
from tests.images.samples import (
    add_cards,
    card,
    colour,
    fits_bytes,
    grey,
    gzipped,
    hdu_bytes,
    jpeg,
    pillow_bytes,
    png,
    png_chunk,
    png_chunks,
)


class Kind(NamedTuple):
    """A bad row. image: bytes, or a path in a table of paths (folder.png is a folder there).

    row: further columns. settings: of the preprocessing, beside a size of 16 px. good: an image
    that is good with these settings.
    """

    reason: Reason
    words: str
    image: bytes | str | None
    row: Mapping[str, Any] = MappingProxyType({})
    settings: Mapping[str, Any] = MappingProxyType({})
    good: bytes = png(grey(128))


PNG, JPEG, FITS = png(grey()), jpeg(colour(64)), fits_bytes(grey())
GZIP = gzipped(FITS)
PIXELS = PNG.index(b"IDAT") + 4  # where the compressed pixels of the PNG begin
FILL = {"missing": "median", "max_missing": 0.1}


def changed(data: bytes, at: int, piece: bytes) -> bytes:
    """Data with a piece of it overwritten."""
    at %= len(data)
    return data[:at] + piece + data[at + len(piece) :]


def rows() -> dict[str, Kind]:
    """Rows whose id, position or path is bad; their images are good where they have one."""
    return {
        "null id": Kind(Reason.NO_ID, "wanted an id", PNG, {"object_id": None}),
        "empty id": Kind(Reason.NO_ID, "wanted an id", PNG, {"object_id": ""}),
        "null ra": Kind(Reason.NO_POSITION, "got None", PNG, {"ra": None}),
        "NaN dec": Kind(Reason.NO_POSITION, "and nan", PNG, {"dec": np.nan}),
        "dec of 95": Kind(Reason.BAD_POSITION, "95", PNG, {"dec": 95.0}),
        "ra in milliarcsec": Kind(Reason.BAD_POSITION, "36000", PNG, {"ra": 36000.0}),
        "null image": Kind(Reason.NO_IMAGE, "the image is null", None),
        "empty path": Kind(Reason.NO_IMAGE, "path of the image", ""),
        "path to nothing": Kind(Reason.NO_FILE, "gone.png: no such file", "gone.png"),
        "path from the root": Kind(Reason.BAD_PATH, "relative to the table", "/etc/x.png"),
        "path to a bucket": Kind(Reason.BAD_PATH, "came s3://b/x.png", "s3://b/x.png"),
        "path with a null": Kind(Reason.BAD_PATH, "cannot read nul?", "nul\0.png"),
        "path too long": Kind(Reason.BAD_PATH, "name too long", "x" * 260),
        "path to a folder": Kind(Reason.UNREADABLE, "Is a directory", "folder.png"),
    }


def files() -> dict[str, Kind]:
    """Bytes that are no whole image of a format that is read."""
    page = b"<html>503 busy</html>"
    return {
        "empty file": Kind(Reason.EMPTY_FILE, "an empty file", b""),
        "empty gzip": Kind(Reason.EMPTY_FILE, "an empty file", gzipped(b"")),
        "web page": Kind(Reason.TEXT, "503 busy", page),
        "words": Kind(Reason.TEXT, "text of 19 bytes", "Überhaupt kein B".encode() + b"\r\n"),
        "gzip of text": Kind(Reason.TEXT, "hello", gzipped(b"hello")),
        "gif": Kind(Reason.OTHER_FORMAT, "came GIF", b"GIF89a" + bytes(40)),
        "tiff": Kind(Reason.OTHER_FORMAT, "came TIFF", pillow_bytes(grey(), "TIFF")),
        "zeros": Kind(Reason.NOT_AN_IMAGE, "5000 bytes", bytes(5000)),
        "jpeg cut in pixels": Kind(Reason.TRUNCATED, "JPEG", JPEG[: len(JPEG) * 2 // 3]),
        "jpeg cut in header": Kind(Reason.TRUNCATED, "JPEG", JPEG[:30]),
        "png cut in pixels": Kind(Reason.TRUNCATED, "PNG", PNG[:400]),
        "png cut in header": Kind(Reason.TRUNCATED, "PNG", PNG[:20]),
        "gzip cut": Kind(Reason.TRUNCATED, "gzip", GZIP[:-200]),
        "fits cut in pixels": Kind(Reason.TRUNCATED, "wants 1024 bytes", FITS[:-3000]),
        "fits cut in header": Kind(Reason.TRUNCATED, "no END", FITS[:300]),
        "fits that claims too much": Kind(
            Reason.TRUNCATED, "came 2880", card(FITS, "NAXIS1", "99999999999999999")
        ),
        "fits with a cut mask": Kind(
            Reason.TRUNCATED, "HDU 1", fits_bytes(grey(), mask=grey())[:-2000]
        ),
        "png with a changed pixel": Kind(
            Reason.BAD_CHECKSUM, "chunk IDAT", changed(PNG, PIXELS + 100, b"\0\0")
        ),
        "png of another width": Kind(Reason.BAD_CHECKSUM, "chunk IHDR", changed(PNG, 19, b"!")),
        "gzip with a changed checksum": Kind(
            Reason.BAD_CHECKSUM, "incorrect data check", changed(GZIP, -8, b"\0\0\0\0")
        ),
        "gzip corrupt": Kind(Reason.CORRUPT, "gzip", GZIP[:12] + bytes(400)),
        "png without pixels": Kind(Reason.CORRUPT, "PNG", png_chunks(32, 32)),
        "png of no width": Kind(Reason.CORRUPT, "PNG", png_chunks(0, 32)),
        "png of rubbish": Kind(
            Reason.CORRUPT, "PNG", png_chunks(32, 32, packed=b"no deflate at all" * 9)
        ),
        "jpeg of rubbish": Kind(Reason.CORRUPT, "JPEG", JPEG[:40] + bytes(500) + JPEG[-2:]),
    }


def containers() -> dict[str, Kind]:
    """Images that are too much, or of a sort that is not read."""
    scans = JPEG[:-2] + b"\xff\xda" * 200 + JPEG[-2:]
    head = PNG[:33]
    chunks = head + png_chunk(b"tEXt", b"a\0b") * 100_001 + PNG[33:]
    frames = pillow_bytes(grey(), "PNG", save_all=True, append_images=[Pillow.new("L", (32, 32))])
    header = FITS[:2880]
    hdus = [fits.PrimaryHDU(), *[fits.ImageHDU() for _ in range(100)]]
    endless = (
        header.replace(b"END".ljust(80), b"COMMENT".ljust(80)) + b"COMMENT ".ljust(80) * 36 * 500
    )
    return {
        "jpeg of 200 scans": Kind(Reason.TOO_COMPLEX, "scans", scans),
        "png of 100,000 chunks": Kind(Reason.TOO_COMPLEX, "chunks", chunks),
        "fits of 101 HDUs": Kind(Reason.TOO_COMPLEX, "HDUs", hdu_bytes(hdus)),
        "fits of 18,000 cards": Kind(Reason.TOO_COMPLEX, "no END", endless),
        "gzip of 20,000 members": Kind(Reason.TOO_COMPLEX, "members", gzipped(b"") * 20_001),
        "png bomb": Kind(Reason.TOO_LARGE, "", png_chunks(60_000, 60_000)),
        "png of 100 million pixels": Kind(Reason.TOO_LARGE, "10000", png_chunks(10_000, 10_000)),
        "jpeg of inks": Kind(Reason.OTHER_COLOURS, "CMYK", jpeg(colour(), mode="CMYK")),
        "png of 16-bit colour": Kind(
            Reason.OTHER_COLOURS, "16-bit", png_chunks(2, 1, depth=16, kind=2, body=bytes(13))
        ),
        "png of two frames": Kind(Reason.SEVERAL_FRAMES, "2 frames", frames),
    }


def fits_files() -> dict[str, Kind]:
    """FITS files of the wrong contents."""
    cube = np.zeros((2, 3, 4, 5), "f4")
    table = fits.BinTableHDU.from_columns([fits.Column("x", "J", array=[1])])
    packed = [fits.PrimaryHDU(), fits.CompImageHDU(grey().astype("i2"))]
    groups = add_cards(card(card(FITS, "NAXIS1", "0"), "SIMPLE", "T"), GROUPS="T", PCOUNT="1")
    bands = [
        fits.PrimaryHDU(),
        fits.ImageHDU(grey(), name="G"),
        fits.ImageHDU(grey(16), name="R"),
        fits.BinTableHDU(table.data, name="I"),
    ]
    images = [fits.ImageHDU(grey(seed=n), name=name) for n, name in enumerate("GRIZ")]
    several = hdu_bytes([fits.PrimaryHDU(), *images])
    masked = [fits.PrimaryHDU(grey()), fits.BinTableHDU(table.data, name="MASK")]
    return {
        "BITPIX 7": Kind(Reason.BAD_HEADER, "BITPIX", card(FITS, "BITPIX", "7")),
        "BITPIX text": Kind(Reason.BAD_HEADER, "BITPIX", card(FITS, "BITPIX", "'8'")),
        "no NAXIS2": Kind(
            Reason.BAD_HEADER,
            "NAXIS2",
            card(FITS, "NAXIS2", "").replace(b"NAXIS2  =", b"NOAXIS  ="),
        ),
        "NAXIS 5": Kind(Reason.BAD_HEADER, "NAXIS", card(FITS, "NAXIS", "5")),
        "NAXIS -1": Kind(Reason.BAD_HEADER, "below 0", card(FITS, "NAXIS", "-1")),
        "NAXIS 1000": Kind(Reason.BAD_HEADER, "is 1000", card(FITS, "NAXIS", "1000")),
        "NAXIS T": Kind(Reason.BAD_HEADER, "integer", card(FITS, "NAXIS", "T")),
        "negative side": Kind(Reason.BAD_HEADER, "NAXIS1", card(FITS, "NAXIS1", "-3")),
        "float side": Kind(Reason.BAD_HEADER, "NAXIS1", card(FITS, "NAXIS1", "32.5")),
        "more bytes than there can be": Kind(
            Reason.BAD_HEADER, "more bytes", card(FITS, "NAXIS1", "9" * 60)
        ),
        "second header broken": Kind(Reason.BAD_HEADER, "byte 5760", FITS + b"rubbish" * 500),
        "no image": Kind(Reason.NO_FITS_IMAGE, "came none", fits_bytes(None)),
        "random groups": Kind(Reason.NO_FITS_IMAGE, "random groups", groups),
        "table alone": Kind(
            Reason.FITS_TABLE, "came BINTABLE", hdu_bytes([fits.PrimaryHDU(), table])
        ),
        "tile-compressed": Kind(Reason.TILE_COMPRESSED, "funpack", hdu_bytes(packed)),
        "spectrum": Kind(Reason.WRONG_AXES, "1 axes: 9", fits_bytes(np.arange(9.0))),
        "four axes": Kind(Reason.WRONG_AXES, "2 x 3 x 4 x 5", fits_bytes(cube)),
        "text as scale": Kind(Reason.BAD_SCALING, "BSCALE", add_cards(FITS, BSCALE="'x'")),
        "zero is no number": Kind(Reason.BAD_SCALING, "BZERO", add_cards(FITS, BZERO="T")),
        "scale of 0": Kind(Reason.BAD_SCALING, "BSCALE of HDU 0 is 0", add_cards(FITS, BSCALE="0")),
        "blank is no integer": Kind(Reason.BAD_SCALING, "BLANK", add_cards(FITS, BLANK="1.5")),
        "mask of another shape": Kind(
            Reason.BAD_MASK, "16 x 16", fits_bytes(grey(), mask=grey(16))
        ),
        "mask of one axis": Kind(
            Reason.BAD_MASK, "1 axes", fits_bytes(grey(), mask=np.zeros(9, "u1"))
        ),
        "table as mask": Kind(Reason.BAD_MASK, "BINTABLE", hdu_bytes(masked)),
        "bands of two shapes": Kind(
            Reason.BANDS_DIFFER,
            "G 32 x 32, R 16 x 16",
            hdu_bytes(bands),
            settings={"extensions": ("G", "R")},
            good=several,
        ),
        "extension that is not there": Kind(
            Reason.WRONG_BANDS,
            "extension Z, came G, R, I",
            hdu_bytes(bands),
            settings={"extensions": ("G", "Z")},
            good=several,
        ),
        "extension that is a table": Kind(
            Reason.WRONG_BANDS,
            "extension I, came G, R, I",
            hdu_bytes(bands),
            settings={"extensions": ("G", "I")},
            good=several,
        ),
        "extensions of a PNG": Kind(
            Reason.WRONG_BANDS, "came no FITS", PNG, settings={"extensions": ("G",)}, good=several
        ),
    }


def pixels() -> dict[str, Kind]:
    """Images that decode, but do not make a cutout."""
    holes = grey().astype("f4")
    holes[:8] = np.nan
    infinite = np.where(np.isnan(holes), np.inf, holes)
    bright = np.zeros((64, 64), np.uint8)
    bright[3, 3] = 255
    flat = np.ones((32, 32, 3), np.uint8) * np.array([1, 2, 3], np.uint8)
    fixed = {"limits": "fixed", "fixed": (300.0, 400.0)}
    return {
        "smaller than the crop": Kind(
            Reason.TOO_SMALL, "at least 64 x 64 px, came 32 x 32", PNG, settings={"crop": 64}
        ),
        "not square": Kind(Reason.NOT_SQUARE, "came 32 x 20 px", png(grey()[:, :20])),
        "grey for weights of colours": Kind(
            Reason.WRONG_BANDS,
            "the image is grey",
            PNG,
            settings={"weights": (1, 1, 1)},
            good=png(colour()),
        ),
        "band that is not there": Kind(
            Reason.WRONG_BANDS,
            "wanted band 3",
            png(colour()),
            settings={"bands": (3,)},
            good=fits_bytes(np.stack([grey(seed=n) for n in range(4)])),
        ),
        "colours among grey": Kind(Reason.WRONG_BANDS, "wanted 1 bands, got 3", png(colour())),
        "NaN throughout": Kind(
            Reason.ALL_MISSING, "every pixel", fits_bytes(np.full((32, 32), np.nan)), settings=FILL
        ),
        "masked throughout": Kind(
            Reason.ALL_MISSING, "every pixel", fits_bytes(grey(), mask=np.ones((32, 32), "u1"))
        ),
        "NaN where none may be": Kind(Reason.MISSING_PIXELS, "at most 0 of", fits_bytes(holes)),
        "infinite in too many": Kind(
            Reason.MISSING_PIXELS, "(256 of 1024)", fits_bytes(infinite), settings=FILL
        ),
        "black": Kind(Reason.BLANK, "every pixel is 0", png(np.zeros((32, 32), np.uint8))),
        "white": Kind(Reason.CONSTANT, "is 255", png(np.full((32, 32), 255, np.uint8))),
        "one flat colour": Kind(Reason.CONSTANT, "every pixel is 1", png(flat)),
        "one pixel that percentiles miss": Kind(
            Reason.NO_RANGE,
            "percentiles",
            png(bright),
            settings={"limits": "percentiles", "size": 32},
        ),
        "one pixel that sampling misses": Kind(
            Reason.NO_RANGE, "minmax", png(bright), settings={"resample": "nearest"}
        ),
        "below the fixed limits": Kind(
            Reason.OUTSIDE_LIMITS,
            "one side of limits 300, 400",
            PNG,
            settings=fixed,
            good=fits_bytes(3 * grey().astype("f4")),
        ),
        "beyond float32": Kind(
            Reason.OVERFLOW,
            "beyond float32",
            fits_bytes(grey() * 1e25),
            settings={"weights": (1e20,)},
        ),
    }


KINDS = rows() | files() | containers() | fits_files() | pixels()
