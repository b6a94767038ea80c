"""Pack cutouts into shards, as pixels or files.

On a cluster:

    ray job submit --working-dir . -- python jobs/pack.py \\
        --source s3://survey/cutouts --out s3://survey/packed

On this machine, the same: `avader pack ...`. Every option: `--help`.
"""

import sys

from avader.cli import run_verb

if __name__ == "__main__":
    sys.exit(run_verb("pack", sys.argv[1:]))
