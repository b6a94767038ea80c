"""The versions of a catalogue as tiles of the sky: what each adds to the one before.

All follows from the catalogue and the most rows of a tile: nothing is read of what was made before.
"""

from collections import ChainMap
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
ROWS, IMAGES = 1_000_000, 65_536
"""Most rows of a tile by default: those with images are a thousand times larger."""
# Catalogues that may have positions, and how they get them.
PLACED = {
    "classified": "pack its cutouts again with positions (ra, dec), and classify them",
    "synthetic": "generate it again over a region of the sky (--cone or --region)",
}
Part = Mapping[str, Any]
"""A part of the catalogue as its manifest lists it, with paths from the catalogue's folder."""
Parts = Mapping[Pixel, Part]
"""The parts of an increment that have rows, by pixel, in nested order."""


@dataclass(frozen=True)
class Version:
    """A version of the catalogue, by its increments, the first one first.

    uri: of the catalogue. limit: most rows of a tile, where they can be kept. increments: their
    manifests; parts: theirs; cuts: the tiles that have rows of each increment, with the pixels of
    its parts.
    """

    uri: str
    limit: int
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


def read_versions(uri: str, *, limit: int) -> list[Version]:
    """The versions of a catalogue, in tiles of at most `limit` rows where they can be.

    0 takes ROWS, of a catalogue with images IMAGES.
    Raises InputError where it has no rows, or its parts are not pixels of the sky.
    """
    held = growth.read_increments(uri)
    if held[0].kind not in PLACED:
        raise InputError(
            f"wanted a {' or '.join(PLACED)} catalogue, got a folder of {held[0].kind} in "
            f"{storage.public_uri(uri)}"
        )
    limit = limit or (IMAGES if stores_images(held[0]) else ROWS)
    parts = sky_parts(uri, held)
    counts = [{pixel: part["rows"] for pixel, part in found.items()} for found in parts]
    cuts = tiles.grown(counts, limit=limit)
    numbers = range(1, len(held) + 1)
    return [Version(uri, limit, held[:stop], parts[:stop], cuts[:stop]) for stop in numbers]


def common_settings(held: Manifest) -> dict[str, Any]:
    """What the plans of an increment of the catalogue and of a margin have in common.

    Those of a classified catalogue's don't name its kind.
    """
    is_synthetic = held.kind == "synthetic"
    made_from = ("model",) if is_synthetic else ("model", "data")
    return {
        **{name: held.settings[name] for name in made_from},
        **({"catalogue_kind": held.kind} if is_synthetic else {}),
        "catalogue": held.digest,
        "catalogue_uri": storage.public_uri(held.uri),
        "writer": shards.WRITER if stores_images(held) else WRITER,
        "versions": package_versions("hats"),
    }


def stores_images(held: Manifest) -> bool:
    """Whether the rows of a catalogue hold images: of a synthetic one that is no recipe."""
    return held.kind == "synthetic" and held.settings.get("store") != "recipe"


def origin(held: Manifest) -> dict[str, Any]:
    """What a collection's provenance says of the catalogue, and of how that was made."""
    how = "generation" if held.kind == "synthetic" else "classification"
    return {"catalogue": held.digest, how: held.provenance}


def kept_facts(held: Manifest) -> dict[str, Any]:
    """Facts of the catalogue that are those of its collection too: not of its files and parts."""
    return {name: fact for name, fact in held.facts.items() if name not in ("files", "shares")}


def sky_parts(uri: str, increments: Sequence[Manifest]) -> Sequence[Parts]:
    """The parts that have rows, of each increment.

    Raises InputError where they are not pixels of the sky, where two of an increment overlap, one
    of a later increment holds an earlier one without being it, and where the first has none.
    """
    again = PLACED[increments[0].kind]
    found = [
        _placed(uri, growth.parts_below(held, at), again) for at, held in enumerate(increments, 1)
    ]
    if not found[0]:
        raise InputError(
            f"wanted a catalogue with rows, got {storage.public_uri(uri)} without any in its first "
            "increment"
        )
    for number, parts in enumerate(found):
        earlier = ChainMap(*found[:number])
        if pair := tiles.overlapping(parts) or tiles.holding(parts, earlier):
            names = " and ".join(ChainMap(parts, earlier)[pixel]["path"] for pixel in pair)
            raise InputError(
                f"wanted parts that do not overlap, got {names} in {storage.public_uri(uri)}; "
                f"{again}"
            )
    return found


def _placed(uri: str, parts: Sequence[Part], again: str) -> dict[Pixel, Part]:
    """Parts that have rows, by pixel, in nested order."""
    found = {}
    for part in (part for part in parts if part["rows"]):
        pixel = named_pixel(PurePosixPath(part["path"]).stem)
        if pixel is None:
            raise InputError(
                "wanted a catalogue whose parts are pixels of the sky, got "
                f"{storage.public_uri(uri)} with {part['path']}; {again}"
            )
        found[pixel] = part
    return {pixel: found[pixel] for pixel in tiles.in_order(found)}
