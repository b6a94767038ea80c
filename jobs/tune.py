"""Search a recipe's ranges for the best recipe.

On a cluster:

    ray job submit --working-dir . -- python jobs/tune.py \\
        --data s3://survey/packed --out s3://models/search --recipe galaxies-64

On this machine, the same: `avader tune ...`. Every option: `--help`.
"""

import sys

from avader.cli import run_verb

if __name__ == "__main__":
    sys.exit(run_verb("tune", sys.argv[1:]))
