"""`python -m fp8load` is the same as `fp8load`."""

import sys

from fp8load_cli.app import main

if __name__ == "__main__":
    sys.exit(main())
