"""The events of a tuning run, and its result."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

from loopwright.errors import ConfigError
from loopwright.outcome import FailureKind, Outcome
from loopwright.space.config import Config
from loopwright.templates.task import Task


@dataclass(frozen=True, slots=True)
class Budget:
    """When to stop: at whichever limit comes first.

    `trials` is per task: the tasks together get that many each on average, shared by expected gain.
    Trials of an earlier run by the same command count. `seconds` is of this run.
    Raises: ConfigError without a limit, or with one below zero.
    """

    trials: int | None = None
    seconds: float | None = None

    def __post_init__(self) -> None:
        if self.trials is None and self.seconds is None:
            raise ConfigError("a budget needs a number of trials or a time; give one")
        if (self.trials is not None and self.trials < 1) or (
            self.seconds is not None and self.seconds <= 0
        ):
            raise ConfigError(
                f"budget of {self.trials} trials and {self.seconds} s: both must be above zero"
            )


@dataclass(frozen=True, slots=True)
class Best:
    """The fastest config of a task that passed the oracle; found in trial `trial`.

    Trials count from 0; -1 stands for a run before, of another policy or seed.
    """

    ns: float
    gflops: float
    config: Config
    trial: int


@dataclass(frozen=True, slots=True)
class TaskResumed:
    """Earlier trials of a task were found: `trials` count towards the budget, `known` is all."""

    index: int
    task: Task
    trials: int
    known: int
    best: Best | None


@dataclass(frozen=True, slots=True)
class TrialDone:
    """One trial came back. `best` is the task's best checked config after it.

    `n` is how many trials the task has had; `recheck` marks another measurement of an earlier one:
    a new best, or one whose device was too slow.
    """

    index: int
    task: Task
    config: Config
    outcome: Outcome
    n: int
    best: Best | None
    elapsed_s: float
    recheck: bool = False


Event: TypeAlias = TaskResumed | TrialDone


@dataclass(frozen=True, slots=True)
class TuneResult:
    """The result of tuning one task.

    `curve` holds the improvements as (trial from 1, best ns so far). `trials` counts the resumed
    ones too. `exhausted` says that the policy had nothing left to propose.
    """

    task: Task
    best: Best | None
    curve: tuple[tuple[int, float], ...]
    trials: int
    resumed: int
    failures: Mapping[FailureKind, int]
    exhausted: bool = False
    interrupted: bool = False

    @property
    def gflops(self) -> float:
        """The best speed, 0 when nothing worked."""
        return 0.0 if self.best is None else self.best.gflops
