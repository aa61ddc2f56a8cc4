"""`python -m loopwright` is the command `loopwright`."""

from __future__ import annotations

import sys

from loopwright.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
