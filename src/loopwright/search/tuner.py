"""The tuning loop: policies ask, the runner measures, records are kept, the best is checked.

The loop keeps as many requests in flight as the runner wants and does its own work, learning and
choosing, while they are built and measured.
"""

from __future__ import annotations

import functools
import hashlib
import queue
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from typing import TypeAlias, final

import numpy as np

from loopwright.errors import ConfigError
from loopwright.measure.request import MeasureRequest, Runner
from loopwright.outcome import MeasurePlan, Outcome
from loopwright.search.allocator import next_task
from loopwright.search.journal import Journal
from loopwright.search.policy import Policy, Trial
from loopwright.search.progress import TaskProgress
from loopwright.search.result import Budget, Event, TaskResumed, TrialDone, TuneResult
from loopwright.space.config import Config
from loopwright.templates.task import Task

PolicyFactory: TypeAlias = Callable[[Task, np.random.Generator], Policy]


@dataclass(frozen=True, slots=True)
class TuneOptions:
    """How trials are measured and allocated.

    Args:
        plan: how each candidate is measured; its threads are those of the tasks.
        check: whether outputs are compared with the oracle: those of each new best before it
            counts, of each task's first trial, and of a `check_share` of the rest.
        abandon: a candidate whose first two calls take this many times the best is not repeated;
            None to repeat every one.
        warm_up: trials for each task before the budget is shared by expected gain.
        peak_gflops: what the machine could reach, for the allocator; by default the best so far.
    """

    plan: MeasurePlan = field(default_factory=MeasurePlan)
    check: bool = True
    check_share: float = 0.05
    abandon: float | None = 4.0
    warm_up: int = 16
    peak_gflops: float | None = None


@dataclass(frozen=True, slots=True)
class _Flight:
    """One request in flight; `recheck` when it is not the first measurement of its trial."""

    index: int
    trial: int
    config: Config
    recheck: bool
    future: Future[Outcome]


@dataclass(frozen=True, slots=True)
class _Doubt:
    """A trial whose device turned out to be too slow."""

    index: int
    trial: int
    config: Config


def tune_tasks(
    tasks: Sequence[Task],
    runner: Runner,
    policy_factory: PolicyFactory,
    *,
    budget: Budget,
    counts: Sequence[int] | None = None,
    journal: Journal | None = None,
    on_event: Callable[[Event], None] | None = None,
    clock: Callable[[], float] = time.monotonic,
    seed: int = 0,
    options: TuneOptions = TuneOptions(),
) -> tuple[TuneResult, ...]:
    """The result of tuning each of `tasks`, in their order.

    On KeyboardInterrupt it returns what it has. Nothing is lost when the runner raises: every trial
    that came back is in the journal, and the same call resumes from there.

    Args:
        counts: how often the model runs each task; 1 by default.
        journal: where trials are stored and found again.
        on_event: called for every trial, in this thread.
        clock: seconds, for the budget.

    Raises: ConfigError for counts that do not fit; whatever `runner.submit` or a policy raises.
    """
    if not tasks:
        return ()
    shares = [1] * len(tasks) if counts is None else list(counts)
    if len(shares) != len(tasks) or min(shares) < 1:
        raise ConfigError(f"{len(tasks)} tasks need as many counts above zero, not {shares}")
    progresses = [
        TaskProgress(task, policy_factory(task, _generator(seed, task)), count, check=options.check)
        for task, count in zip(tasks, shares, strict=True)
    ]
    tuner = _Tuner(
        progresses,
        runner,
        budget=budget,
        journal=journal,
        on_event=on_event,
        clock=clock,
        seed=seed,
        options=options,
    )
    return tuner.run()


@final
class _Tuner:
    def __init__(
        self,
        tasks: list[TaskProgress],
        runner: Runner,
        *,
        budget: Budget,
        journal: Journal | None,
        on_event: Callable[[Event], None] | None,
        clock: Callable[[], float],
        seed: int,
        options: TuneOptions,
    ) -> None:
        self._tasks = tasks
        self._runner = runner
        self._budget = budget
        self._journal = journal
        self._tell = on_event if on_event is not None else _ignore
        self._clock = clock
        self._options = options
        self._rng = np.random.default_rng([seed, 1])  # which trials are checked
        self._begin = clock()
        self._done: queue.SimpleQueue[_Flight | _Doubt] = queue.SimpleQueue()
        self._flying = 0
        each = budget.trials
        self._limit = None if each is None else each * len(tasks)
        self._warm_up = options.warm_up if each is None else min(options.warm_up, each)

    def run(self) -> tuple[TuneResult, ...]:
        interrupted = False
        try:
            for index in range(len(self._tasks)):
                self._resume(index)
            self._fill()
            while self._flying:
                match self._done.get():
                    case _Doubt(index, trial, config):
                        self._tasks[index].doubted(trial, config)
                    case _Flight() as flight:
                        self._take(flight)
                self._fill()
        except KeyboardInterrupt:
            interrupted = True
        return tuple(task.result(interrupted=interrupted) for task in self._tasks)

    def _resume(self, index: int) -> None:
        """Load a task's trials from the journal; those that no longer fit its space are ignored."""
        if self._journal is None:
            return
        progress = self._tasks[index]
        seen: set[str] = set()
        trials: list[Trial] = []
        for record in self._journal.earlier(progress.task):
            try:
                progress.task.space.encode(record.config)
            except ConfigError:
                continue
            taught = True
            if not self._journal.own(record):
                progress.known(record.config, record.outcome)
            elif record.config.key in seen:
                taught = not progress.teaches_nothing(record.trial, record.outcome)
                progress.confirmed(record.trial, record.config, record.outcome)
            else:
                seen.add(record.config.key)
                progress.trial_done(record.trial, record.config, record.outcome)
                progress.next_trial = max(progress.next_trial, record.trial + 1)
            if taught:
                trials.append(Trial(record.config, record.outcome))
        if not trials:
            return
        progress.policy.tell(trials)
        progress.resumed = progress.trials
        known = len({trial.config.key for trial in trials})
        self._tell(TaskResumed(index, progress.task, progress.trials, known, progress.best))

    def _fill(self) -> None:
        """Put as many requests in flight as the runner wants.

        Claims to be best go first, then what has to be measured again, as long as there is time.
        """
        while self._flying < self._runner.slots:
            if not (self._submit_claim() or self._submit_doubted() or self._submit_next()):
                return

    def _submit_claim(self) -> bool:
        for index, progress in enumerate(self._tasks):
            claim = progress.next_claim()
            if claim is not None:
                self._submit(index, *claim, check=True, recheck=True)
                return True
        return False

    def _submit_doubted(self) -> bool:
        if not self._in_time():
            return False
        for index, progress in enumerate(self._tasks):
            doubted = progress.next_doubted()
            if doubted is not None:
                self._submit(index, *doubted, check=False, recheck=True)
                return True
        return False

    def _submit_next(self) -> bool:
        while self._in_budget():
            standings = [progress.standing() for progress in self._tasks]
            peak = self._options.peak_gflops
            index = next_task(standings, warm_up=self._warm_up, peak_gflops=peak)
            if index is None:
                return False
            progress = self._tasks[index]
            asked = progress.policy.ask(1)
            if not asked:
                progress.exhausted = True
                continue
            trial = progress.next_trial
            progress.next_trial += 1
            progress.in_flight += 1
            sampled = trial == 0 or self._rng.random() < self._options.check_share
            self._submit(index, trial, asked[0], check=self._options.check and sampled)
            return True
        return False

    def _submit(
        self, index: int, trial: int, config: Config, *, check: bool, recheck: bool = False
    ) -> None:
        progress = self._tasks[index]
        fastest = progress.fastest_ns
        plan = self._options.plan
        claims = recheck and check  # a time that may be the best is not cut short
        if self._options.abandon is not None and np.isfinite(fastest) and not claims:
            plan = replace(plan, abandon_ns=self._options.abandon * fastest)
        doubt = functools.partial(self._done.put, _Doubt(index, trial, config))
        request = MeasureRequest(progress.task, config, plan, check, doubt)
        future = self._runner.submit(request)
        flight = _Flight(index, trial, config, recheck, future)
        self._flying += 1
        future.add_done_callback(lambda _: self._done.put(flight))

    def _take(self, flight: _Flight) -> None:
        """Handle one outcome: store it first, then learn from it, then report it."""
        self._flying -= 1
        outcome = flight.future.result()
        progress = self._tasks[flight.index]
        if self._journal is not None:
            self._journal.write(progress.task, flight.trial, flight.config, outcome)
        taught = not (flight.recheck and progress.teaches_nothing(flight.trial, outcome))
        if flight.recheck:
            progress.confirmed(flight.trial, flight.config, outcome)
        else:
            progress.in_flight -= 1
            progress.trial_done(flight.trial, flight.config, outcome)
        if taught:
            progress.policy.tell([Trial(flight.config, outcome)])
        self._tell(
            TrialDone(
                index=flight.index,
                task=progress.task,
                config=flight.config,
                outcome=outcome,
                n=progress.trials,
                best=progress.best,
                elapsed_s=self._clock() - self._begin,
                recheck=flight.recheck,
            )
        )

    def _in_time(self) -> bool:
        seconds = self._budget.seconds
        return seconds is None or self._clock() - self._begin < seconds

    def _in_budget(self) -> bool:
        if not self._in_time():
            return False
        done = sum(progress.trials + progress.in_flight for progress in self._tasks)
        return self._limit is None or done < self._limit


def _generator(seed: int, task: Task) -> np.random.Generator:
    """The generator of one task: the same whichever tasks are tuned along with it."""
    digest = hashlib.sha256(task.key.encode()).digest()[:8]
    return np.random.default_rng([seed, int.from_bytes(digest)])


def _ignore(_: Event) -> None:
    """Tell nobody."""
