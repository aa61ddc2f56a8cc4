"""Where the libraries are that a measuring process needs, which is all that it may read."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

SYSTEM = ("/usr/lib", "/lib", "/lib64", "/usr/lib64")
"""Folders of the system's libraries."""


def libraries() -> tuple[str, ...]:
    """Folders of libraries besides the system's: Python's, those beside NumPy, this package."""
    found = {str(Path(prefix) / "lib") for prefix in (sys.prefix, sys.base_prefix)}
    numpy = importlib.util.find_spec("numpy")
    if numpy is not None and numpy.origin is not None:
        found.add(str(Path(numpy.origin).resolve().parents[1]))  # wherever packages are installed
    return (*sorted(found), str(Path(__file__).resolve().parents[1]))
