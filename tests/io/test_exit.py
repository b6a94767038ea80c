"""A program that reads parts and ends at once ends well.

Arrow's own threads that still held a Python object (a file, a file system) when the interpreter
closed used to abort the process after its work was done: in about half of the runs.
"""

import subprocess
import sys

import pyarrow as pa
import pytest

from avader.catalogue import rows
from avader.io import manifest, shards
from avader.plan import Plan, Unit

PLAN = Plan("cutouts", {}, (Unit("00000000", {}),))
RUNS = 12
READS = {
    "dataset": "shards.open_dataset(held.uri, held.paths).to_table()",
    "part": "shards.read_part(held.uri, held.paths[0])",
    "whole part": "shards.read_whole_part(held.uri, held.parts[0])",
}
PROGRAM = """
import sys
from avader.io import manifest, shards
held = manifest.read_manifest(sys.argv[1])
{read}
"""


@pytest.mark.parametrize("read", READS.values(), ids=READS)
def test_reading_and_ending_at_once(tmp_path, read):
    write_folder(str(tmp_path))
    assert exit_codes(str(tmp_path), read) == [0] * RUNS


@pytest.mark.long
@pytest.mark.parametrize("read", READS.values(), ids=READS)
def test_reading_and_ending_at_once_on_s3(s3_uri, read):
    write_folder(s3_uri)
    assert exit_codes(s3_uri, read) == [0] * RUNS


def write_folder(out: str):
    table = pa.table({f"column_{n}": pa.array(range(20_000)) for n in range(40)})
    manifest.open_plan(out, PLAN)
    receipt = shards.write_unit(
        out,
        PLAN.units[0],
        rows_in=table.num_rows,
        table=table,
        rejects=rows.reject_table([], "00000000"),
    )
    manifest.write_manifest(out, PLAN, [receipt], provenance={})


def exit_codes(uri: str, read: str) -> list[int]:
    """Two at a time, so that their threads are late now and then."""
    codes = []
    for _ in range(RUNS // 2):
        command = [sys.executable, "-c", PROGRAM.format(read=read), uri]
        codes += [process.wait() for process in [subprocess.Popen(command) for _ in range(2)]]
    return codes
