"""The files that make folders of rows a HATS collection, and what they say of the catalogue.

Apart from the work on tiles, since the hats library takes seconds to load.
"""

from collections import Counter
from collections.abc import Sequence
from pathlib import PurePosixPath
from typing import Any

from avader.catalogue import tiles
from avader.catalogue.columns import COLUMNS
from avader.catalogue.pixels import SPATIAL_ORDER, Pixel
from avader.catalogue.provenance import BIBCODE, DOI_URL
from avader.io import hats
from avader.io.export import About
from avader.io.manifest import Manifest
from avader.pipelines.tiling.versions import Part
from avader.pipelines.tiling.work import tile_of

TITLES = {
    "classified": "Morphological components of galaxies (avader)",
    "synthetic": "Synthetic galaxies drawn from a mixture of components (avader)",
}
ID_COLUMNS = {"classified": "object_id", "synthetic": "index"}


def finish_collection(
    out: str, held: Manifest, parts: Sequence[Part], *, name: str, margin: str | None
) -> list[dict[str, str]]:
    """Write the files of the catalogue and the collection; path and SHA-256 of each.

    held: the catalogue it is of. parts: as the collection's manifests list them, in order of
    increment. name, margin: the folders of the catalogue and its margin.
    """
    properties = {
        "catalog_name": name,
        "catalog_type": "object",
        "skymap_order": hats.SKYMAP_ORDER,
        "npix_suffix": "/",
    }
    own = hats.write_catalogue(
        out,
        f"{name}/",
        _files(parts),
        about=_about(held, TITLES[held.kind]),
        properties=properties | _properties(held, parts),
    )
    return [*own, *hats.write_collection(out, name=name, margin=margin)]


def finish_margin(
    out: str, held: Manifest, parts: Sequence[Part], *, name: str, arcsec: float
) -> list[dict[str, str]]:
    """Write the files of a margin; path and SHA-256 of each.

    held: the catalogue it is of. parts: as the margin's manifest lists them. name: of the HATS
    catalogue whose margin it is.
    """
    title = f"{TITLES[held.kind]}: rows within {arcsec:g} arcsec of each tile"
    properties = {"catalog_name": out.rpartition("/")[2], "catalog_type": "margin"}
    return hats.write_catalogue(
        out,
        "",
        _files(parts),
        about=_about(held, title),
        properties=properties
        | _properties(held, parts)
        | {"primary_catalog": name, "margin_threshold": arcsec},
    )


def _files(parts: Sequence[Part]) -> dict[Pixel, list[str]]:
    """Paths of each tile's files, in order of increment; tiles in nested order."""
    found: dict[Pixel, list[str]] = {}
    for part in parts:
        found.setdefault(_tile(part), []).append(part["path"])
    return {tile: found[tile] for tile in tiles.in_order(found)}


def _tile(part: Part) -> Pixel:
    return tile_of(PurePosixPath(part["rejects_path"]).stem)


def _properties(held: Manifest, parts: Sequence[Part]) -> dict[str, Any]:
    """Properties of a HATS catalogue: its columns and sizes, where it comes from, whom to cite."""
    rows: Counter[Pixel] = Counter()
    for part in parts:
        rows[_tile(part)] += part["rows"]
    # Of several files each is sorted, and not all together.
    order = {"hats_cols_sort": "_healpix_29"} if len(rows) == len(parts) else {}
    return {
        **order,
        "total_rows": rows.total(),
        "hats_max_rows": max(rows.values()),
        "hats_estsize": sum(part["size"] for part in parts) // 1024,
        "ra_column": "ra",
        "dec_column": "dec",
        "healpix_column": "_healpix_29",
        "healpix_order": SPATIAL_ORDER,
        "hats_cols_survey_id": ID_COLUMNS[held.kind],
        "obs_title": TITLES[held.kind],
        "prov_progenitor": f"avader catalogue, manifest sha256 {held.digest}, "
        f"model {held.settings['model']}",
        "bib_reference": BIBCODE,
        "bib_reference_url": DOI_URL,
        "obs_ack": held.provenance["citation"],
    }


def _about(held: Manifest, title: str) -> About:
    return About(
        title=title,
        facts={"catalogue_manifest_sha256": held.digest, "model": held.settings["model"]},
        citation=held.provenance["citation"],
        columns={column.name: column for column in COLUMNS[held.kind]},
    )
