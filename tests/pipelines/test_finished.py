"""A finished folder's command, repeated: it says so, and loads nothing that takes long."""

import subprocess
import sys

import pytest

from avader.catalogue import rows
from avader.config import ClassifySettings
from avader.errors import InputError
from avader.io import manifest, shards
from avader.io.models import read_model
from avader.pipelines import classify
from avader.recipe import Preprocessing
from tests.pipelines.packed import write_packed
from tests.tiny import write_tiny_model
from tests.training.test_loop import images

RERUN = """
import sys
from avader.cli import main
code = main(["classify", "--model", sys.argv[1], "--data", sys.argv[2], "--out", sys.argv[3]])
print(code, [name for name in ("ray", "torch", "astropy", "pandas") if name in sys.modules])
"""


@pytest.fixture
def settings(tmp_path) -> ClassifySettings:
    """Of a finished catalogue, written by the real writers without a run."""
    model = write_tiny_model(tmp_path / "model", preprocessing=Preprocessing(size=16))
    data = write_packed(tmp_path / "packed", images(), per_shard=2)
    given = ClassifySettings(model=model, data=data, out=str(tmp_path / "out"))
    plan = classify._plan(given, manifest.read_manifest(data), read_model(model))
    manifest.open_plan(given.out, plan)
    table = rows.reject_table([], "")
    receipts = [
        shards.write_unit(given.out, unit, rows_in=0, table=table, rejects=table)
        for unit in plan.units
    ]
    manifest.write_manifest(given.out, plan, receipts, provenance={})
    return given


def test_a_rerun_loads_neither_ray_nor_torch(settings):
    ran = subprocess.run(
        [sys.executable, "-c", RERUN, settings.model, settings.data, settings.out],
        capture_output=True,
        text=True,
        check=True,
    )
    assert ran.stderr == ""
    assert ran.stdout == f"{settings.out} is finished already: nothing to do\n0 []\n"


def test_a_folder_of_another_plan_is_refused_before_that(settings):
    with pytest.raises(InputError, match=r"holds another plan: tile was 16 and is now 8"):
        classify.run(settings.model_copy(update={"tile": 8}))
