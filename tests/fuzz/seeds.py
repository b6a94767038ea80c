"""Whole files that mutations begin with, by family and name, made by the formats' own libraries."""

import io
from collections.abc import Mapping
from functools import cache

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from astropy.io import fits

from tests.images.samples import (
    add_cards,
    colour,
    fits_bytes,
    grey,
    gzipped,
    hdu_bytes,
    jpeg,
    png,
    png_chunks,
)

ROWS = 12


@cache
def seeds() -> Mapping[str, Mapping[str, bytes]]:
    """By family: jpeg, png, fits, parquet."""
    images = {"jpeg": _jpegs(), "png": _pngs(), "fits": _fits()}
    return {**images, "parquet": _tables()}


def _jpegs() -> dict[str, bytes]:
    return {
        "colour": jpeg(colour(40)),
        "grey": jpeg(grey(24)),
        "progressive": jpeg(colour(24), progressive=True),
        "restarts": jpeg(grey(48), restart_marker_blocks=2),
        "whole": jpeg(colour(24), subsampling=0, quality=100),
        "exif": jpeg(grey(24), exif=b"Exif\0\0MM\0*\0\0\0\x08\0\0", comment=b"galaxy"),
        "inks": jpeg(colour(24), mode="CMYK"),
    }


def _pngs() -> dict[str, bytes]:
    rgba = np.dstack([colour(24), grey(24)])
    rows = b"".join(b"\0" + bytes(row) for row in grey(17))
    frames = [grey(24, seed=seed) for seed in (1, 2)]
    return {
        "colour": png(colour(40)),
        "grey": png(grey(24)),
        "16 bits": png(grey(24).astype(np.uint16) * 200),
        "palette": png(colour(24), mode="P"),
        "transparent": png(rgba),
        "bilevel": png(grey(24) > 100),
        "plain": png(grey(24), compress_level=0),
        "interlaced": png_chunks(17, 17, body=rows)[:28] + b"\1" + png_chunks(17, 17)[29:],
        "sixteen": png_chunks(17, 17, depth=16, kind=2, body=bytes(17 * 103)),
        "animation": png(frames[0], save_all=True, append_images=_pictures(frames)),
    }


def _pictures(arrays: list[np.ndarray]) -> list[object]:
    from PIL import Image

    return [Image.fromarray(array) for array in arrays]


def _fits() -> dict[str, bytes]:
    cube = np.moveaxis(colour(24), 2, 0).astype("f4")
    holes = grey(24).astype("f4")
    holes[:4] = np.nan
    table = fits.BinTableHDU.from_columns([fits.Column("x", "J", array=np.arange(50))])
    bands = [fits.ImageHDU(grey(24, seed=n).astype("i2"), name=name) for n, name in enumerate("GR")]
    packed = {
        kind: hdu_bytes(
            [fits.PrimaryHDU(), fits.CompImageHDU(grey(24).astype("i2"), compression_type=kind)]
        )
        for kind in ("RICE_1", "GZIP_1")
    }
    return {
        "plane": fits_bytes(grey(24).astype("f4"), saturate=200),
        "cube": fits_bytes(cube),
        "holes": fits_bytes(holes),
        "doubles": fits_bytes(grey(24).astype("f8")),
        "unsigned": fits_bytes(grey(24).astype("u2")),
        "scaled": add_cards(
            fits_bytes(grey(24).astype("i2")), BSCALE="0.5", BZERO="10.0", BLANK="7"
        ),
        "masked": fits_bytes(grey(24).astype("i4"), mask=(grey(24) > 180).astype("u1")),
        "bands": hdu_bytes([fits.PrimaryHDU(), table, *bands]),
        "gzip": gzipped(fits_bytes(grey(24).astype("f8"))),
        "rice": packed["RICE_1"],
        "tiles": packed["GZIP_1"],
    }


def image_of(number: int) -> bytes:
    """A small image of any format."""
    images = [
        png(grey(20, seed=number)),
        jpeg(colour(24)),
        fits_bytes(grey(20, seed=number).astype("f4")),
    ]
    return images[number % 3]


def table_of(images: list[bytes | None], **options: object) -> bytes:
    """A Parquet table of these images, with ids, positions and further columns."""
    count = len(images)
    columns = {
        "object_id": [f"g{number:03d}" for number in range(count)],
        "ra": np.linspace(0, 350, count),
        "dec": np.linspace(-80, 80, count),
        "image": pa.array(images, pa.binary()),
        "votes": pa.array(range(count), pa.int16()),
        "kind": pa.array(["spiral", None, "smooth"] * count)[:count].dictionary_encode(),
        "list": [list(range(number % 4)) for number in range(count)],
        "sure": [number % 2 == 0 for number in range(count)],
    }
    sink = io.BytesIO()
    pq.write_table(pa.table(columns), sink, **options)
    return sink.getvalue()


def _tables() -> dict[str, bytes]:
    images = [image_of(number) for number in range(ROWS)]
    options = {
        "snappy": {"row_group_size": 5},
        "plain": {"compression": "none", "use_dictionary": False, "row_group_size": 5},
        "zstd": {"compression": "zstd", "data_page_version": "2.0"},
        "gzip": {"compression": "gzip", "data_page_size": 2000, "write_batch_size": 4},
        "brotli": {"compression": "brotli", "row_group_size": 3},
        "lz4": {"compression": "lz4", "use_dictionary": True},
        "checksums": {"write_page_checksum": True, "row_group_size": 6},
        "deltas": {
            "compression": "none",
            "use_dictionary": False,
            "column_encoding": {
                "object_id": "DELTA_BYTE_ARRAY",
                "image": "DELTA_LENGTH_BYTE_ARRAY",
                "votes": "DELTA_BINARY_PACKED",
                "ra": "BYTE_STREAM_SPLIT",
            },
        },
    }
    return {name: table_of(images, **chosen) for name, chosen in options.items()}
