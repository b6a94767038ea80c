"""Turn the paper's Keras weights into a model folder.

On a cluster:

    ray job submit --working-dir . -- python jobs/import_published.py \\
        --weights s3://models/saved_weights.h5 --out s3://models/published

On this machine, the same: `avader import-published ...`. Every option: `--help`.
"""

import sys

from avader.cli import run_verb

if __name__ == "__main__":
    sys.exit(run_verb("import-published", sys.argv[1:]))
