"""`python -m loopwright.fleet.agent`: an agent in a process of its own."""

from __future__ import annotations

import sys

from loopwright.fleet.agent.main import main


def run() -> None:
    """The command `loopwright-agent`."""
    sys.exit(main(sys.argv[1:]))


if __name__ == "__main__":
    run()
