"""A case by its number: which file, how it is changed, and with what settings it is read."""

import gzip
import zlib
from dataclasses import dataclass

import numpy as np

from tests.fuzz.mutations import Random, mutate, with_checksums
from tests.fuzz.seeds import ROWS, image_of, seeds, table_of
from tests.images.samples import gzipped

SEED = 4
FAMILIES = ("jpeg", "png", "fits", "parquet")


@dataclass(frozen=True)
class Case:
    """Bytes to read. extensions: of the preprocessing, for FITS."""

    number: int
    family: str
    seed: str
    data: bytes
    extensions: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """For people."""
        return f"case {self.number}: {self.family} {self.seed}, {len(self.data)} bytes"


def case(number: int) -> Case:
    """The case of this number, from 0; the same at every call."""
    random = np.random.default_rng([SEED, number])
    family = FAMILIES[number % len(FAMILIES)]
    files = seeds()[family]
    name = list(files)[random.integers(len(files))]
    if family == "parquet" and random.random() < 0.3:
        return Case(number, family, "mutated images", _table(random))
    data, others = files[name], list(files.values())
    if name == "gzip" and family == "fits" and random.random() < 0.6:
        inner = mutate(gzip.decompress(data), random, family, others)
        return Case(number, family, "inside gzip", gzipped(inner))
    changed = mutate(data, random, family, others)
    if family == "png" and random.random() < 0.3:
        changed = _repacked(changed, random)
    extensions = ("G", "R") if name == "bands" and random.random() < 0.6 else ()
    return Case(number, family, name, changed, extensions)


def _table(random: Random) -> bytes:
    """A whole table of changed images."""
    images: list[bytes | None] = []
    for row in range(ROWS):
        family = ("png", "jpeg", "fits")[row % 3]
        image = mutate(image_of(row), random, family, [image_of(row + 1)])
        images.append(None if random.random() < 0.05 else image)
    return table_of(images)


def _repacked(data: bytes, random: Random) -> bytes:
    """A PNG whose pixels, before their compression, are changed: filters, lengths."""
    at = data.find(b"IDAT")
    length = int.from_bytes(data[at - 4 : at], "big") if at >= 4 else 0
    try:
        rows = zlib.decompress(data[at + 4 : at + 4 + length])
    except zlib.error:
        return data
    rows = mutate(rows, random, "jpeg", [rows]) if rows else rows
    packed = zlib.compress(rows)
    whole = data[: at - 4] + len(packed).to_bytes(4, "big") + b"IDAT" + packed
    return with_checksums(whole + data[at + 4 + length :])
