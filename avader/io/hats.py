"""What a HATS catalogue has beside its rows: properties, list of pixels, Parquet metadata, sky map.

The hats library makes these files in a temporary folder of this machine; they are then written as
all others are, whole or not at all, to local disk or S3. The same catalogue gives the same bytes:
what the library says of the day it was made is left out.
"""

import hashlib
import tempfile
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from hats.catalog import PartitionInfo, TableProperties
from hats.catalog.dataset.collection_properties import CollectionProperties
from hats.io import file_io, paths
from hats.io.skymap import write_skymap
from hats.pixel_math import HealpixPixel
from hats.pixel_math.healpix_pixel_function import get_pixel_argsort
from numpy.typing import NDArray

from avader.catalogue import records, votable
from avader.catalogue.pixels import SPATIAL_ORDER, Pixel
from avader.io import shards, storage
from avader.io.export import About

SKYMAP_ORDER = 8
"""Order of the sky map's pixels, 14 arcmin across, as the lsdb library has it."""
VOTABLE_KEY = "IVOA.VOTable-Parquet"
Files = list[dict[str, str]]


@dataclass(frozen=True)
class Footer:
    """What is read of a part: its Parquet metadata, columns, and rows by pixel of the sky map."""

    metadata: pq.FileMetaData
    columns: pa.Schema
    pixels: NDArray[np.int64]
    counts: NDArray[np.int64]


def write_catalogue(
    root: str,
    folder: str,
    parts: Mapping[Pixel, str],
    *,
    about: About,
    properties: Mapping[str, Any],
) -> Files:
    """Write a HATS catalogue's own files, and give the path and SHA-256 of each.

    root: URI of the output folder; folder: the catalogue's within it, with the slash, empty for the
    root itself; parts: path below the root of each pixel's rows. properties: those of the hats
    library's TableProperties that it does not find by itself. Held at once: the metadata of all
    parts, about 1 KB for each column of each row group, and the sky map.
    """
    pixels = [HealpixPixel(pixel.order, pixel.number) for pixel in parts]
    footers = _footers(root, folder, list(parts.values()))
    with tempfile.TemporaryDirectory() as temporary:
        partitions = PartitionInfo.from_healpix(pixels)
        partitions.write_to_file(catalog_path=temporary)
        _write_metadata(temporary, pixels, footers, about)
        if properties["catalog_type"] == "object":
            _write_skymap(temporary, footers)
        TableProperties(
            **provenance(),
            **properties,
            hats_order=int(partitions.get_highest_order()),
            moc_sky_fraction=float(f"{partitions.calculate_fractional_coverage():.5g}"),
        ).to_properties_file(temporary)
        return _deliver(temporary, root, folder)


def write_collection(root: str, *, name: str, margin: str | None) -> Files:
    """Write what makes a folder a HATS collection of a catalogue and its margin.

    name, margin: of the folders below the root. Gives the path and SHA-256 of the file.
    """
    margins = {} if margin is None else {"all_margins": [margin], "default_margin": margin}
    with tempfile.TemporaryDirectory() as temporary:
        CollectionProperties(
            name=name, hats_primary_table_url=name, **margins, **provenance()
        ).to_properties_file(temporary)
        return _deliver(temporary, root, "")


def provenance() -> dict[str, str]:
    """The hats library's own words on the format, without the day and a size of its own."""
    builder = f"avader v{version('avader')}"
    told = TableProperties.new_provenance_dict(builder=builder)
    return {name: told[name] for name in ("hats_builder", "hats_release_date", "hats_version")}


def _footers(root: str, folder: str, found: list[str]) -> list[Footer]:
    with ThreadPoolExecutor(shards.READERS) as pool:
        return list(pool.map(partial(_footer, root, folder), found))


def _footer(root: str, folder: str, path: str) -> Footer:
    with storage.open_input(storage.join(root, path)) as file:
        parquet = pq.ParquetFile(file, pre_buffer=False)
        metadata = parquet.metadata
        places = parquet.read(["_healpix_29"], use_threads=False)["_healpix_29"].to_numpy()
        columns = parquet.schema_arrow
    metadata.set_file_path(path.removeprefix(f"{folder}{paths.DATASET_DIR}/"))
    pixels, counts = np.unique(places >> 2 * (SPATIAL_ORDER - SKYMAP_ORDER), return_counts=True)
    return Footer(metadata, columns, pixels, counts)


def _write_metadata(
    temporary: str, pixels: list[HealpixPixel], footers: list[Footer], about: About
) -> None:
    """Write dataset/_metadata, pixels in the order that HATS has them, and _common_metadata."""
    columns = footers[0].columns
    (Path(temporary) / paths.DATASET_DIR).mkdir()
    file_io.write_parquet_metadata(
        columns,
        paths.get_parquet_metadata_pointer(temporary),
        metadata_collector=[footers[at].metadata for at in get_pixel_argsort(pixels)],
    )
    described = {
        f"{VOTABLE_KEY}.version": "1.0",
        f"{VOTABLE_KEY}.content": _votable(columns, about),
    }
    file_io.write_parquet_metadata(
        columns.with_metadata({**(columns.metadata or {}), **described}),
        paths.get_common_metadata_pointer(temporary),
    )


def _votable(columns: pa.Schema, about: About) -> bytes:
    """The columns with units, UCDs and meanings as a VOTable without data."""
    fields = []
    for field in columns:
        datatype, size = records.declared_type(field.type)
        unit, ucd, meaning = about.column(field.name)
        fields.append(votable.Field(field.name, datatype, size, unit, ucd, meaning))
    return votable.header(
        fields,
        name="catalogue",
        description=f"{about.title}. Cite: {about.citation}",
        infos={**about.facts, "citation": about.citation},
    )


def _write_skymap(temporary: str, footers: list[Footer]) -> None:
    """Write the number of rows in each pixel of the sky, under both names that readers look for."""
    rows = np.zeros(12 * 4**SKYMAP_ORDER, np.int64)
    for footer in footers:
        np.add.at(rows, footer.pixels, footer.counts)
    write_skymap(rows, temporary)
    file_io.write_fits_image(rows, paths.get_point_map_file_pointer(temporary))


def _deliver(temporary: str, root: str, folder: str) -> Files:
    """Write the files of a temporary folder to where they belong."""
    for below in ("", paths.DATASET_DIR):
        storage.remove_asides(storage.join(root, f"{folder}{below}".rstrip("/")).rstrip("/"))
    written = []
    for file in sorted(path for path in Path(temporary).rglob("*") if path.is_file()):
        path, data = f"{folder}{file.relative_to(temporary).as_posix()}", file.read_bytes()
        storage.write_bytes(storage.join(root, path), data)
        written.append({"path": path, "sha256": hashlib.sha256(data).hexdigest()})
    return written
