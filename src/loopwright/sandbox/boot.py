"""How a measuring process is started: the command line, with nothing imported on the way.

Its own interpreter, and not a fork of ours: a fork would lose threads of NumPy's libraries, and
would carry along whatever the caller has loaded.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

_BOOT = """
import os, sys
os.putenv("OPENBLAS_NUM_THREADS", "1")
os.putenv("OMP_NUM_THREADS", "1")
sys.path.insert(0, sys.argv[1])
from loopwright.sandbox.{module} import main
main(sys.argv[2:])
"""


def command(module: str, arguments: Sequence[str]) -> list[str]:
    """The command that runs `main(arguments)` of the module of this package of that name."""
    root = str(Path(__file__).resolve().parents[2])
    return [sys.executable, "-P", "-c", _BOOT.format(module=module), root, *arguments]
