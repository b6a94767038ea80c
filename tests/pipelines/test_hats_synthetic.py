"""`hats` of synthetic skies whose objects were dealt to pixels: rows, files, growth, lsdb."""

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from astropy.coordinates import SkyCoord
from astropy.io.votable import parse
from hats.io.validation import is_valid_catalog
from hats.pixel_math import get_margin

from avader.api import open_catalogue
from avader.catalogue import rows, schema
from avader.catalogue.columns import FILE_TYPE
from avader.catalogue.pixels import Pixel
from avader.catalogue.tiles import overlapping
from avader.config import HatsSettings
from avader.images.encode import encode_image
from avader.io import growth
from avader.io.manifest import read_manifest
from avader.pipelines import hats
from avader.synthetic.positions import Share, deal, place_all
from avader.synthetic.region import cone
from tests.pipelines.test_hats_grown import tiles
from tests.pipelines.test_kill import contents
from tests.skies import write_parts

pytestmark = [
    pytest.mark.long,
    pytest.mark.usefixtures("ray_session"),
    # Of pandas, for how lsdb and what it stands on use it.
    pytest.mark.filterwarnings("ignore::pandas.errors.Pandas4Warning"),
]
SEED, SHAPE = 5, (1, 4, 4)
CENTRE = 45.0, 0.0
REGION = cone(*CENTRE, 1800)


def objects(indices: np.ndarray, shares: Sequence[Share], store: str = "images") -> pa.Table:
    """Rows of a synthetic catalogue; what was drawn is made of the index alone."""
    places = place_all(REGION, SEED, indices, shares)
    pixels = (indices[:, None] * 7 + np.arange(16)).astype(np.uint8)
    columns = {
        "index": indices,
        "ra": places.ra,
        "dec": places.dec,
        "_healpix_29": places.healpix_29,
        "component": (indices % 4).astype(np.int16),
        "latent": np.stack([indices, indices / 7, -indices], axis=1).astype(np.float32),
        "log_likelihood": (indices / 3).astype(np.float32),
        "image": pixels,
    }
    if store == "recipe":
        del columns["image"]
    wanted = schema.synthetic_schema(SHAPE, latent=3, names=columns, half=store == "recipe")
    table = rows.table(wanted, columns)
    if store == "encoded":
        files = [encode_image(each.reshape(SHAPE), "png", quality=0) for each in pixels]
        at = wanted.get_field_index("image")
        field = wanted.field(at).with_type(FILE_TYPE)
        table = table.set_column(at, field, pa.array(files, FILE_TYPE))
    return table


def written(out, shares: Sequence[Share], store: str = "images") -> str:
    """A finished folder of the objects dealt, each pixel's sorted by place."""
    parts = {
        pixel.name: objects(np.arange(start, stop), shares, store).sort_by("_healpix_29")
        for pixel, start, stop in shares
    }
    settings = {"model": "m" * 64, "store": store, "seed": SEED}
    places = [(*pixel_of(share), share.start, share.stop) for share in shares]
    facts = {
        "shape": SHAPE,
        "files": [{"path": "region.npy", "sha256": "r" * 64}],
        "shares": places,
    }
    return write_parts(out, parts, kind="synthetic", settings=settings, facts=facts)


def pixel_of(share: Share) -> tuple[int, int]:
    return share.pixel.order, share.pixel.number


def made(catalogue: str, out: Path, **given) -> Path:
    options = {"rows_per_pixel": 400, "workers": 1, "name": "sky"} | given
    hats.run(HatsSettings(catalogue=catalogue, out=str(out), **options))
    return out


@pytest.fixture(scope="module")
def shares() -> list[list[Share]]:
    """Of two increments, the later one five times as large."""
    first = deal(REGION, [1000], SEED, rows_per_unit=80)
    given = [share.pixel for share in first]
    return [first, deal(REGION, [5000], SEED, start=1000, rows_per_unit=80, given=given)]


@pytest.fixture(scope="module")
def grown(shares, tmp_path_factory, ray_session) -> tuple[str, Path, dict[str, bytes]]:
    """A sky of two increments, its collection, and what that held before the second."""
    folder = tmp_path_factory.mktemp("grown")
    catalogue = written(folder / "sky", shares[0])
    out = made(catalogue, folder / "collection")
    before = contents(out)
    written(growth.folder(catalogue, 2), shares[1])
    growth.publish(catalogue, 2)
    return catalogue, made(catalogue, out), before


def test_later_parts_lie_in_those_of_before(shares):
    first, second = ({share.pixel for share in each} for each in shares)
    finer = [pixel for pixel in second if any(pixel.at(one.order) == one for one in first
                                              if one.order < pixel.order)]  # fmt: skip
    assert len(finer) > 50
    assert overlapping(first | second) is not None


def test_every_object_is_in_its_tile(grown, shares):
    _, out, before = grown
    wanted = objects(np.arange(6000), [*shares[0], *shares[1]])
    found = open_catalogue(str(out)).to_arrow()
    assert found.sort_by("index").equals(wanted)
    assert found.schema.field("image").metadata[b"shape"] == b"[1, 4, 4]"
    held = tiles(out / "sky")
    assert overlapping(held) is None
    for tile, files in held.items():
        for path in files:
            table = pq.ParquetFile(path).read(["index", "_healpix_29"])
            places = table["_healpix_29"].to_numpy()
            assert (np.diff(places) >= 0).all()
            assert tile.span[0] <= places[0] <= places[-1] < tile.span[1]
            later = path.name == "000002.parquet"
            assert ((table["index"].to_numpy() >= 1000) == later).all()
    after = contents(out)
    assert all(after[path] == data for path, data in before.items() if path.endswith(".parquet"))


def test_the_margin_holds_what_is_around_each_tile(grown, shares):
    """Of all parts, wider and finer: against hats' own list of the pixels around each tile."""
    _, out, _ = grown
    table = objects(np.arange(6000), [*shares[0], *shares[1]])
    places = table["_healpix_29"].to_numpy() >> 2 * (29 - 13)
    margins = tiles(out / "sky_10arcs_000002")
    total = 0
    for pixel in margins.keys() | tiles(out / "sky").keys():
        around = get_margin(pixel.order, pixel.number, 13 - pixel.order)
        found = pq.ParquetFile(margins[pixel][0]).read() if pixel in margins else table[:0]
        wanted = table.filter(pa.array(np.isin(places, around)))
        assert found.sort_by("index").equals(wanted)
        total += len(found)
    assert total > 100


def test_it_is_valid_and_says_what_it_is(grown):
    catalogue, out, _ = grown
    assert is_valid_catalog(out, strict=True)
    text = (out / "sky" / "hats.properties").read_text()
    lines = dict(line.split("=", 1) for line in text.splitlines() if "=" in line)
    assert lines["hats_cols_survey_id"] == "index"
    assert lines["obs_title"] == "Synthetic galaxies drawn from a mixture of components (avader)"
    assert lines["hats_nrows"] == "6000"
    held, of = read_manifest(str(out)), growth.read_whole(catalogue)
    assert held.settings["catalogue_kind"] == "synthetic"
    assert "data" not in held.settings
    for facts in (held.facts, read_manifest(growth.folder(str(out), 2)).facts):
        assert facts.keys() == {"shape", "files", "margin"}
        assert "region.npy" not in [file["path"] for file in facts["files"]]
    newest = read_manifest(growth.folder(str(out), 2))
    assert newest.settings["catalogue"] == read_manifest(growth.folder(catalogue, 2)).digest
    assert newest.provenance["generation"] == of.provenance
    assert read_manifest(str(out / "sky_10arcs_000002")).settings["catalogue"] == of.digest
    metadata = pq.read_schema(out / "sky/dataset/_common_metadata").metadata
    content = metadata[b"IVOA.VOTable-Parquet.content"]
    fields = {f.name: f for f in parse(io.BytesIO(content)).get_first_table().fields}
    assert fields["ra"].ucd == "pos.eq.ra;meta.main"
    assert fields["index"].ucd == "meta.id;meta.main"
    assert (fields["image"].datatype, fields["image"].arraysize) == ("unsignedByte", "16")
    assert fields["latent"].description.startswith("the latent that was drawn")


def test_lsdb_opens_it(grown):
    _, out, _ = grown
    assert 400 < len(seen_by_lsdb(out)) < 1000


def seen_by_lsdb(out: Path) -> list[int]:
    """Objects of a cone, by lsdb and by distances alike."""
    import dask
    import lsdb

    frame = open_catalogue(str(out)).to_pandas(["index", "ra", "dec"])
    apart = SkyCoord(*CENTRE, unit="deg").separation(SkyCoord(frame.ra, frame.dec, unit="deg"))
    with dask.config.set(scheduler="synchronous"):
        opened = lsdb.open_catalog(str(out), columns="all")
        found = opened.cone_search(*CENTRE, 600).compute(progress_bar=False)
        limits = opened.aggregate_column_statistics(include_columns=["index"])
        everything = opened.per_partition_statistics()
    assert sorted(found["index"]) == sorted(frame["index"][apart.arcsec <= 600])
    assert set(opened.columns) >= set(open_catalogue(str(out)).dataset.schema.names) - {
        "_healpix_29"
    }
    assert list(limits.loc["index"][["min_value", "max_value"]]) == [0, len(frame) - 1]
    assert len(everything) == len(opened.get_healpix_pixels())
    return list(found["index"])


@pytest.mark.parametrize("store", ["encoded", "recipe"])
def test_skies_of_files_and_recipes(shares, store, tmp_path):
    """Grown at once, so that statistics stand in for the metadata of all files."""
    catalogue = written(tmp_path / "sky", shares[0], store)
    written(growth.folder(catalogue, 2), shares[1][:30], store)
    growth.publish(catalogue, 2)
    out = made(catalogue, tmp_path / "collection", margin=0)
    assert is_valid_catalog(out, strict=True)
    found = open_catalogue(str(out)).to_arrow()
    assert len(seen_by_lsdb(out)) > 50
    indices = np.arange(shares[1][29].stop)
    assert found.sort_by("index").equals(objects(indices, [*shares[0], *shares[1]], store))
    assert read_manifest(str(out)).settings["writer"]["row_group_size"] == (
        50_000 if store == "recipe" else 2000
    )


def test_objects_of_several_groups_in_a_pixel(tmp_path):
    """As of --counts: each component is all over the sky, so that a pixel has ranges of each."""
    found = deal(REGION, [300, 200], SEED, rows_per_unit=80)
    by_pixel: dict[Pixel, list[np.ndarray]] = {}
    for pixel, start, stop in found:
        by_pixel.setdefault(pixel, []).append(np.arange(start, stop))
    parts = {
        pixel.name: objects(np.concatenate(own), found).sort_by("_healpix_29")
        for pixel, own in by_pixel.items()
    }
    settings = {"model": "m" * 64, "store": "images"}
    catalogue = write_parts(tmp_path / "sky", parts, kind="synthetic", settings=settings)
    out = made(catalogue, tmp_path / "collection")
    assert (
        open_catalogue(str(out)).to_arrow().sort_by("index").equals(objects(np.arange(500), found))
    )
    assert is_valid_catalog(out, strict=True)
