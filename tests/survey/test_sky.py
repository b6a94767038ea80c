"""A source cut into units by the sky: every object once, in the pixel that its position says."""

import json
import math
from collections import Counter
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from avader.catalogue.pixels import FINEST, named_pixel
from avader.errors import InputError
from avader.io import storage
from avader.plan import Unit
from avader.survey.selection import select
from avader.survey.sky import sky_units, times_read
from avader.survey.sources import Source, describe_row, read_ids, read_unit, row_numbers
from tests.healpix import pixel_of
from tests.survey.samples import opened, table, write

LIMIT = 20
BAD = [(None, 1.0), (1.0, None), (math.nan, 1.0), (1.0, math.inf), (1.0, 90.5), (361.0, 1.0)]
Positions = tuple[list[float | None], list[float | None]]


def scattered(count: int, seed: int) -> Positions:
    """Positions all over the sky, half of them in one dense place, in no order."""
    generator = np.random.default_rng(seed)
    half = count // 2
    ra = np.concatenate([generator.uniform(-360, 360, half), generator.normal(83, 0.05, half)])
    height = np.concatenate([generator.uniform(-1, 1, half), generator.normal(0.2, 1e-3, half)])
    order = generator.permutation(2 * half)
    return ra[order].tolist(), np.degrees(np.arcsin(height))[order].tolist()


def with_bad(positions: Positions, every: int) -> Positions:
    """Now and then a position that is none."""
    ra, dec = (list(values) for values in positions)
    for number, (bad_ra, bad_dec) in enumerate(BAD * 3):
        ra[every * number], dec[every * number] = bad_ra, bad_dec
    return ra, dec


def is_good(ra: float | None, dec: float | None) -> bool:
    return (ra, dec) not in BAD and ra is not None and not math.isnan(ra)


def cut(source: Source, limit: int = LIMIT) -> list[Unit]:
    """The units, each taken through JSON as it is on its way to a worker."""
    units = sky_units(source, limit=limit)
    return [Unit(**json.loads(json.dumps(asdict(unit)))) for unit in units]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Three tables, with row groups of other sizes; ids tell table and row."""
    folder = tmp_path_factory.mktemp("sky")
    for number, (rows, group) in enumerate([(300, 40), (200, 1000), (400, 7)]):
        ra, dec = with_bad(scattered(rows, number), every=9)
        ids = [f"{number}-{row}" for row in range(rows)]
        table(folder / f"{number}.parquet", rows, group=group, object_id=ids, ra=ra, dec=dec)
    return folder


@pytest.fixture(scope="module")
def whole(folder) -> list[dict]:
    """All rows in source order."""
    return pa.concat_tables(
        pq.read_table(folder / f"{number}.parquet") for number in range(3)
    ).to_pylist()


@pytest.fixture(scope="module")
def units(folder) -> list[Unit]:
    return cut(opened(folder))


def test_every_object_is_in_one_unit_and_in_source_order(units, whole):
    numbers = []
    for unit in units:
        found = read_unit(unit)
        rows = found["source_row"].to_pylist()
        assert rows == sorted(rows)
        assert len(rows) == unit.inputs["count"]
        for row, got in zip(rows, found.to_pylist(), strict=True):
            wanted = whole[row]
            assert got["object_id"] == wanted["object_id"]
            assert (got["image"], got["label"]) == (wanted["image"], wanted["label"])
        numbers += rows
    assert sorted(numbers) == list(range(len(whole)))


def test_the_unit_is_the_pixel_of_the_position(units):
    for unit in units:
        pixel = named_pixel(unit.name)
        for row in read_unit(unit).to_pylist():
            assert is_good(row["ra"], row["dec"]) == (pixel is not None)
            if pixel is not None:
                assert pixel_of(row["ra"], row["dec"], pixel.order) == pixel.number


def test_pixels_are_the_coarsest_that_hold_no_more_than_the_limit(units, whole):
    """Recounted by the book, at the pixel's own order and the one above."""
    good = [(row["ra"], row["dec"]) for row in whole if is_good(row["ra"], row["dec"])]
    counts = [Counter(pixel_of(*at, order) for at in good) for order in range(FINEST + 1)]
    pixels = [pixel for unit in units if (pixel := named_pixel(unit.name))]
    assert len({pixel.order for pixel in pixels}) > 2
    for pixel in pixels:
        assert counts[pixel.order][pixel.number] <= LIMIT or pixel.order == FINEST
        if pixel.order:
            assert counts[pixel.order - 1][pixel.number // 4] > LIMIT
    assert [pixel.span for pixel in pixels] == sorted(pixel.span for pixel in pixels)


def test_bad_positions_have_units_of_their_own(units, whole):
    names = [unit.name for unit in units if named_pixel(unit.name) is None]
    assert names == [f"unplaced-{number:08d}" for number in range(len(names))]
    assert names == [unit.name for unit in units[-len(names) :]]
    held = [name for unit in units[-len(names) :] for name in read_ids(unit)]
    assert held == [row["object_id"] for row in whole if not is_good(row["ra"], row["dec"])]
    # At most LIMIT, and those of one more row group, of which the largest holds 18.
    assert len(held) == 54
    assert all(unit.inputs["count"] <= LIMIT + 18 for unit in units[-len(names) :])
    assert len(names) > 1


def test_numbers_and_places_of_rows(units, whole):
    starts = {"0.parquet": 0, "1.parquet": 300, "2.parquet": 500}
    for unit in units[::7]:
        for number, name in zip(row_numbers(unit).tolist(), read_ids(unit), strict=True):
            assert whole[number]["object_id"] == name
            _, at, _, path = describe_row(unit, number).split()
            assert starts[path] + int(at) == number


def test_nothing_but_positions_is_read_and_no_row_group_in_vain(folder, monkeypatch):
    read = []
    batches = pq.ParquetFile.iter_batches

    def watched(self, *args, row_groups, columns, **options):
        read.append((row_groups, columns))
        return batches(self, *args, row_groups=row_groups, columns=columns, **options)

    monkeypatch.setattr(pq.ParquetFile, "iter_batches", watched)
    source = opened(folder / "2.parquet")
    units = sky_units(source, limit=LIMIT)
    assert {name for _, columns in read for name in columns} == {"ra", "dec"}
    groups = {}
    for unit in units:
        read.clear()
        rows = read_unit(unit)["source_row"].to_numpy()
        groups[unit.name] = [group for groups, _ in read for group in groups]
        assert set(groups[unit.name]) == set((rows // 7).tolist())
        assert len(set(groups[unit.name])) == len(groups[unit.name])
    last = 400 - 57 * 7  # rows of the last group
    rows_read = sum(7 if group < 57 else last for read in groups.values() for group in read)
    assert times_read(source, units) == rows_read / 400


def test_neighbouring_row_groups_are_one_piece(tmp_path):
    ra = np.repeat([10.0, 200.0], 50)
    source = opened(table(tmp_path / "t.parquet", 100, group=10, ra=ra, dec=np.zeros(100)))
    one, other = cut(source, limit=60)
    assert [unit.inputs["pieces"][0][2:] for unit in (one, other)] == [[0, 50, 0], [50, 50, 50]]
    assert (len(one.inputs["pieces"]), times_read(source, [one, other])) == (1, 1.0)


def test_a_dense_pixel_of_the_highest_order_is_one_unit(tmp_path):
    source = opened(table(tmp_path / "t.parquet", 50, ra=np.full(50, 3.3), dec=np.full(50, 4.4)))
    (unit,) = cut(source, limit=10)
    assert unit.name == f"o10-{pixel_of(3.3, 4.4, 10):010d}"
    assert read_ids(unit) == [f"g{number}" for number in range(50)]


def test_no_position_at_all(tmp_path):
    nowhere = pa.nulls(50, pa.float64())
    source = opened(table(tmp_path / "t.parquet", 50, group=4, ra=nowhere, dec=nowhere))
    units = cut(source, limit=20)
    assert [unit.inputs["count"] for unit in units] == [20, 20, 10]
    assert [name for unit in units for name in read_ids(unit)] == [f"g{n}" for n in range(50)]


@pytest.mark.parametrize("part", [None, "train"])
def test_of_selected_rows(tmp_path, part):
    ra, dec = with_bad(scattered(400, 5), every=9)
    votes = np.where(np.arange(400) % 3, 40, 30)
    uri = table(tmp_path / "t.parquet", 400, group=30, ra=ra, dec=dec, votes=votes)
    source = select(opened(uri), votes_column="votes", min_votes=37, part=part)
    units = cut(source)
    wanted = [name for unit in source.units(1000) for name in read_ids(unit)]
    assert sorted(name for unit in units for name in read_ids(unit)) == sorted(wanted)
    for unit in units:
        ids = read_ids(unit)
        assert ids == read_unit(unit)["object_id"].to_pylist()
        assert [f"g{number}" for number in row_numbers(unit)] == ids


def test_paths_are_below_the_folder_of_their_own_table(tmp_path):
    """One pixel holds rows of both tables."""
    for name in ("a", "b"):
        write(tmp_path / name, "x.dat")
        (tmp_path / name / "x.dat").rename(tmp_path / name / "img.png")
        (tmp_path / name / "img.png").write_bytes(name.encode())
        one = {"image": ["img.png"] * 3, "ra": [1.0] * 3, "dec": [1.0] * 3}
        table(tmp_path / name / "t.parquet", 3, **one)
    (unit,) = cut(opened(tmp_path / "*" / "t.parquet"), limit=100)
    assert read_unit(unit)["image"].to_pylist() == [b"a"] * 3 + [b"b"] * 3


def test_positions_that_changed_since(tmp_path):
    ra = np.linspace(0, 300, 60)
    uri = table(tmp_path / "t.parquet", 60, ra=ra)
    units = cut(opened(uri))
    table(tmp_path / "t.parquet", 60, ra=ra[::-1] + 20)
    with pytest.raises(InputError, match=r"objects in unit o\d\d-\d{10}, came .* has changed"):
        list(map(read_unit, units))


@pytest.mark.parametrize("kind", [pa.int16(), pa.float32()])
def test_positions_of_integers_and_narrow_floats(tmp_path, kind):
    ra, dec = pa.array([100, 10, None], kind), pa.array([5, -5, 0], kind)
    units = cut(opened(table(tmp_path / "t.parquet", 3, ra=ra, dec=dec)), limit=1)
    assert {unit.name: read_ids(unit) for unit in units} == {
        f"o00-{pixel_of(10, -5, 0):010d}": ["g1"],
        f"o00-{pixel_of(100, 5, 0):010d}": ["g0"],
        "unplaced-00000000": ["g2"],
    }


def test_on_s3_as_on_disk(folder, units, s3_uri):
    for path in folder.glob("*.parquet"):
        storage.write_bytes(storage.join(s3_uri, path.name), path.read_bytes())
    found = cut(opened(s3_uri))
    assert [(unit.name, unit.inputs["pieces"]) for unit in found] == [
        (unit.name, unit.inputs["pieces"]) for unit in units
    ]
    assert read_unit(found[3]).equals(read_unit(units[3]))
