"""Kernels written by hand and the runners' contract are those of the measuring tests."""

from __future__ import annotations

import sys
from pathlib import Path

# Builder processes get this path too: the fake builds must be importable there.
sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "measure"))
