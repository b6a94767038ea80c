"""What a run would take, said without doing it; and that nothing is touched."""

import logging
import os
from pathlib import Path

import pytest
import torch

from avader import config
from avader.catalogue.provenance import provenance
from avader.catalogue.rows import Reject, reject_table
from avader.config import (
    ClassifySettings,
    CompactSettings,
    GenerateSettings,
    Machine,
    PackSettings,
)
from avader.errors import InputError
from avader.images.checks import Reason
from avader.inference.engine import Engine
from avader.io import growth, shards
from avader.io.manifest import open_plan, read_manifest, write_manifest
from avader.io.models import read_model
from avader.mixture.sample import Draw
from avader.pipelines import classify, compact, dry_run, generate, pack, units
from avader.pipelines.cores import cores
from avader.pipelines.drawing.worker import DrawUnit
from avader.pipelines.dry_run import cost_line
from avader.pipelines.memory import Need
from avader.pipelines.progress import size
from avader.plan import Unit
from avader.recipe import Preprocessing
from tests.catalogues import classified, write_folder
from tests.pipelines.packed import write_packed
from tests.tiny import write_table, write_tiny_model
from tests.training.test_loop import images

SMALL = Preprocessing(size=16)


@pytest.fixture(autouse=True)
def no_ray(monkeypatch):
    """A dry run that starts Ray fails."""
    monkeypatch.setattr(units, "cluster", None)


@pytest.fixture
def said(caplog):
    caplog.set_level(logging.INFO, "avader")
    return lambda: [record.getMessage() for record in caplog.records]


@pytest.fixture
def model(tmp_path) -> str:
    return write_tiny_model(tmp_path / "model", preprocessing=SMALL)


def test_classify(model, tmp_path, said):
    data, out = write_packed(tmp_path / "packed", images(), per_shard=10), tmp_path / "out"
    machine = ("g5.xlarge:1.006:4000",)
    classify.run(
        ClassifySettings(
            model=model, data=data, out=str(out), dry_run=True, workers=3, machine=machine
        )
    )
    lines = said()
    assert not out.exists()
    assert lines[0] == f"dry run: nothing is written to {out}"
    assert lines[1] == "  6 units; 60 objects to do"
    read = sum(path.stat().st_size for path in Path(data).glob("parts/*"))
    assert lines[2].startswith(f"  reads {size(read)}, writes about ")
    assert "3 worker(s) of " in lines[3]
    assert lines[3].endswith("as 10 were done here")
    # 16 px, 10 images a shard: nearly all is the process itself.
    assert lines[4].startswith("  each worker takes about 57")
    assert lines[4].endswith(" MiB of memory, for shards of 2.5 KiB")
    assert lines[5].startswith("  on g5.xlarge: about 0 s, cost 0.00 at 1.006 an hour")


def test_cutouts_of_which_none_was_usable(model, tmp_path, said):
    data, out = write_packed(tmp_path / "packed", images()[:0]), tmp_path / "out"
    classify.run(ClassifySettings(model=model, data=data, out=str(out), dry_run=True))
    assert said()[1:] == ["  1 units; 0 objects to do"]


def test_a_finished_catalogue(model, tmp_path, said):
    """Of the increments that are all done, the last one is told of."""
    data, out = write_packed(tmp_path / "packed", images(), per_shard=10), str(tmp_path / "out")
    settings = ClassifySettings(model=model, data=data, out=out, dry_run=True)
    plan, rows = classify._plan(settings, read_manifest(data), read_model(model)), classified(60)
    open_plan(out, plan)
    receipts = [
        shards.write_unit(
            out, unit, rows_in=10, table=rows.slice(10 * at, 10), rejects=reject_table([], "")
        )
        for at, unit in enumerate(plan.units)
    ]
    write_manifest(out, plan, receipts, facts={}, provenance=provenance())
    classify.run(settings)
    assert said() == [
        f"dry run: nothing is written to {out}",
        "  6 units, 6 of them done before; 0 objects to do",
    ]


def test_compacting_what_has_no_rows(tmp_path, said):
    data, out = str(tmp_path / "grown"), tmp_path / "out"
    refused = [Reject("bad", Reason.NOT_FINITE, "no number")]
    write_folder(growth.folder(data, 1), classified(0), per_part=9, refused=refused)
    compact.run(CompactSettings(data=data, out=str(out), dry_run=True))
    assert said()[1:] == ["  1 units; 0 objects to do"]
    assert not out.exists()


def test_pack_and_generate(model, tmp_path, said):
    source, out = write_table(tmp_path / "table.parquet", 20), tmp_path / "out"
    pack.run(
        PackSettings(
            source=source, out=str(out), rows_per_shard=5, preprocessing=SMALL, dry_run=True
        )
    )
    assert "  5 units; 20 objects to do" in said()
    # Five pixels, which together read every row group twice.
    assert f"  reads {size(2 * Path(source).stat().st_size)}, writes about " in "\n".join(said())
    generate.run(GenerateSettings(model=model, out=str(out), count=10**8, dry_run=True))
    assert "  10,000 units; 100,000,000 objects to do" in said()
    assert any(line.startswith("  writes about ") for line in said())
    assert not out.exists()


@pytest.mark.parametrize("tried", [20, 1])
def test_of_a_selection_there_may_be_none_among_the_first(tmp_path, said, monkeypatch, tried):
    """Votes grow along the table."""
    monkeypatch.setattr(pack, "TRIED", tried)
    source, out = write_table(tmp_path / "table.parquet", 300), str(tmp_path / "out")
    chosen = {"min_votes": 290, "votes_column": "votes", "preprocessing": SMALL}
    pack.run(PackSettings(source=source, out=out, dry_run=True, **chosen))
    known = any(line.endswith("as 10 were done here") for line in said())
    unknown = "  bytes and time are not known: nothing is selected of the rows that were tried"
    assert known == (tried == 20)
    assert (unknown in said()) == (tried == 1)


def test_on_gpus_there_is_a_worker_for_each(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    monkeypatch.setattr(dry_run, "RAYS", 1e6)  # this machine has memory for all
    assert dry_run._workers(0, Need(device="gpu")) == 3
    assert dry_run._workers(0, Need()) == cores()


def test_others_write_for_a_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(dry_run, "RAYS", 1e6)
    monkeypatch.setattr(dry_run, "cores", lambda: 16)
    need = dry_run._here(Need(device="gpu"))
    assert need.helpers == 16
    assert dry_run.Piece(100, 0, 1.0, 32.0).rate(need) == 50
    assert dry_run.Piece(100, 0, 4.0, 32.0).rate(need) == 25
    assert dry_run.Piece(100, 0, 4.0, 6.0).rate(Need()) == 10
    assert dry_run._here(Need()) == Need()
    monkeypatch.setattr(dry_run, "RAYS", 0)
    assert dry_run._here(Need(device="gpu")) == Need(device="gpu")


def test_a_process_of_one_core_takes_one():
    given = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(given)})
    try:
        assert dry_run._workers(0, Need()) == 1
    finally:
        os.sched_setaffinity(0, given)


def test_no_more_workers_than_a_machine_has_memory_for():
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert dry_run._workers(8, Need(besides=memory // 4)) == 2
    assert dry_run._workers(8, Need(besides=2 * memory)) == 1  # on another machine, perhaps


@pytest.mark.parametrize(("tile", "device", "rows"), [(16, "cpu", 64), (48, "cpu", 96)])
def test_a_piece_fills_its_tiles(tile, device, rows):
    assert dry_run.trial_rows(tile, device) == rows
    assert dry_run.trial_rows(tile, "gpu") == 4 * tile


@pytest.mark.parametrize("verb", ["classify", "generate"])
def test_a_piece_is_computed_as_a_worker_computes(model, tmp_path, verb, monkeypatch):
    """By one thread; afterwards there are as many as before."""
    seen, fill = [], Engine._fill

    def watched(*given):
        seen.append(torch.get_num_threads())
        fill(*given)

    monkeypatch.setattr(Engine, "_fill", watched)
    out, before = str(tmp_path / "out"), torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        if verb == "classify":
            data = write_packed(tmp_path / "packed", images(), per_shard=10)
            classify.run(ClassifySettings(model=model, data=data, out=out, dry_run=True))
        else:
            generate.run(GenerateSettings(model=model, out=out, count=100, dry_run=True))
        assert set(seen) == {1}
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_what_is_done_is_not_counted(model, tmp_path, said):
    out = tmp_path / "out"
    settings = GenerateSettings(
        model=model, out=str(out), count=40, rows_per_shard=10, dry_run=True
    )
    unit = Unit("00000000", {"ranges": [(0, 10)]})
    made = DrawUnit(settings, Draw(seed=0))(unit, None)
    shards.write_unit(str(out), unit, rows_in=10, table=made.table, rejects=made.rejects)
    (out / "parts").rename(out / "kept")
    generate.run(settings)
    assert "  4 units, 1 of them done before; 30 objects to do" in said()


def test_the_price_of_a_machine():
    line = cost_line(Machine("spot", price=2.5, rate=1000), 10**8)
    assert (
        line == "on spot: about 27 h 46 min, cost 69.44 at 2.5 an hour and 1,000 objects a second"
    )


@pytest.mark.parametrize("text", ["g5", "g5:1", "g5:x:3", ":1:2", "g5:-1:2", "g5:1:0", "g5:1:2:3"])
def test_a_machine_that_is_none(text):
    given = ["--model", "m", "--data", "d", "--out", "o", "--machine", text]
    with pytest.raises(InputError, match="wanted NAME:PRICE:RATE such as "):
        config.parse("classify", given, read_text=str, recipe_text=str)


def test_sizes_as_people_say_them():
    assert [size(count) for count in (0, 1023, 1536, 3 * 2**30)] == [
        "0 B",
        "1,023 B",
        "1.5 KiB",
        "3.0 GiB",
    ]
