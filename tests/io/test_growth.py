"""A folder of several increments reads as one; versions are never written over."""

import json

import pyarrow as pa
import pytest

from avader.catalogue.rows import reject_table
from avader.config import VerifySettings
from avader.errors import InputError
from avader.io import growth, shards, storage
from avader.io.manifest import write_manifest
from avader.pipelines import verify
from avader.plan import Plan, Unit
from tests.catalogues import classified, write_folder


@pytest.fixture(params=["local", "S3"])
def out(request, tmp_path) -> str:
    root = request.getfixturevalue("s3_uri") if request.param == "S3" else str(tmp_path)
    return f"{root}/catalogue"


def add(out: str, number: int, rows: int) -> None:
    write_folder(growth.folder(out, number), classified(rows, seed=number), per_part=4)


def test_one_increment_is_a_folder_as_ever(out):
    add(out, 1, 10)
    growth.publish(out, 1)
    assert growth.latest(out) == 1
    assert growth.read_whole(out).totals["rows"] == 10
    assert not storage.exists(f"{out}/latest.json")


def test_increments_read_as_one(out):
    for number, rows in ((1, 10), (2, 3), (3, 6)):
        add(out, number, rows)
        growth.publish(out, number)
    whole = growth.read_whole(out, kind="classified")
    assert whole.totals == {"rows_in": 19, "rows": 19, "rejects": 0}
    ids = [
        name
        for part in whole.parts
        for name in shards.read_whole_part(out, part)["object_id"].to_pylist()
    ]
    assert ids == [
        name
        for number, rows in ((1, 10), (2, 3), (3, 6))
        for name in classified(rows, seed=number)["object_id"].to_pylist()
    ]
    assert [held.totals["rows"] for held in growth.read_increments(out)] == [10, 3, 6]
    assert whole.digest not in [held.digest for held in growth.read_increments(out)]


def test_an_increment_counts_once_it_is_published(out):
    add(out, 1, 10)
    before = growth.read_whole(out)
    add(out, 2, 3)
    assert growth.read_whole(out) == before
    growth.publish(out, 2)
    assert growth.read_whole(out).totals["rows"] == 13
    growth.publish(out, 2)
    assert growth.latest(out) == 2


def test_latest_never_goes_back(out):
    for number in (1, 2, 3):
        add(out, number, 3)
        growth.publish(out, number)
    growth.publish(out, 2)
    assert growth.latest(out) == 3


def test_a_publication_that_was_stopped_is_repeated(out):
    add(out, 1, 3)
    add(out, 2, 3)
    growth.publish(out, 2)
    storage.remove(f"{out}/latest.json")  # stopped between the version and latest.json
    assert growth.latest(out) == 1
    growth.publish(out, 2)
    assert growth.latest(out) == 2


def test_a_version_that_was_left_out_is_written_with_the_next(out):
    for number in (1, 2, 3):
        add(out, number, number)
    growth.publish(out, 3)  # a run was stopped before it published the second
    assert [growth.read_whole(out, version=at).totals["rows"] for at in (1, 2, 3)] == [1, 3, 6]


def test_parts_of_an_increment_among_those_of_the_first(out):
    add(out, 1, 10)
    own, table = growth.folder(out, 2), classified(3, seed=2)
    table = table.set_column(0, table.schema.field(0), pa.array(["a", "b", "c"]))
    plan = Plan("classified", {}, (Unit("b", {}),), lambda unit: f"parts/{unit}", out)
    nothing = reject_table([], "b")
    receipt = shards.write_unit(
        own, plan.units[0], rows_in=3, table=table, rejects=nothing, place=plan.place, root=out
    )
    held = write_manifest(own, plan, [receipt], provenance={}, facts={"of": "all"})
    growth.publish(out, 2)
    whole = growth.read_whole(out)
    assert held.parts == whole.parts[3:]
    assert (held.paths, whole.facts) == (["parts/b"], {"of": "all"})
    assert storage.exists(f"{out}/increments/000002/rejects/b.parquet")
    assert whole.parts[3]["rejects_path"] == "increments/000002/rejects/b.parquet"
    assert shards.read_whole_part(out, whole.parts[3]).equals(table)
    verify.run(VerifySettings(catalogue=out))


def test_a_manifest_that_changed_is_seen(out):
    for number in (1, 2):
        add(out, number, 3)
        growth.publish(out, number)
    where = f"{out}/manifest.json"
    content = json.loads(storage.read_bytes(where))
    storage.write_bytes(where, json.dumps(content | {"totals": {}}).encode())
    with pytest.raises(InputError, match="as version 2 lists it"):
        growth.read_whole(out)
    with pytest.raises(InputError, match="lists other increments"):
        growth.publish(out, 2)
