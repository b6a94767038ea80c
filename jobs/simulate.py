"""Draw a mock survey of galaxies with known truth.

On a cluster:

    ray job submit --working-dir . -- python jobs/simulate.py --out s3://survey/mock --count 3000

On this machine, the same: `avader simulate ...`. Every option: `--help`.
"""

import sys

from avader.cli import run_verb

if __name__ == "__main__":
    sys.exit(run_verb("simulate", sys.argv[1:]))
