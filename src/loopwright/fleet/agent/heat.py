"""How hot the machine is, where the kernel says."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path

THERMAL = Path("/sys/class/thermal")
_LOWEST, _HIGHEST = -50.0, 250.0


def zones(root: Path = THERMAL) -> tuple[Path, ...]:
    """The files that hold temperatures in thousandths of a degree."""
    return tuple(sorted(root.glob("thermal_zone*/temp")))


def temperature(files: Sequence[Path]) -> float | None:
    """The highest of them in degrees Celsius; None where none can be read."""
    found: list[float] = []
    for path in files:
        with contextlib.suppress(OSError, ValueError):
            value = int(path.read_text()) / 1000
            if _LOWEST < value < _HIGHEST:
                found.append(value)
    return max(found, default=None)
