"""Make a HATS collection, which lsdb opens, from a classified catalogue.

On a cluster:

    ray job submit --working-dir . -- python jobs/hats.py \\
        --catalogue s3://survey/catalogue --out s3://survey/hats

On this machine, the same: `avader hats ...`. Every option: `--help`.
"""

import sys

sys.path.pop(0)  # this folder, whose hats.py would be taken for the library of that name

from avader.cli import run_verb

if __name__ == "__main__":
    sys.exit(run_verb("hats", sys.argv[1:]))
