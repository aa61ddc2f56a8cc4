"""How a measuring process is started: the command line, with nothing imported on the way.

Its own interpreter, and not a fork of ours: a fork would lose threads of NumPy's libraries, and
would carry along whatever the caller has loaded.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

_BOOT = """
import os, sys
os.putenv("OPENBLAS_NUM_THREADS", "1")
os.putenv("OMP_NUM_THREADS", "1")
root, *others = sys.argv[1].split(os.pathsep)
sys.path.insert(0, root)
sys.path += [path for path in others if path not in sys.path]
from loopwright.sandbox.{module} import main
main(sys.argv[2:])
"""


def command(module: str, arguments: Sequence[str]) -> list[str]:
    """The command that runs `main(arguments)` of the module of this package of that name.

    It finds what this process finds, devices of other packages among them.
    """
    root = str(Path(__file__).resolve().parents[2])
    paths = os.pathsep.join([root, *(path for path in sys.path if Path(path).is_absolute())])
    return [sys.executable, "-P", "-c", _BOOT.format(module=module), paths, *arguments]
