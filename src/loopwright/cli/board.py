"""What a tuning run has reached so far, as the progress display shows it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from loopwright.outcome import Failed
from loopwright.search.result import Best, Event, TaskResumed, TrialDone


@dataclass(slots=True)
class TaskState:
    """One task of the run: how often the model computes it, and what its trials gave."""

    label: str
    count: int
    flops: int
    trials: int = 0
    failed: int = 0
    best: Best | None = None
    why: str = ""  # what was wrong with the last trial that failed


@dataclass(slots=True)
class Board:
    """All tasks of a run against its budget: trials of all together, seconds, or both.

    `clock` gives seconds. `peak_gflops` is what the machine can do at most, None when unknown.
    """

    tasks: Sequence[TaskState]
    budget_trials: int | None
    budget_s: float | None
    clock: Callable[[], float]
    peak_gflops: float | None = None
    begin_s: float = field(init=False)
    resumed: int = 0
    latest: int | None = None

    def __post_init__(self) -> None:
        self.begin_s = self.clock()

    def take(self, event: Event) -> None:
        """Count what the tuner tells."""
        task = self.tasks[event.index]
        task.best = event.best
        match event:
            case TaskResumed():
                task.trials += event.trials
                self.resumed += event.trials
            case TrialDone():
                task.trials += not event.recheck
                self.latest = event.index
                if isinstance(event.outcome, Failed):
                    task.failed += 1
                    task.why = f"{event.outcome.kind.value}: {event.outcome.detail}"

    @property
    def trials(self) -> int:
        """Trials counted, earlier runs' included."""
        return sum(task.trials for task in self.tasks)

    @property
    def failed(self) -> int:
        """Trials that failed."""
        return sum(task.failed for task in self.tasks)

    @property
    def elapsed_s(self) -> float:
        """Seconds since the run began."""
        return self.clock() - self.begin_s

    @property
    def rate(self) -> float:
        """Trials a second of this run."""
        return (self.trials - self.resumed) / max(self.elapsed_s, 1e-9)

    @property
    def eta_s(self) -> float | None:
        """Seconds until the budget is spent, None while nothing is known."""
        left = []
        if self.budget_s is not None:
            left.append(max(0.0, self.budget_s - self.elapsed_s))
        if self.budget_trials is not None and self.trials > self.resumed:
            left.append(max(0, self.budget_trials - self.trials) / self.rate)
        return min(left, default=None)

    @property
    def done(self) -> float:
        """The share of the budget that is spent, 0 to 1."""
        shares = [0.0]
        if self.budget_s is not None:
            shares.append(self.elapsed_s / self.budget_s)
        if self.budget_trials:
            shares.append(self.trials / self.budget_trials)
        return min(1.0, max(shares))

    @property
    def model_ns(self) -> float | None:
        """Nanoseconds that all tasks of the model take together, None while one has no program."""
        known = [task.count * task.best.ns for task in self.tasks if task.best is not None]
        return sum(known) if len(known) == len(self.tasks) else None
