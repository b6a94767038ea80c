"""Write a page about a catalogue and its model.

On a cluster:

    ray job submit --working-dir . -- python jobs/report.py \\
        --model s3://models/first --catalogue s3://survey/catalogue --out s3://survey/report

On this machine, the same: `avader report ...`. Every option: `--help`.
"""

import sys

from avader.cli import run_verb

if __name__ == "__main__":
    sys.exit(run_verb("report", sys.argv[1:]))
