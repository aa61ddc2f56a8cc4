"""How hot the machine is, where the kernel says."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from pathlib import Path

THERMAL = Path("/sys/class/thermal")
_LOWEST, _HIGHEST = -50.0, 250.0


class Thermometer:
    """Reads `files`, which hold thousandths of a degree; `clock` is monotonic, in seconds."""

    def __init__(self, files: Sequence[Path], clock: Callable[[], float]) -> None:
        self._files = files
        self._clock = clock
        self._read_at = float("-inf")
        self._last: float | None = None

    def celsius(self, age_s: float = 0.0) -> float | None:
        """The highest of them in degrees Celsius, read at most `age_s` ago; None without any."""
        now = self._clock()
        if now >= self._read_at + age_s:
            self._last, self._read_at = temperature(self._files), now
        return self._last


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
