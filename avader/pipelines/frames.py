"""Galaxies of a report put back on the sky, by the angle and flips that each row keeps."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from avader.catalogue.columns import ORIENTATION_NAMES
from avader.errors import InputError
from avader.images.orientation import Orientation, to_sky
from avader.io import shards, storage
from avader.io.manifest import Manifest
from avader.recipe import Preprocessing
from avader.report.compose import Material
from avader.report.summary import Chosen

ON_SKY = (
    "Catalogued galaxies lie as on the sky, corners that the model does not see filled; drawn ones "
    "as the model draws them."
)
CANONICAL = "Galaxies lie in the canonical frame: the major axis across, more light right and up."


def check_frame(frame: str, prepared: Preprocessing, data: Manifest) -> None:
    """Raise InputError where the canonical frame is asked of cutouts in the sky's frame."""
    if frame == "canonical" and prepared.orientation != "canonical":
        raise InputError(
            "--frame canonical: wanted cutouts packed with --preprocessing.orientation canonical, "
            f"got {storage.public_uri(data.uri)} in the sky's frame; pack them so, or leave --frame"
        )


def in_frame(
    material: Material, frame: str, *, catalogue: Manifest, prepared: Preprocessing
) -> Material:
    """The material with its galaxies in the frame that is asked for, and a sentence that says so.

    material: as the model saw it; prepared: how. Cutouts of the sky's frame stay as they are.
    """
    if prepared.orientation != "canonical":
        return material
    if frame != "sky":
        return replace(material, frame=CANONICAL)
    examples = material.summary.examples
    members = [one for members in material.summary.members for one in members]
    turns = read_orientations(catalogue, [*examples, *members])
    pairs = zip(material.reconstructions, examples, strict=True)
    reconstructions = [to_sky(image, turns[one.row]) for image, one in pairs]
    return replace(
        material,
        frame=ON_SKY,
        images={row: to_sky(image, turns[row]) for row, image in material.images.items()},
        reconstructions=np.array(reconstructions).reshape(material.reconstructions.shape),
    )


def read_orientations(catalogue: Manifest, chosen: Sequence[Chosen]) -> dict[int, Orientation]:
    """How chosen rows of a catalogue of canonical cutouts lie on the sky, by their number."""
    starts = np.cumsum([0, *(part["rows"] for part in catalogue.parts)]).tolist()
    found: dict[int, Orientation] = {}
    for path, start in zip(catalogue.paths, starts[:-1], strict=True):
        wanted = {one.row for one in chosen if one.part == path}
        if wanted:
            table = shards.read_part(catalogue.uri, path, ORIENTATION_NAMES)
            angles, flips = (table[name] for name in ORIENTATION_NAMES)
            for row in wanted:
                at = row - start
                found[row] = Orientation(angles[at].as_py(), flips[at].as_py())
    return found
