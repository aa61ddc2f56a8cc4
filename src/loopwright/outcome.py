"""What is asked of a measurement, and what comes back.

A candidate that fails is data: `Failed` says at which stage and of what kind. Kinds of
`INFRASTRUCTURE` say nothing about the candidate and never train a model.
"""

from __future__ import annotations

import enum
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from loopwright.errors import ConfigError


class FailureStage(enum.Enum):
    """Where a candidate failed."""

    SCHEDULE = "schedule"
    BUILD = "build"
    LOAD = "load"
    RUN = "run"
    CHECK = "check"


class FailureKind(enum.Enum):
    """Why a candidate failed."""

    ILLEGAL_SCHEDULE = "illegal-schedule"
    TEMPLATE_ERROR = "template-error"
    COMPILE_ERROR = "compile-error"
    COMPILER_CRASH = "compiler-crash"
    BUILD_TIMEOUT = "build-timeout"
    BUILD_MEMORY = "build-memory"
    LOAD_ERROR = "load-error"
    RUN_TIMEOUT = "run-timeout"
    RUN_MEMORY = "run-memory"
    CRASH = "crash"
    OUT_OF_BOUNDS = "out-of-bounds"
    WRONG_OUTPUT = "wrong-output"
    IMPOSSIBLE_TIME = "impossible-time"  # less than any such processor takes
    WORKER_LOST = "worker-lost"  # the measuring process itself died
    DEVICE_LOST = "device-lost"
    REVOKED = "revoked"  # the lease on the device was taken away
    DRIFT = "drift"  # the device was hot, throttled or shared


INFRASTRUCTURE = frozenset(
    {
        FailureKind.WORKER_LOST,
        FailureKind.DEVICE_LOST,
        FailureKind.REVOKED,
        FailureKind.DRIFT,
    }
)


@dataclass(frozen=True, slots=True)
class Provenance:
    """How an outcome was measured: the device's name, the lease with its epoch, and how the
    candidate was confined (`fleet.words.Tier`). `drift` is the device's, as a share.
    """

    device: str
    lease: str
    epoch: int
    tier: int
    temperature_c: float | None = None
    drift: float = 0.0


@dataclass(frozen=True, slots=True)
class Timed:
    """A candidate that ran: nanoseconds per call, one figure per repeat; `best_ns` is compared.

    `checked` says whether the output was compared with the oracle.
    """

    ns: tuple[float, ...]
    best_ns: float
    checked: bool = False
    build_s: float = 0.0
    run_s: float = 0.0
    where: Provenance | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True)
class Failed:
    """A candidate that did not run, or ran wrong. `detail` is one line for a person."""

    stage: FailureStage
    kind: FailureKind
    detail: str
    where: Provenance | None = field(default=None, compare=False)

    @property
    def blames_candidate(self) -> bool:
        """False when the failure is the machine's, not the candidate's."""
        return self.kind not in INFRASTRUCTURE


Outcome: TypeAlias = Timed | Failed


@dataclass(frozen=True, slots=True)
class MeasurePlan:
    """How a candidate is measured.

    Warm up, then time `repeats` batches of at least `min_repeat_s` seconds and one call each. A
    candidate whose first two calls take longer than `abandon_ns` is not repeated: that one figure
    is its time.
    """

    threads: int = 1
    warmup: int = 1
    repeats: int = 3
    min_repeat_s: float = 0.004
    run_timeout_s: float = 5.0
    build_timeout_s: float = 20.0
    build_memory: int = 2 << 30
    run_memory: int = 4 << 30
    abandon_ns: float | None = None


def cores_for(threads: int, allowed: Sequence[int] | None = None) -> tuple[int, ...]:
    """The cores to measure `threads` threads on: the last ones, since others favour the first.

    Raises: ConfigError when this process may use fewer.
    """
    cores = sorted(os.sched_getaffinity(0) if allowed is None else allowed)
    if not 1 <= threads <= len(cores):
        raise ConfigError(f"{threads} threads cannot be measured on {len(cores)} cores; use fewer")
    return tuple(cores[len(cores) - threads :])
