"""Tuning on this machine: the tuner with its local runner, its store and its policy."""

from __future__ import annotations

import functools
import importlib.metadata
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from loopwright.codegen.compile import compile_config
from loopwright.errors import ConfigError
from loopwright.learn.features import featurize
from loopwright.measure.check import Checker, Oracle
from loopwright.measure.local import LocalRunner
from loopwright.measure.types import MeasurePlan
from loopwright.records.device import fingerprint
from loopwright.records.store import RecordStore, SqlStore
from loopwright.runtime.machine import measure_fma_peak
from loopwright.search.journal import Journal
from loopwright.search.policies import NAMES, make_policy
from loopwright.search.policy import Policy
from loopwright.search.result import Budget, Event, TuneResult
from loopwright.search.tuner import TuneOptions, tune_tasks
from loopwright.settings import from_environment
from loopwright.target import host
from loopwright.te.reference import compare, evaluate
from loopwright.templates.task import Task
from loopwright.version import __version__

ORACLE = Oracle(evaluate, compare)
"""What is right: the tensor expression, computed with NumPy."""


@dataclass(frozen=True, slots=True)
class TuneSettings:
    """How to tune. `peak_gflops` is what the machine can do, measured when None."""

    budget: Budget
    policy: str = "model"
    seed: int = 0
    peak_gflops: float | None = None


def tune(
    task: Task,
    trials: int | None = 128,
    time_budget: float | None = None,
    records: str | None = None,
    policy: str = "model",
    seed: int = 0,
) -> TuneResult:
    """The fastest program of `task` found on this machine, and how it was found.

    Run it again to go on: trials of an earlier run with the same policy and seed count.

    Args:
        trials: how many configs to measure; None for no limit.
        time_budget: seconds.
        records: the URL that trials are kept at; LOOPWRIGHT_RECORDS when None.
        policy: random, grid, genetic, model or autotvm.

    Raises: ConfigError for an unknown policy, or a task for another machine; RecordsError.
    """
    settings = TuneSettings(Budget(trials, time_budget), policy, seed)
    with SqlStore(records or from_environment().records) as store:
        return tune_many([task], settings, store)[0]


def tune_many(
    tasks: Sequence[Task],
    settings: TuneSettings,
    store: RecordStore,
    *,
    counts: Sequence[int] | None = None,
    on_event: Callable[[Event], None] | None = None,
) -> tuple[TuneResult, ...]:
    """The results of tuning `tasks`, in their order, which share the budget.

    Args:
        counts: how often a model computes each; 1 by default.
        on_event: told of each trial.

    Raises: as `tune`; ConfigError also for tasks of several targets or numbers of threads.
    """
    if not tasks:
        return ()
    threads = _check(tasks, settings.policy)
    target = tasks[0].target
    plan = MeasurePlan(threads=threads)
    peak = settings.peak_gflops or measure_fma_peak(threads)
    builders = max(1, len(os.sched_getaffinity(0)) - threads)
    journal = Journal(store, fingerprint(target), settings.policy, settings.seed, software())
    with LocalRunner(
        compile_config,
        threads=threads,
        builders=builders,
        checker=Checker(ORACLE, settings.seed),
        seed=settings.seed,
    ) as runner:
        return tune_tasks(
            tasks,
            runner,
            functools.partial(_policy, settings.policy),
            budget=settings.budget,
            counts=counts,
            journal=journal,
            on_event=on_event,
            seed=settings.seed,
            options=TuneOptions(plan=plan, peak_gflops=peak),
        )


def software() -> str:
    """The versions that decide what code a config becomes."""
    return f"loopwright {__version__}, llvmlite {importlib.metadata.version('llvmlite')}"


def _policy(name: str, task: Task, rng: np.random.Generator) -> Policy:
    return make_policy(name, task.space, rng, functools.partial(featurize, task))


def _check(tasks: Sequence[Task], policy: str) -> int:
    """The threads of all `tasks`, which must be for this machine.

    Raises: ConfigError otherwise, or for an unknown policy.
    """
    if policy not in NAMES:
        raise ConfigError(f"unknown policy {policy!r}; use one of {', '.join(NAMES)}")
    threads = {task.threads for task in tasks}
    if len(threads) != 1:
        raise ConfigError(f"tasks for {sorted(threads)} threads cannot be tuned together")
    here = host()
    for task in tasks:
        if not (task.target.arch == here.arch and {*task.target.features} <= {*here.features}):
            raise ConfigError(
                f"{task.name} is for {task.target.name}, which this machine ({here.name}) cannot "
                "run; tune it there, or use target cpu"
            )
    return threads.pop()
