"""Sources for the tests: files whose bytes are their names, small tables, and how they are read."""

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from avader.errors import InputError
from avader.plan import Unit
from avader.survey.sources import Columns, open_source, read_ids, read_unit

RESERVED = {"component", "_healpix_29", "flags"}


def write(folder: Path, *names: str) -> Path:
    """Files whose bytes are their own names."""
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode())
    return folder


def table(path: Path, rows: int = 5, *, group: int = 1000, drop=(), **extra) -> str:
    columns = {
        "object_id": pa.array([f"g{number}" for number in range(rows)], pa.string()),
        "ra": np.linspace(0, 10, rows),
        "dec": np.linspace(-5, 5, rows),
        "image": pa.array([f"bytes {number}".encode() for number in range(rows)], pa.binary()),
        "label": np.arange(rows, dtype=np.int8),
    }
    columns = {name: values for name, values in columns.items() if name not in drop} | extra
    pq.write_table(pa.table(columns), path, row_group_size=group)
    return str(path)


def opened(uri, **columns):
    return open_source(str(uri), columns=Columns(**columns), reserved=RESERVED)


def everything(source, rows_per_shard=1000) -> pa.Table:
    """All units, each taken through JSON as it is on its way to a worker."""
    units = [Unit(**json.loads(json.dumps(asdict(u)))) for u in source.units(rows_per_shard)]
    whole = pa.concat_tables([read_unit(unit) for unit in units])
    assert whole["object_id"].to_pylist() == [name for unit in units for name in read_ids(unit)]
    return whole


def refused(uri, **columns) -> str:
    with pytest.raises(InputError) as caught:
        opened(uri, **columns)
    return str(caught.value)
