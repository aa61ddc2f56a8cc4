"""What comes of a run, and which cores it is made on."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

from loopwright.errors import ConfigError
from loopwright.layout import Array
from loopwright.outcome import Outcome


@dataclass(frozen=True, slots=True)
class RunResult:
    """An outcome and, where they were asked for, the outputs in their memory layouts."""

    outcome: Outcome
    outputs: tuple[Array, ...] = ()


def cores_for(threads: int, allowed: Sequence[int] | None = None) -> tuple[int, ...]:
    """The cores to measure `threads` threads on: the last ones, since others favour the first.

    Raises: ConfigError when this process may use fewer.
    """
    cores = sorted(os.sched_getaffinity(0) if allowed is None else allowed)
    if not 1 <= threads <= len(cores):
        raise ConfigError(f"{threads} threads cannot be measured on {len(cores)} cores; use fewer")
    return tuple(cores[len(cores) - threads :])
