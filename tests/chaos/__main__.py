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

from tests.chaos.places import Bucket, Place, survey
from tests.chaos.rounds import Tally, do, rounds
from tests.s3 import s3_server


def main(arguments: Sequence[str]) -> int:
    """Do rounds in both places; 1 where one did not end as an undisturbed run does."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--first", type=int, default=0, help="the first round's seed")
    given = parser.parse_args(arguments)
    tally = Tally()
    with tempfile.TemporaryDirectory() as folder, s3_server(_made(Path(folder) / "s3")) as server:
        os.environ.update(server.environment())
        places = made_places(_made(Path(folder) / "disk"), server)
        for round_ in rounds(given.rounds, given.first):
            print(do(round_, places[round_.place], tally), flush=True)
    print(tally.line())
    return 0 if tally.sound else 1


def made_places(folder: Path, server) -> dict[str, Place]:
    """Both places, made ready; the environment is the server's."""
    source = survey(folder)
    disk, bucket = Place(str(_made(folder / "place"))), Bucket(f"{server.uri}/chaos", server)
    return {place.name: place.make(source) for place in (disk, bucket)}


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
