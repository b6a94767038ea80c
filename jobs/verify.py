"""Check a catalogue or packed cutouts.

On a cluster:

    ray job submit --working-dir . -- python jobs/verify.py --catalogue s3://survey/catalogue

On this machine, the same: `avader verify ...`. Every option: `--help`.
"""

import sys

from avader.cli import run_verb

if __name__ == "__main__":
    sys.exit(run_verb("verify", sys.argv[1:]))
