"""Classify packed cutouts into a catalogue.

On a cluster:

    ray job submit --working-dir . -- python jobs/classify.py \\
        --model s3://models/first --data s3://survey/packed --out s3://survey/catalogue

On this machine, the same: `avader classify ...`. Every option: `--help`.
"""

import sys

from avader.cli import run_verb

if __name__ == "__main__":
    sys.exit(run_verb("classify", sys.argv[1:]))
