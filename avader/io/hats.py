"""What a HATS catalogue has beside its rows: properties, list of pixels, Parquet metadata, sky map.

A pixel's rows are in one file, or in the files of a folder. Where a folder holds several, there is
no dataset/_metadata, with which the hats library's strict check takes such a catalogue for a broken
one, but per_partition_statistics.parquet, which it looks for first.

The hats library makes these files in a temporary folder of this machine; they are then written as
all others are, whole or not at all, to local disk or S3. The same catalogue gives the same bytes:
what the library says of the day it was made is left out.
"""

import hashlib
import tempfile
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
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
from numpy.typing import NDArray

from avader.catalogue import records, votable
from avader.catalogue.pixels import SPATIAL_ORDER, Pixel
from avader.io import shards, storage
from avader.io.export import About

SKYMAP_ORDER = 8
"""Order of the sky map's pixels, 14 arcmin across, as the lsdb library has it."""
METADATA = f"{paths.DATASET_DIR}/{paths.PARQUET_METADATA_FILENAME}"
VOTABLE_KEY = "IVOA.VOTable-Parquet"
Files = list[dict[str, str]]


@dataclass(frozen=True)
class Footer:
    """What is read of a file: its Parquet metadata, columns, and rows by pixel of the sky map.

    tile: whose rows it holds.
    """

    tile: Pixel
    metadata: pq.FileMetaData
    columns: pa.Schema
    pixels: NDArray[np.int64]
    counts: NDArray[np.int64]


def write_catalogue(
    root: str,
    folder: str,
    tiles: Mapping[Pixel, Sequence[str]],
    *,
    about: About,
    properties: Mapping[str, Any],
) -> Files:
    """Write a HATS catalogue's own files, and give the path and SHA-256 of each.

    root: URI of the output folder; folder: the catalogue's within it, with the slash, empty for the
    root itself; tiles: paths below the root of the files of each tile's rows, in nested order.
    properties: those of the hats library's TableProperties that it does not find by itself. Held at
    once: the metadata of all files, about 1 KB for each column of each row group, and the sky map.
    """
    footers = _footers(root, folder, tiles)
    with tempfile.TemporaryDirectory() as temporary:
        partitions = PartitionInfo.from_healpix(
            [HealpixPixel(tile.order, tile.number) for tile in tiles]
        )
        partitions.write_to_file(catalog_path=temporary)
        (Path(temporary) / paths.DATASET_DIR).mkdir()
        _write_columns(temporary, footers[0].columns, about)
        if len(footers) == len(tiles):
            _write_metadata(temporary, footers)
        else:
            _write_statistics(temporary, footers)
            storage.remove(storage.join(root, f"{folder}{METADATA}"))
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


def _footers(root: str, folder: str, tiles: Mapping[Pixel, Sequence[str]]) -> list[Footer]:
    files = [(tile, path) for tile, found in tiles.items() for path in found]
    with ThreadPoolExecutor(shards.READERS) as pool:
        return list(pool.map(lambda file: _footer(root, folder, *file), files))


def _footer(root: str, folder: str, tile: Pixel, path: str) -> Footer:
    with storage.open_input(storage.join(root, path)) as file:
        parquet = pq.ParquetFile(file, pre_buffer=False)
        metadata = parquet.metadata
        places = parquet.read(["_healpix_29"], use_threads=False)["_healpix_29"].to_numpy()
        columns = parquet.schema_arrow
    metadata.set_file_path(path.removeprefix(f"{folder}{paths.DATASET_DIR}/"))
    pixels, counts = np.unique(places >> 2 * (SPATIAL_ORDER - SKYMAP_ORDER), return_counts=True)
    return Footer(tile, metadata, columns, pixels, counts)


def _write_metadata(temporary: str, footers: list[Footer]) -> None:
    """Write dataset/_metadata: every file's own, with its path."""
    file_io.write_parquet_metadata(
        footers[0].columns,
        paths.get_parquet_metadata_pointer(temporary),
        metadata_collector=[footer.metadata for footer in footers],
    )


def _write_statistics(temporary: str, footers: list[Footer]) -> None:
    """Write per_partition_statistics.parquet, a row for each row group, as the hats library does.

    The library's own function would list and read the catalogue's folder.
    """
    rows = [
        {"Norder": footer.tile.order, "Npix": footer.tile.number, "row_group_index": group}
        | _statistics(footer.metadata.row_group(group))
        for footer in footers
        for group in range(footer.metadata.num_row_groups)
    ]
    table = pa.Table.from_pylist(rows)
    # The library compares what is known of no group at all, which numbers bear.
    fields = [
        field.with_type(pa.float64()) if pa.types.is_null(field.type) else field
        for field in table.schema
    ]
    data = shards.parquet_bytes(table.cast(pa.schema(fields)))
    (Path(temporary) / "per_partition_statistics.parquet").write_bytes(data)


def _statistics(group: pq.RowGroupMetaData) -> dict[str, Any]:
    """What is known of each column of a row group, by the names that the library looks for.

    The least and the greatest are left out where they are bytes: of files, as images may be, they
    are as long as these, and of float16 they are not numbers.
    """
    found: dict[str, Any] = {}
    for column in map(group.column, range(group.num_columns)):
        known = column.statistics
        ordered = known is not None and not isinstance(known.min, bytes)
        values = {
            "min_value": known.min if ordered else None,
            "max_value": known.max if ordered else None,
            "null_count": known.null_count if known else 0,
            "row_count": column.num_values,
            "disk_bytes": column.total_compressed_size,
            "memory_bytes": column.total_uncompressed_size,
        }
        name = column.path_in_schema.removesuffix(".list.element")
        found |= {f"{name}::{of}": value for of, value in values.items()}
    return found


def _write_columns(temporary: str, columns: pa.Schema, about: About) -> None:
    """Write dataset/_common_metadata: the columns, described as a VOTable."""
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
    # Of S3 not from the collection's root: others' uploads would end, where that is a bucket's.
    for below in ("", paths.DATASET_DIR) if folder or storage.is_local(root) else ():
        storage.remove_asides(storage.join(root, f"{folder}{below}".rstrip("/")).rstrip("/"))
    written = []
    for file in sorted(path for path in Path(temporary).rglob("*") if path.is_file()):
        path, data = f"{folder}{file.relative_to(temporary).as_posix()}", file.read_bytes()
        storage.write_bytes(storage.join(root, path), data)
        written.append({"path": path, "sha256": hashlib.sha256(data).hexdigest()})
    return written
