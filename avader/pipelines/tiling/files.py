"""The files that make folders of rows a HATS collection, and what they say of the catalogue.

Apart from the work on tiles, since the hats library takes seconds to load.
"""

from collections.abc import Sequence
from typing import Any

from avader.catalogue import schema, tiles
from avader.catalogue.pixels import SPATIAL_ORDER, Pixel
from avader.catalogue.provenance import BIBCODE, DOI_URL
from avader.io import hats
from avader.io.export import About
from avader.io.manifest import Manifest
from avader.pipelines.tiling.work import tile_of
from avader.plan import Receipt

TITLE = "Morphological components of galaxies (avader)"


def finish_collection(
    out: str, held: Manifest, receipts: Sequence[Receipt], *, name: str, margin: str | None
) -> list[dict[str, str]]:
    """Write the files of the catalogue and the collection; path and SHA-256 of each.

    held: the classified catalogue. name, margin: the folders of the catalogue and its margin.
    """
    folder = f"{name}/"
    properties = {"catalog_name": name, "catalog_type": "object"}
    own = hats.write_catalogue(
        out,
        folder,
        _places(receipts, folder),
        about=_about(held, TITLE),
        properties=properties | _properties(held, receipts) | {"skymap_order": hats.SKYMAP_ORDER},
    )
    return [*own, *hats.write_collection(out, name=name, margin=margin)]


def finish_margin(
    out: str, held: Manifest, receipts: Sequence[Receipt], *, name: str, arcsec: float
) -> list[dict[str, str]]:
    """Write the files of a margin; path and SHA-256 of each.

    held: the classified catalogue. name: of the HATS catalogue whose margin it is.
    """
    title = f"{TITLE}: rows within {arcsec:g} arcsec of each tile"
    properties = {"catalog_name": out.rpartition("/")[2], "catalog_type": "margin"}
    return hats.write_catalogue(
        out,
        "",
        _places(receipts, ""),
        about=_about(held, title),
        properties=properties
        | _properties(held, receipts)
        | {"primary_catalog": name, "margin_threshold": arcsec},
    )


def _places(receipts: Sequence[Receipt], folder: str) -> dict[Pixel, str]:
    """Path of each tile's rows below the output folder."""
    names = [receipt.unit for receipt in receipts]
    return {tile_of(name): tiles.dataset_path(folder, name) for name in names}


def _properties(held: Manifest, receipts: Sequence[Receipt]) -> dict[str, Any]:
    """Properties of a HATS catalogue: its columns and sizes, where it comes from, whom to cite."""
    return {
        "total_rows": sum(receipt.rows for receipt in receipts),
        "hats_max_rows": max(receipt.rows for receipt in receipts),
        "hats_estsize": sum(receipt.size for receipt in receipts) // 1024,
        "ra_column": "ra",
        "dec_column": "dec",
        "healpix_column": "_healpix_29",
        "healpix_order": SPATIAL_ORDER,
        "hats_cols_sort": "_healpix_29",
        "hats_cols_survey_id": "object_id",
        "obs_title": TITLE,
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
        columns={column.name: column for column in schema.COLUMNS["hats"]},
    )
