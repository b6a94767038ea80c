"""A HATS catalogue's own files: the same bytes again and anywhere, which others open."""

from functools import partial
from itertools import pairwise

import numpy as np
import pyarrow.parquet as pq
import pytest
from hats.io.parquet_metadata import write_parquet_metadata
from hats.io.validation import is_valid_catalog
from upath import UPath

from avader.catalogue import rows, tiles
from avader.catalogue.columns import CLASSIFIED_COLUMNS
from avader.io import hats, shards, storage
from avader.io.export import About
from avader.plan import Unit
from tests.skies import at, parts_of, patch

ABOUT = About(
    "Some galaxies", {"model": "abc"}, "somebody", {c.name: c for c in CLASSIFIED_COLUMNS}
)
PROPERTIES = {
    "catalog_name": "sky",
    "catalog_type": "object",
    "total_rows": 300,
    "ra_column": "ra",
    "dec_column": "dec",
    "healpix_column": "_healpix_29",
    "healpix_order": 29,
    "skymap_order": hats.SKYMAP_ORDER,
    "npix_suffix": "/",
}


def write(root: str, *, number: int = 1) -> dict[str, bytes]:
    """A collection of one catalogue, in so many files a pixel; its own files by path."""
    places = {}
    for pixel, part in parts_of(at(patch(300, ra=45, dec=0, width=5)), limit=50).items():
        unit, nothing = Unit(pixel.name, {}), rows.reject_table([], pixel.name)
        places[pixel] = []
        for file, (start, stop) in enumerate(pairwise(np.linspace(0, len(part), number + 1)), 1):
            table = part.slice(int(start), int(stop) - int(start))
            place = partial(tiles.dataset_path, "sky/", suffix=f"/{file:06d}.parquet")
            shards.write_unit(
                root, unit, rows_in=len(table), table=table, rejects=nothing, place=place
            )
            places[pixel].append(place(pixel.name))
    files = hats.write_catalogue(root, "sky/", places, about=ABOUT, properties=PROPERTIES)
    files += hats.write_collection(root, name="sky", margin=None)
    return {file["path"]: storage.read_bytes(storage.join(root, file["path"])) for file in files}


def test_files_and_their_bytes(tmp_path):
    files = write(str(tmp_path / "a"))
    assert list(files) == [
        "sky/dataset/_common_metadata",
        "sky/dataset/_metadata",
        "sky/hats.properties",
        "sky/partition_info.csv",
        "sky/point_map.fits",
        "sky/properties",
        "sky/skymap.fits",
        "collection.properties",
    ]
    assert write(str(tmp_path / "a")) == files
    assert write(str(tmp_path / "b")) == files


def test_pixels_of_several_files_have_statistics_instead(tmp_path):
    """Those that the hats library makes of the files by itself."""
    write(str(tmp_path))
    assert "sky/dataset/_metadata" not in write(str(tmp_path), number=2)
    assert not (tmp_path / "sky" / "dataset" / "_metadata").exists()
    ours = pq.read_table(tmp_path / "sky" / "per_partition_statistics.parquet")
    theirs_at = tmp_path / "theirs"
    write_parquet_metadata(
        tmp_path / "sky",
        create_metadata=False,
        create_thumbnail=False,
        create_per_partition_stats=True,
        output_path=theirs_at,
    )
    theirs = pq.read_table(theirs_at / "per_partition_statistics.parquet")
    assert ours.column_names == theirs.column_names
    keys = ["Norder", "Npix", "row_group_index", "_healpix_29::min_value"]
    ours, theirs = (
        table.select(ours.column_names).sort_by([(key, "ascending") for key in keys]).to_pylist()
        for table in (ours, theirs)
    )
    assert ours == theirs


def test_metadata_has_every_row_group_in_the_order_of_hats(tmp_path):
    write(str(tmp_path))
    metadata = pq.read_metadata(tmp_path / "sky" / "dataset" / "_metadata")
    groups = [metadata.row_group(at) for at in range(metadata.num_row_groups)]
    paths = [group.column(0).file_path for group in groups]
    assert {f"sky/dataset/{path}" for path in paths} == set(
        storage.list_below(str(tmp_path), "sky/dataset")
    ) - {"sky/dataset/_metadata", "sky/dataset/_common_metadata"}
    at_ = metadata.schema.names.index("_healpix_29")
    firsts = [group.column(at_).statistics.min for group in groups]
    assert firsts == sorted(firsts)
    assert metadata.num_rows == 300


@pytest.mark.filterwarnings("ignore::pandas.errors.Pandas4Warning")
@pytest.mark.parametrize("number", [1, 2])
def test_on_s3(s3_uri, tmp_path, number):
    """The files of local disk, byte for byte; and lsdb opens them there."""
    assert write(s3_uri, number=number) == write(str(tmp_path), number=number)
    assert is_valid_catalog(UPath(s3_uri, anon=False), strict=True)
    import dask
    import lsdb

    with dask.config.set(scheduler="synchronous"):
        opened = lsdb.open_catalog(UPath(s3_uri, anon=False), columns=["object_id"])
        found = opened.compute(progress_bar=False)
    wanted = at(patch(300, ra=45, dec=0, width=5))["object_id"].to_pylist()
    assert sorted(found.object_id) == sorted(wanted)
    assert np.array_equal(found.index, np.sort(found.index))
