"""What a run of `generate` is planned to be, before Ray is there."""

import pytest

from avader.config import GenerateSettings
from avader.pipelines.drawing.planning import sky_run
from avader.pipelines.dry_run import TRIAL_ROWS
from tests.tiny import write_tiny_model

IMAGE = 16 * 16
SMALLEST = (150.0, 2.0, 10.0)
"""A cone with few of the smallest pixels that objects are dealt to."""


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> str:
    return write_tiny_model(tmp_path_factory.mktemp("model"))


def planned(model: str, **given):
    return sky_run(GenerateSettings(model=model, out="out", **{"count": 100, **given}))


def objects(unit) -> int:
    return sum(stop - start for start, stop in unit.inputs["ranges"])


@pytest.mark.parametrize("store", ["images", "recipe"])
def test_a_worker_has_memory_for_the_largest_pixel(model, store):
    run = planned(model, store=store, cone=SMALLEST, count=100_000, rows_per_shard=1000)
    most = max(map(objects, run.plan.units))
    assert most > 5000
    row = IMAGE if store == "images" else 14 + 24
    assert run.need().pixels == most * row
    assert planned(model, store=store, count=100_000, rows_per_shard=1000).need().pixels == 1000 * (
        IMAGE if store == "images" else 14
    )


def test_a_trial_has_as_many_objects_as_there_are_to_learn_from(model):
    """Also where few of each pixel's are of the first component."""
    counts = {0: TRIAL_ROWS, 1: 50_000}
    run = planned(model, count=0, counts=counts, cone=(150.0, 2.0, 3600.0), rows_per_shard=5000)
    assert objects(run.plan.units[0]) > TRIAL_ROWS
    (step,) = run.trial()
    made = step.do(None)
    assert made.rows_in == TRIAL_ROWS
    assert set(made.table["component"].to_pylist()) == {0, 1}


def test_workers_in_another_folder_find_the_model_and_the_region(model, tmp_path, monkeypatch):
    region = tmp_path / "region.txt"
    region.write_text("3/5")
    (tmp_path / "model").symlink_to(model)
    monkeypatch.chdir(tmp_path)
    run = planned("model", region="region.txt", rows_per_shard=10)
    monkeypatch.chdir("/")
    unit = run.plan.units[0]
    draw = run.stages()[0].make()
    assert draw(unit, None).rows_in == objects(unit)


def test_the_manifest_says_what_pixels_are(model):
    plain, turned = (planned(model, orientation=how).facts() for how in ("canonical", "random"))
    assert plain["pixels"] == "uint8, round(255 x) of the decoded image, clipped to [0, 1]"
    assert turned["pixels"] == (
        "uint8, round(255 x) of the decoded image, turned and flipped, clipped to [0, 1]"
    )
