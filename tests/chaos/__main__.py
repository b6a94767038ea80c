"""python -m tests.chaos [--rounds 20] [--first 0]: the rounds; the last line is the counts."""

import argparse
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

# As tests/conftest.py does: before anything starts Ray.
os.environ.setdefault("RAY_DATA_PARQUET_FOOTER_NUM_ACTORS", "1")
os.environ.setdefault("RAY_AUTH_MODE", "disabled")

from tests.chaos.rounds import Tally, do, rounds
from tests.chaos.world import world
from tests.s3 import s3_server


def main(arguments: Sequence[str]) -> int:
    """Do rounds; 1 where one did not end as an undisturbed run does."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--first", type=int, default=0, help="the first round's seed")
    given = parser.parse_args(arguments)
    tally, wanted = Tally(), rounds(given.rounds, given.first)
    with tempfile.TemporaryDirectory() as folder:
        server, work = Path(folder) / "s3", Path(folder) / "work"
        server.mkdir()
        work.mkdir()
        names = {round_.place for round_ in wanted}
        with s3_server(server) as s3, world(work, s3, names) as around:
            for round_ in wanted:
                print(do(round_, around, tally), flush=True)
    print(tally.line())
    return 0 if tally.sound else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
