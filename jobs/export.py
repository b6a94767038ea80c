"""Write chosen rows of a catalogue as FITS, VOTable or CSV.

On a cluster:

    ray job submit --working-dir . -- python jobs/export.py \\
        --catalogue s3://survey/catalogue --out s3://survey/rings.fits --component 3

On this machine, the same: `avader export ...`. Every option: `--help`.
"""

import sys

from avader.cli import run_verb

if __name__ == "__main__":
    sys.exit(run_verb("export", sys.argv[1:]))
