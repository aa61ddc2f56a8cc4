"""Which task gets the next trial: the one expected to reduce the model's time most."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

_WINDOW = 24  # the fewest trials over which recent progress is measured
_LITTLE = 0.1  # expected gain where nothing has worked, in multiples of the time at peak
_HOPE = 0.5  # the share of the gap to the peak that doubling a task's trials is expected to close


@dataclass(frozen=True, slots=True)
class Progress:
    """The progress of tuning one task.

    `count` is how often the model runs it, `best_ns` the best time after each trial (infinite
    before one worked), `waiting` how many trials are in flight, `open` whether there is more to
    try.
    """

    count: int
    flops: int
    best_ns: Sequence[float]
    waiting: int = 0
    open: bool = True

    @property
    def trials(self) -> int:
        """Trials done and in flight."""
        return len(self.best_ns) + self.waiting


def next_task(
    tasks: Sequence[Progress], *, warm_up: int, peak_gflops: float | None = None
) -> int | None:
    """The index of the task to try next, or None when none is open.

    Tasks with fewer than `warm_up` trials come first, fewest trials first. Without `peak_gflops`
    the speed of the fastest task so far stands for the machine's peak.
    """
    open_tasks = [i for i, task in enumerate(tasks) if task.open]
    cold = [i for i in open_tasks if tasks[i].trials < warm_up]
    if cold:
        return min(cold, key=lambda i: tasks[i].trials)
    if not open_tasks:
        return None
    peak = _reached(tasks) if peak_gflops is None else peak_gflops
    return max(open_tasks, key=lambda i: expected_gain(tasks[i], peak))


def expected_gain(task: Progress, peak_gflops: float) -> float:
    """Nanoseconds of model time that the next trial of `task` is expected to save.

    The mean of what recent trials saved and of what the gap to the machine's peak promises, which
    fades as trials fail to close it; times how often the model runs the task.
    """
    floor = task.flops / max(peak_gflops, 1e-9)
    best = task.best_ns[-1] if task.best_ns else math.inf
    if math.isinf(best):
        return task.count * _LITTLE * floor / (1 + task.trials)
    window = max(_WINDOW, len(task.best_ns) // 3)
    before = task.best_ns[max(0, len(task.best_ns) - 1 - window)]
    if math.isinf(before):
        before = next(ns for ns in task.best_ns if math.isfinite(ns))
    recent = (before - best) / (window + task.waiting)
    hope = _HOPE * max(best - floor, 0.0) / (1 + task.trials)
    return task.count * (recent + hope) / 2


def _reached(tasks: Sequence[Progress]) -> float:
    """The highest speed of any task so far, GFLOP/s; tiny when nothing has worked."""
    times = ((task.flops, task.best_ns[-1]) for task in tasks if task.best_ns)
    return max((flops / ns for flops, ns in times if math.isfinite(ns)), default=1e-9)
