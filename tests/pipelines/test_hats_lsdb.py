"""HATS collections opened by lsdb: cones and cross-matches against distances of all pairs."""

import astropy.units as u
import cdshealpix.nested as nested
import numpy as np
import pytest
from astropy.coordinates import SkyCoord, angular_separation

from avader.api import open_catalogue
from avader.config import HatsSettings
from avader.pipelines import hats
from tests.skies import at, grow_sky, jittered, numbered, patch, write_sky

# Of pandas, for how lsdb and what it stands on use it; and of lsdb, for its coming defaults.
pytestmark = [
    pytest.mark.usefixtures("ray_session"),
    pytest.mark.filterwarnings("ignore::pandas.errors.Pandas4Warning"),
]
RADIUS = 5
CENTRE = 45.0, 0.0
"""Where four base pixels meet."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory, ray_session):
    return tmp_path_factory.mktemp("skies")


def collection(
    folder, name: str, positions: np.ndarray, *, rows: int, later: int | None = None, **given
) -> str:
    """A HATS collection of rows at positions; its URI. The rows' ids are their numbers.

    later: number of the first row that comes once the others are there.
    """
    out, table = str(folder / name), at(positions)
    sky = write_sky(folder / f"{name}-sky", numbered(table, 0, later), limit=60)
    settings = HatsSettings(
        catalogue=sky, out=out, name=name, rows_per_pixel=rows, workers=1, **given
    )
    hats.run(settings)
    if later is not None:
        grow_sky(sky, numbered(table, later), limit=60)
        hats.run(settings)
    return out


def crowd() -> np.ndarray:
    return patch(900, ra=CENTRE[0], dec=CENTRE[1], width=0.12)


@pytest.fixture(scope="module")
def sky(folder) -> str:
    far = patch(40, ra=200, dec=60, width=20, seed=1)
    return collection(folder, "sky", np.concatenate([crowd(), far], axis=1), rows=300)


@pytest.fixture(scope="module")
def grown(folder) -> str:
    """The same rows, of which a half came later: in tiles that were there, and beside them."""
    far = patch(40, ra=200, dec=60, width=20, seed=1)
    everywhere = np.concatenate([far[:, :20], crowd(), far[:, 20:]], axis=1)
    return collection(folder, "grown", everywhere, rows=150, later=470)


@pytest.fixture(params=["sky", "grown"])
def either(request) -> str:
    return request.getfixturevalue(request.param)


@pytest.fixture(scope="module")
def other(folder) -> str:
    """Another catalogue of the crowd, by a telescope that points less well; in other tiles."""
    moved = jittered(crowd(), arcsec=4, seed=2)
    return collection(folder, "other", moved, rows=130, margin=0)


@pytest.fixture
def lsdb():
    """lsdb, which works in this process alone."""
    import dask
    import lsdb

    with dask.config.set(scheduler="synchronous"):
        yield lsdb


def computed(catalogue):
    return catalogue.compute(progress_bar=False)


def test_a_collection_opens_with_its_margin(lsdb, either):
    opened = lsdb.open_catalog(either)
    assert opened.hc_structure.catalog_info.total_rows == 940
    assert opened.margin.hc_structure.catalog_info.margin_threshold == 10
    found, wanted = computed(opened), open_catalogue(either).to_pandas().set_index("_healpix_29")
    assert list(found.columns) == list(wanted.columns)
    found, wanted = (frame.sort_values("object_id") for frame in (found, wanted))
    for name in ("object_id", "ra", "component"):
        assert found[name].tolist() == wanted[name].tolist()
    np.testing.assert_array_equal(np.stack(found.probability), np.stack(wanted.probability))


@pytest.mark.parametrize(
    ("ra", "dec", "arcsec"),
    [(*CENTRE, 90), (CENTRE[0] + 0.01, CENTRE[1] + 0.03, 60), (200.0, 60.0, 30_000)],
)
def test_a_cone_holds_what_is_near(lsdb, either, ra, dec, arcsec):
    frame = open_catalogue(either).to_pandas()
    apart = SkyCoord(ra, dec, unit="deg").separation(SkyCoord(frame.ra, frame.dec, unit="deg"))
    wanted = frame.object_id[apart.arcsec <= arcsec]
    assert 10 < len(wanted) < 500
    cone = lsdb.ConeSearch(ra, dec, arcsec)
    for found in (
        lsdb.open_catalog(either).cone_search(ra, dec, arcsec),
        lsdb.open_catalog(either, search_filter=cone, columns=["object_id"]),
    ):
        assert sorted(computed(found).object_id) == sorted(wanted)


def pairs(left: str, right: str) -> set[tuple[str, str]]:
    """Ids of all rows of two catalogues within RADIUS of each other."""
    one, two = (open_catalogue(uri).to_pandas(["object_id", "ra", "dec"]) for uri in (left, right))
    places = (np.radians(frame[name].to_numpy()) for frame in (one, two) for name in ("ra", "dec"))
    ra, dec, others_ra, others_dec = places
    apart = angular_separation(ra[:, None], dec[:, None], others_ra, others_dec)
    near = np.argwhere(np.degrees(apart) * 3600 <= RADIUS)
    return {(one.object_id[i], two.object_id[j]) for i, j in near}


def matched(lsdb, left: str, right: str) -> set[tuple[str, str]]:
    """The same by lsdb."""
    names = {"columns": ["object_id", "ra", "dec"]}
    found = lsdb.open_catalog(left, **names).crossmatch(
        lsdb.open_catalog(right, **names),
        radius_arcsec=RADIUS,
        n_neighbors=20,
        suffixes=("_left", "_right"),
        suffix_method="all_columns",
    )
    frame = computed(found)
    both = list(zip(frame.object_id_left, frame.object_id_right, strict=True))
    assert len(both) == len(set(both))
    return set(both)


def test_a_cross_match_is_right_at_the_edges(lsdb, other, either):
    wanted = pairs(other, either)
    assert 900 < len(wanted) < 1300
    assert matched(lsdb, other, either) == wanted


def test_statistics_of_tiles_of_several_files(lsdb, grown):
    """By the hats library, from what stands in for its own file of them."""
    opened = lsdb.open_catalog(grown)
    found = opened.per_partition_statistics(include_columns=["ra"])
    assert found["ra: row_count"].sum() == 940
    frame = open_catalogue(grown).to_pandas(["ra", "dec"])
    limits = opened.aggregate_column_statistics(include_columns=["ra", "dec"])
    for name in ("ra", "dec"):
        assert limits["min_value"][name] == frame[name].min()
        assert limits["max_value"][name] == frame[name].max()
    assert len(opened.random_sample(50, seed=1)) == 50


@pytest.mark.filterwarnings("ignore:Right catalog does not have a margin cache:RuntimeWarning")
def test_without_the_margin_pairs_across_edges_are_missed(lsdb, other, sky):
    found, wanted = matched(lsdb, other, f"{sky}/sky"), pairs(other, sky)
    assert found < wanted
    assert len(wanted - found) > 3


@pytest.mark.long
@pytest.mark.filterwarnings("ignore:Right catalog does not have a margin cache:RuntimeWarning")
def test_a_pair_across_the_edge_of_what_has_rows(lsdb, folder):
    """Rows just within a base pixel, and others just beyond its edge, where the first has none."""
    lon, lat = nested.vertices(np.array([4]), 0, step=64)
    edge = SkyCoord(lon.ravel(), lat.ravel(), frame="icrs")[8:56]
    inwards = edge.position_angle(SkyCoord(0, 0, unit="deg"))
    inside, outside = (edge.directional_offset_by(inwards, step) for step in (1, -1) * u.arcsec)
    places = [np.stack([side.ra.deg, side.dec.deg]) for side in (inside, outside)]
    right = collection(folder, "inside", places[0], rows=10**6)
    left = collection(folder, "outside", places[1], rows=10**6, margin=0)
    assert len(pairs(left, right)) == 48
    assert matched(lsdb, left, right) == pairs(left, right)
    with pytest.raises(RuntimeError, match="Catalogs do not overlap"):
        matched(lsdb, left, f"{right}/inside")
