"""The versions of a catalogue as tiles of the sky: what each adds to the one before.

All follows from the catalogue and the most rows of a tile: nothing is read of what was made before.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import PurePosixPath
from typing import Any

from avader.catalogue import tiles
from avader.catalogue.pixels import Pixel, named_pixel
from avader.catalogue.provenance import package_versions
from avader.catalogue.tiles import Tiles
from avader.errors import InputError
from avader.io import growth, shards, storage
from avader.io.manifest import Manifest

# Rows of a row group: what a search in the sky reads at least.
WRITER = {**shards.WRITER, "row_group_size": 50_000}
_AGAIN = "pack its cutouts again with positions (ra, dec), and classify them"
Part = Mapping[str, Any]
"""A part of the catalogue as its manifest lists it, with paths from the catalogue's folder."""
Parts = Mapping[Pixel, Part]
"""The parts of an increment that have rows, by pixel, in nested order."""


@dataclass(frozen=True)
class Version:
    """A version of the catalogue, by its increments, the first one first.

    uri: of the catalogue. increments: their manifests; parts: theirs; cuts: the tiles that have
    rows of each increment, with the pixels of its parts.
    """

    uri: str
    increments: Sequence[Manifest]
    parts: Sequence[Parts]
    cuts: Sequence[Tiles]

    @property
    def number(self) -> int:
        """Its number, from 1."""
        return len(self.increments)

    @cached_property
    def whole(self) -> Manifest:
        """The catalogue as it then was."""
        return growth.as_one(self.uri, self.increments)

    @cached_property
    def tiles(self) -> list[Pixel]:
        """All its tiles, in nested order."""
        return tiles.in_order({tile for cut in self.cuts for tile in cut})

    @property
    def around(self) -> dict[Pixel, list[Part]]:
        """All its parts by pixel, in nested order; those of one pixel in order of increment."""
        found: dict[Pixel, list[Part]] = {}
        for parts in self.parts:
            for pixel, part in parts.items():
                found.setdefault(pixel, []).append(part)
        return {pixel: found[pixel] for pixel in tiles.in_order(found)}


def read_versions(uri: str, *, limit: int) -> list[Version]:
    """The versions of a classified catalogue, in tiles of at most `limit` rows where they can be.

    Raises InputError where it has no rows, or its parts are not pixels of the sky.
    """
    held = growth.read_increments(uri, kind="classified")
    parts = sky_parts(uri, held)
    counts = [{pixel: part["rows"] for pixel, part in found.items()} for found in parts]
    cuts = tiles.grown(counts, limit=limit)
    numbers = range(1, len(held) + 1)
    return [Version(uri, held[:stop], parts[:stop], cuts[:stop]) for stop in numbers]


def common_settings(held: Manifest) -> dict[str, Any]:
    """What the plans of an increment of the catalogue and of a margin have in common."""
    return {
        **{name: held.settings[name] for name in ("model", "data")},
        "catalogue": held.digest,
        "catalogue_uri": storage.public_uri(held.uri),
        "writer": WRITER,
        "versions": package_versions("hats", "cdshealpix"),
    }


def sky_parts(uri: str, increments: Sequence[Manifest]) -> Sequence[Parts]:
    """The parts that have rows, of each increment.

    Raises InputError where they are not pixels of the sky, any two the same or apart, and where the
    first increment has none.
    """
    found = [_placed(uri, growth.parts_below(held, at)) for at, held in enumerate(increments, 1)]
    if not found[0]:
        raise InputError(
            f"wanted a catalogue with rows, got {storage.public_uri(uri)} without any in its first "
            "increment"
        )
    paths = {pixel: part["path"] for parts in found for pixel, part in parts.items()}
    if pair := tiles.overlapping(paths):
        names = " and ".join(paths[pixel] for pixel in pair)
        raise InputError(
            f"wanted parts that do not overlap, got {names} in {storage.public_uri(uri)}; {_AGAIN}"
        )
    return found


def _placed(uri: str, parts: Sequence[Part]) -> dict[Pixel, Part]:
    """Parts that have rows, by pixel, in nested order."""
    found = {}
    for part in (part for part in parts if part["rows"]):
        pixel = named_pixel(PurePosixPath(part["path"]).stem)
        if pixel is None:
            raise InputError(
                "wanted a catalogue whose parts are pixels of the sky, got "
                f"{storage.public_uri(uri)} with {part['path']}; {_AGAIN}"
            )
        found[pixel] = part
    return {pixel: found[pixel] for pixel in tiles.in_order(found)}
