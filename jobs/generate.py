"""Draw a synthetic catalogue from a model.

On a cluster:

    ray job submit --working-dir . -- python jobs/generate.py \\
        --model s3://models/first --out s3://sky/synthetic --count 100000000

On this machine, the same: `avader generate ...`. Every option: `--help`.
"""

import sys

from avader.cli import run_verb

if __name__ == "__main__":
    sys.exit(run_verb("generate", sys.argv[1:]))
