"""`python -m layer8.cli`: the command of exactly this interpreter and this installation."""

import sys

from layer8.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
