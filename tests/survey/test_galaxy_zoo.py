"""Selection by votes, and the split of the paper in any order and at any size."""

import json
from dataclasses import asdict
from fractions import Fraction
from hashlib import blake2b

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from avader.errors import InputError
from avader.plan import Unit
from avader.survey.galaxy_zoo import PARTS, Selection, key_range, keys_of, part_sizes
from avader.survey.selection import select
from avader.survey.sources import Columns, Source, describe_row, open_source, read_ids, row_numbers
from tests.survey.samples import everything, opened, table, write

PAPER = {"train": 159_600, "validation": 5_000, "test": 41_100}


def ids_of(source: Source, rows_per_shard: int = 1000) -> list[str]:
    return [name for unit in source.units(rows_per_shard) for name in read_ids(unit)]


class TestSizes:
    def test_of_the_paper(self):
        assert part_sizes(205_700) == PAPER

    @pytest.mark.parametrize("total", [*range(40), 506, 205_699, 205_701, 10**8])
    def test_of_any_table(self, total):
        sizes = part_sizes(total)
        assert sum(sizes.values()) == total
        for part, size in sizes.items():
            assert abs(size - Fraction(PAPER[part], 205_700) * total) < 1

    def test_largest_remainder(self):
        # Exact shares of 10 are 7.76, 0.24 and 1.998: two are left, for test and train.
        assert part_sizes(10) == {"train": 8, "validation": 0, "test": 2}


class TestParts:
    def members(self, names: list[str]) -> dict[str, set[str]]:
        keys = keys_of(names)
        found = {}
        for part in PARTS:
            first, last = key_range(keys, part)
            taken = Selection(None, 0, first, last).mask(names, None)
            found[part] = {name for name, inside in zip(names, taken, strict=True) if inside}
        return found

    def test_the_full_table_is_split_exactly(self):
        names = [str(587722981736120347 + 64 * number) for number in range(205_700)]
        found = self.members(names)
        assert {part: len(members) for part, members in found.items()} == PAPER
        assert set.union(*found.values()) == set(names)
        # As good as drawn: neighbours in the table are not together.
        early = sum(name in found["train"] for name in names[:100_000])
        assert abs(early - 77_589) < 5 * np.sqrt(100_000 * 0.776 * 0.224 / 2)

    @pytest.mark.parametrize("count", [0, 1, 2, 3, 4, 9, 57, 500])
    def test_any_size_is_split_exactly(self, count):
        names = [f"g{number}" for number in range(count)]
        found = self.members(names)
        assert {part: len(members) for part, members in found.items()} == part_sizes(count)
        assert set().union(*found.values()) == set(names)

    def test_order_and_repeats_change_nothing(self):
        names = [f"g{number}" for number in range(300)]
        wanted = self.members(names)
        mixed = list(np.random.default_rng(0).permutation(names)) + names[:50]
        assert self.members(mixed) == wanted

    def test_keys_stay_what_they_are(self):
        """A key that changes would mix what trained with what tests."""
        digest = blake2b(b"587722981736120347", digest_size=8, person=b"avader split").digest()
        assert keys_of(["587722981736120347"])[0] == int.from_bytes(digest, "little")
        assert keys_of(["587722981736120347"])[0] == 4840421042479855876


class TestSelect:
    VOTES = (36.0, 37.0, None, float("nan"), 64.0)

    @pytest.fixture
    def votes(self, tmp_path) -> str:
        values = pa.array([self.VOTES[number % 5] for number in range(300)], pa.float64())
        return table(tmp_path / "t.parquet", 300, group=70, total_classifications=values)

    def test_more_than_36_votes(self, votes):
        source = select(opened(votes), votes_column="total_classifications", min_votes=37)
        wanted = [f"g{number}" for number in range(300) if number % 5 in (1, 4)]
        assert source.taken == len(wanted) == 120
        assert ids_of(source) == ids_of(source, 7) == wanted
        rows = everything(source, 11)
        assert set(rows["total_classifications"].to_pylist()) == {37.0, 64.0}
        assert rows["image"].to_pylist() == [f"bytes {name[1:]}".encode() for name in wanted]

    def test_parts_of_what_is_left_are_disjoint_and_whole(self, votes):
        parts = {
            part: select(
                opened(votes), votes_column="total_classifications", min_votes=37, part=part
            )
            for part in PARTS
        }
        assert {part: source.taken for part, source in parts.items()} == part_sizes(120)
        names = sorted(name for source in parts.values() for name in ids_of(source, 13))
        assert names == sorted(f"g{number}" for number in range(300) if number % 5 in (1, 4))

    def test_a_row_without_an_id_is_in_one_part(self, tmp_path):
        names = [f"g{number}" for number in range(40)]
        names[5] = ""
        uri = table(tmp_path / "t.parquet", 40, object_id=names)
        found = [ids_of(select(opened(uri), votes_column="", part=part)) for part in PARTS]
        assert sorted(name for part in found for name in part) == sorted(names)

    def test_units_say_where_their_rows_stand(self, votes):
        source = select(opened(votes), votes_column="total_classifications", min_votes=37)
        unit = source.units(10)[2]  # rows 20 to 30 of the table
        assert [describe_row(unit, number) for number in row_numbers(unit)] == [
            f"row {row} of t.parquet" for row in (21, 24, 26, 29)
        ]

    def test_units_hold_what_a_worker_needs(self, votes):
        source = select(opened(votes), votes_column="total_classifications", part="test")
        unit = source.units(300)[0]
        assert read_ids(Unit(**json.loads(json.dumps(asdict(unit))))) == read_ids(unit)

    @pytest.mark.parametrize(
        ("column", "least", "message"),
        [
            ("votes", 37, "wanted a column 'votes' of votes, came columns label, total_class"),
            ("name", 37, "wanted numbers of votes in 'name', came string"),
            ("total_classifications", 65, "came none of 300 in"),
        ],
    )
    def test_refused(self, votes, column, least, message):
        names = pa.array(["x"] * 300)
        pq.write_table(pq.read_table(votes).append_column("name", names), votes)
        with pytest.raises(InputError, match=message):
            select(opened(votes), votes_column=column, min_votes=least)

    def test_image_files_have_no_votes(self, tmp_path):
        with pytest.raises(InputError, match="wanted a table for --split"):
            select(opened(write(tmp_path, "a.png")), votes_column="", part="test")


def test_the_real_table(real_data):
    """570 of Galaxy Zoo 2, of which 506 have the votes."""
    uri = str(real_data / "gz2_votes.parquet")
    asked = {"votes_column": "total_classifications", "min_votes": 37}
    source = open_source(uri, columns=Columns())
    votes = pq.read_table(uri, columns=["total_classifications"])[0].to_numpy()
    assert select(source, **asked).taken == np.count_nonzero(votes > 36) == 506
    parts = [ids_of(select(source, **asked, part=part)) for part in PARTS]
    assert [len(part) for part in parts] == [393, 12, 101]
    assert len(set().union(*parts)) == 506
