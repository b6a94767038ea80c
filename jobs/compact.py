"""Join a grown folder's increments, in a new folder.

On a cluster:

    ray job submit --working-dir . -- python jobs/compact.py \\
        --data s3://survey/catalogue --out s3://survey/catalogue-2026

On this machine, the same: `avader compact ...`. Every option: `--help`.
"""

import sys

from avader.cli import run_verb

if __name__ == "__main__":
    sys.exit(run_verb("compact", sys.argv[1:]))
