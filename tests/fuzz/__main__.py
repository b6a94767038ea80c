"""python -m tests.fuzz --count 20000: does the cases, prints the outcomes and, last, the counts."""

import argparse
import sys

from tests.fuzz.watch import fuzz


def main() -> int:
    """1 where a case failed."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--count", type=int, default=20_000, help="how many cases")
    parser.add_argument("--first", type=int, default=0, help="number of the first")
    parser.add_argument("--jobs", type=int, default=1, help="processes at a time")
    given = parser.parse_args()

    def say(line: str) -> None:
        sys.stdout.write(line + "\n")
        sys.stdout.flush()

    tally = fuzz(given.first, given.first + given.count, jobs=given.jobs, say=say)
    for failure in tally.failures:
        say(failure)
    for outcome, count in sorted(tally.outcomes.items()):
        say(f"{count:>8,}  {outcome}")
    say(tally.summary)
    return int(bool(tally.failures))


if __name__ == "__main__":
    sys.exit(main())
