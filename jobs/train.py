"""Train a model on packed cutouts.

On a cluster:

    ray job submit --working-dir . -- python jobs/train.py \\
        --data s3://survey/packed --out s3://models/first --recipe galaxies-64

On this machine, the same: `avader train ...`. Every option: `--help`.
"""

import sys

from avader.cli import run_verb

if __name__ == "__main__":
    sys.exit(run_verb("train", sys.argv[1:]))
