"""What happens to a worker's failure on its way to the person who started the job."""

import pytest

from avader.catalogue import rows
from avader.errors import InputError
from avader.io import shards
from avader.pipelines.cluster import Pool
from avader.pipelines.progress import Progress
from avader.pipelines.units import finish_units
from avader.plan import Plan, Unit

pytestmark = pytest.mark.usefixtures("ray_session")
PLAN = Plan("cutouts", {}, tuple(Unit(f"{number:08d}", {}) for number in range(4)))


def finish(out: str, do_unit):
    progress = Progress("done", None)
    return finish_units(PLAN, out, make=lambda: do_unit, pool=Pool(2, 0), progress=progress)


def test_bad_input_met_by_a_worker_and_going_on_after_it(tmp_path):
    out = str(tmp_path)

    def write(unit: Unit):
        import pyarrow as pa

        table = pa.table({"unit": [unit.name]})
        refused = rows.reject_table([], unit.name)
        return shards.write_unit(out, unit, rows_in=1, table=table, rejects=refused)

    def fail(unit: Unit):
        if unit.name == "00000002":
            raise InputError("wanted a table that stays as it is, got another")
        return write(unit)

    with pytest.raises(InputError, match=r"^wanted a table that stays as it is, got another$"):
        finish(out, fail)
    before = shards.done_units(out)
    assert "00000002" not in before
    receipts = finish(out, write)
    assert [receipt.unit for receipt in receipts] == [unit.name for unit in PLAN.units]
