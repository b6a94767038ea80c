"""`python -m avader VERB` is `avader VERB`."""

import sys

from avader.cli import main

if __name__ == "__main__":
    sys.exit(main())
