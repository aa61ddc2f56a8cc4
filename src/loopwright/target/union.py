"""The kinds of targets there are, under one name."""

from __future__ import annotations

from typing import TypeAlias

from loopwright.target.cpu import CpuTarget

Target: TypeAlias = CpuTarget
