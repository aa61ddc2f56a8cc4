"""The state of one task during tuning: trials, failures, the best and unchecked candidates."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from typing import final

from loopwright.outcome import Failed, FailureKind, Outcome, Timed
from loopwright.search.allocator import Progress
from loopwright.search.policy import Policy
from loopwright.search.result import Best, TuneResult
from loopwright.space.config import Config
from loopwright.templates.task import Task


@final
class TaskProgress:
    """Bookkeeping of one task; it neither measures nor chooses.

    A time counts as best only once the output was checked (`check` says whether that is asked for).
    """

    def __init__(self, task: Task, policy: Policy, count: int, *, check: bool) -> None:
        self.task = task
        self.policy = policy
        self.count = count
        self.check = check
        self.next_trial = 0
        self.resumed = 0
        self.in_flight = 0
        self.exhausted = False
        self.best: Best | None = None
        self.failures: Counter[FailureKind] = Counter()
        self._claims: list[tuple[float, int, Config]] = []
        self._doubted: dict[int, Config] = {}  # trials to measure again, in their order
        self._settled: set[int] = set()  # not to be measured again: they were, or are wrong
        self._crowned: list[tuple[int, float]] = []
        self._row: dict[int, int] = {}  # trial -> its position among those that came back
        self._ns: list[float] = []
        self._fastest: list[float] = []  # the best time after each trial, checked or not

    @property
    def trials(self) -> int:
        """Trials that came back, resumed ones included."""
        return len(self._fastest)

    @property
    def fastest_ns(self) -> float:
        """The best time so far, checked or not; infinite without one."""
        return self._fastest[-1] if self._fastest else math.inf

    def standing(self) -> Progress:
        """What the allocator needs."""
        return Progress(
            self.count, self.task.flops, self._fastest, self.in_flight, not self.exhausted
        )

    def trial_done(self, trial: int, config: Config, outcome: Outcome) -> None:
        """Record the first measurement of `config`."""
        ns = outcome.best_ns if isinstance(outcome, Timed) else math.inf
        self._row[trial] = len(self._ns)
        self._ns.append(ns)
        self._fastest.append(min(self.fastest_ns, ns))
        if isinstance(outcome, Failed):
            self._failed(trial, outcome)
        else:
            self._claim(trial, config, outcome)

    def doubted(self, trial: int, config: Config) -> None:
        """Have a trial measured again, once, since its device was too slow.

        A wrong program is not: unchecked, it would count as right.
        """
        if trial not in self._settled:
            self._settled.add(trial)
            self._doubted[trial] = config

    def next_doubted(self) -> tuple[int, Config] | None:
        """A trial that came back and is to be measured again; it is removed from the queue."""
        for trial, config in self._doubted.items():
            if trial in self._row:
                del self._doubted[trial]
                return trial, config
        return None

    def confirmed(self, trial: int, config: Config, outcome: Outcome) -> None:
        """Record another measurement of `config`: it claimed to be the best, or was doubted.

        Of two times the shorter counts: a device may be too slow, never too fast.
        """
        self._claims = [claim for claim in self._claims if claim[1] != trial]
        if isinstance(outcome, Timed):
            self._correct(trial, min(outcome.best_ns, self._ns_of(trial)))
            self._claim(trial, config, outcome)
            return
        if not self.teaches_nothing(trial, outcome):
            self._correct(trial, math.inf)  # its time was of a wrong program
        self._failed(trial, outcome)

    def teaches_nothing(self, trial: int, outcome: Outcome) -> bool:
        """Whether another measurement of a trial says nothing about it, but about its device.

        That is a failure of the device, or a timeout of what was timed before.
        """
        if not isinstance(outcome, Failed):
            return False
        late = outcome.kind is FailureKind.RUN_TIMEOUT and math.isfinite(self._ns_of(trial))
        return late or not outcome.blames_candidate

    def _failed(self, trial: int, outcome: Failed) -> None:
        self.failures[outcome.kind] += 1
        if outcome.kind is FailureKind.WRONG_OUTPUT:
            self._settled.add(trial)
            self._doubted.pop(trial, None)

    def _ns_of(self, trial: int) -> float:
        return self._ns[self._row[trial]] if trial in self._row else math.inf

    def _correct(self, trial: int, ns: float) -> None:
        if trial in self._row and ns != self._ns_of(trial):
            self._ns[self._row[trial]] = ns
            self._fastest = list(itertools.accumulate(self._ns, min))

    def _claim(self, trial: int, config: Config, outcome: Timed) -> None:
        if outcome.checked or not self.check:
            self.crown(trial, config, outcome)
        else:
            self._claims.append((outcome.best_ns, trial, config))

    def known(self, config: Config, outcome: Outcome) -> None:
        """Record a measurement that is not a trial of this run: as if before the first one."""
        if isinstance(outcome, Timed) and (outcome.checked or not self.check):
            self.crown(-1, config, outcome)

    def crown(self, trial: int, config: Config, outcome: Timed) -> None:
        """Make `config` the best if it is faster than the one before."""
        if self.best is None or outcome.best_ns < self.best.ns:
            gflops = self.task.flops / outcome.best_ns
            self.best = Best(outcome.best_ns, gflops, config, trial)
            self._crowned.append((trial + 1, outcome.best_ns))

    def next_claim(self) -> tuple[int, Config] | None:
        """The trial and config that is faster than the best but was not checked, if there is one.

        Of several the fastest, which then counts as taken; those that are no longer faster are
        forgotten.
        """
        best = self.best
        self._claims = [claim for claim in self._claims if best is None or claim[0] < best.ns]
        if not self._claims:
            return None
        claim = min(self._claims, key=lambda c: c[0])
        self._claims.remove(claim)
        return claim[1:]

    def result(self, *, interrupted: bool) -> TuneResult:
        """The result of the task."""
        curve: list[tuple[int, float]] = []
        for trial, ns in sorted(self._crowned):
            if not curve or ns < curve[-1][1]:
                curve.append((trial, ns))
        return TuneResult(
            task=self.task,
            best=self.best,
            curve=tuple(curve),
            trials=self.trials,
            resumed=self.resumed,
            failures=dict(self.failures),
            exhausted=self.exhausted,
            interrupted=interrupted,
        )
