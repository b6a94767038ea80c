"""The region that a sky lies on, and what each of its pixels gets of the objects."""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import PurePosixPath

from avader.api.remade import REGION_FILE
from avader.catalogue.pixels import named_pixel
from avader.config import GenerateSettings
from avader.io import storage
from avader.io.manifest import Manifest
from avader.plan import Unit, ranges, unit_name
from avader.synthetic.positions import deal
from avader.synthetic.region import Region, cone, read_region


@dataclass(frozen=True)
class Placing:
    """The region, None for a sky without positions, and its bytes as they are kept."""

    region: Region | None = None
    file: bytes = b""

    @property
    def digest(self) -> str | None:
        """SHA-256 of the bytes."""
        return hashlib.sha256(self.file).hexdigest() if self.region is not None else None

    def units(
        self, groups: Sequence[int], seed: int, *, start: int, rows: int, before: Iterable[Manifest]
    ) -> tuple[Unit, ...]:
        """Units of at most about so many rows; each has the ranges of its objects' indices.

        groups: sizes of consecutive runs of objects, as `deal` takes them; start: index of the
        first. before: increments that are there, whose pixels stay.
        """
        if self.region is None:
            spans = [(start + first, start + stop) for first, stop in ranges(sum(groups), rows)]
            return tuple(Unit(unit_name(at), {"ranges": [span]}) for at, span in enumerate(spans))
        names = {PurePosixPath(path).stem for held in before for path in held.paths}
        given = [pixel for pixel in map(named_pixel, sorted(names)) if pixel is not None]
        shares = deal(self.region, groups, seed, start=start, rows_per_unit=rows, given=given)
        return tuple(
            Unit(pixel.name, {"ranges": [(share.start, share.stop) for share in held]})
            for pixel, held in groupby(shares, lambda share: share.pixel)
        )

    def write(self, out: str) -> list[dict[str, str]]:
        """Keep the region in a folder; the files, as facts list them."""
        if self.digest is None:
            return []
        storage.write_bytes(storage.join(out, REGION_FILE), self.file)
        return [{"path": REGION_FILE, "sha256": self.digest}]


def placing_of(settings: GenerateSettings) -> Placing:
    """What the settings ask for. Raises InputError for a region that cannot be used."""
    if settings.region is not None:
        data = storage.read_bytes(settings.region)
        region = read_region(data, storage.public_uri(settings.region))
    elif settings.cone:
        region = cone(*settings.cone)
    else:
        return Placing()
    return Placing(region, region.write())


def shares_in(units: Iterable[Unit]) -> list[tuple[int, int, int, int]]:
    """(order, number, start, stop) of the shares of pixels, for the manifest; empty without."""
    pixels = ((named_pixel(unit.name), unit.inputs["ranges"]) for unit in units)
    return [
        (pixel.order, pixel.number, start, stop)
        for pixel, spans in pixels
        if pixel is not None
        for start, stop in spans
    ]
