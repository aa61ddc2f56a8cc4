"""What a tuner hands to a runner, and the protocol of runners."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Protocol, Self

from loopwright.outcome import MeasurePlan, Outcome
from loopwright.space.config import Config
from loopwright.templates.task import Task


@dataclass(frozen=True, slots=True)
class MeasureRequest:
    """One trial: build `config` of `task` and time it as `plan` says.

    With `check` the output is compared with the oracle, and a wrong one is
    `Failed(CHECK, WRONG_OUTPUT)`.

    `on_doubt` is called, in any thread and at most once, when the device turns out to have been too
    slow already at the time of the measurement: the outcome, which may already have been given, is
    worth measuring again.
    """

    task: Task
    config: Config
    plan: MeasurePlan = field(default_factory=MeasurePlan)
    check: bool = False
    on_doubt: Callable[[], None] | None = field(default=None, compare=False)


class Runner(Protocol):
    """Measures candidates: local processes, recorded measurements, a leased device.

    A future's result is an Outcome whatever the candidate does; it raises only when the runner
    itself cannot go on. Futures complete in any order. `close` ends everything the runner
    started; futures that are not done then are cancelled.
    """

    @property
    def slots(self) -> int:
        """How many requests in flight keep the runner busy."""
        ...

    def submit(self, request: MeasureRequest) -> Future[Outcome]:
        """The future outcome of `request`; returns at once.

        Raises: ConfigError for a plan the runner cannot follow; EnvironmentFailure after `close`.
        """
        ...

    def close(self) -> None:
        """End; closing again is harmless."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(self, *_: object) -> None: ...
