"""A Python that has NumPy and msgspec and nothing else, as on a device's host."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

SOURCE = Path(__file__).resolve().parents[2] / "src"
_PACKAGES = ("numpy", "msgspec")


def bare_python(folder: Path) -> str:
    """The interpreter of a new virtual environment in `folder`, with links to what it may have."""
    subprocess.run(
        [sys.executable, "-m", "venv", "--without-pip", "--symlinks", str(folder)], check=True
    )
    (site,) = folder.glob("lib/python3*/site-packages")
    for name in _PACKAGES:
        spec = importlib.util.find_spec(name)
        assert spec is not None
        assert spec.origin is not None
        package = Path(spec.origin).parent
        for path in package.parent.glob(f"{name}*"):
            if path.is_dir() and not path.name.endswith(".dist-info"):
                (site / path.name).symlink_to(path)
    return str(folder / "bin" / "python")


def bare_environment() -> Mapping[str, str]:
    """The variables of this process, with our source as the only other place of modules."""
    return {**os.environ, "PYTHONPATH": str(SOURCE)}  # noqa: TID251  # of a process
