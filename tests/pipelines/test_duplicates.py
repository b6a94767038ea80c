import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from avader.pipelines import duplicates
from avader.pipelines.duplicates import find_duplicates
from avader.survey.sources import Columns, open_source
from tests.catalogue.test_repeats import plain

ROWS, PER_UNIT = 300, 7


def test_repeats_of_many_units_name_the_row_that_is_kept(ray_session, tmp_path, monkeypatch):
    monkeypatch.setattr(duplicates, "MOST_TASKS", 10)
    numbers = np.random.default_rng(0).integers(0, 200, ROWS).tolist()
    names = [f"g{number}" if number else None for number in numbers]
    pq.write_table(
        pa.table({"object_id": names, "image": ["absent.png"] * ROWS}), tmp_path / "table.parquet"
    )
    columns = Columns(id="object_id", ra=None, dec=None, image="image")
    units = open_source(str(tmp_path), columns=columns).units(PER_UNIT)
    read, numbers_of = [], duplicates.row_numbers
    monkeypatch.setattr(
        duplicates, "row_numbers", lambda unit: [read.append(unit.name), numbers_of(unit)][1]
    )
    told = find_duplicates(units).of(np.arange(ROWS))
    assert told == {
        row: f"the same id came first in row {kept} of table.parquet" for row, kept in plain(names)
    }
    assert len(told) > 50
    # Of a selection that is a look at the table: one for those refused, one for those kept.
    assert all(read.count(unit.name) <= 2 for unit in units)
