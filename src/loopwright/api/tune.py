"""Tuning, on this machine or on a fleet: the tuner with its runner, its store and its policy."""

from __future__ import annotations

import contextlib
import functools
import importlib.metadata
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from loopwright.build.candidate import BuildFunction
from loopwright.build.compile import compile_config
from loopwright.build.executors import Engine, ExecutorSpec, open_workshop, parse_executor
from loopwright.build.offload import Offload
from loopwright.errors import ConfigError
from loopwright.fleet.client.api import Fleet, connect
from loopwright.fleet.client.runner import DeviceClass, FleetOptions, FleetRunner, device_class
from loopwright.fleet.local import LocalRunner
from loopwright.measure.check import Checker, Oracle
from loopwright.measure.request import Runner
from loopwright.outcome import MeasurePlan
from loopwright.records.device import fingerprint
from loopwright.records.store import RecordStore, SqlStore
from loopwright.runtime.cpu.machine import measure_fma_peak
from loopwright.search.journal import Journal
from loopwright.search.policies import NAMES, make_policy
from loopwright.search.policy import Policy
from loopwright.search.result import Budget, Event, TuneResult
from loopwright.search.tuner import TuneOptions, tune_tasks
from loopwright.settings import from_environment
from loopwright.target.cpu import CpuTarget
from loopwright.target.host import host
from loopwright.target.presets import keys_for
from loopwright.target.union import Target
from loopwright.te.reference import compare, evaluate
from loopwright.templates.task import Task
from loopwright.version import __version__

ORACLE = Oracle(evaluate, compare)
"""The oracle: the tensor expression, computed with NumPy."""


@dataclass(frozen=True, slots=True)
class TuneSettings:
    """How to tune. `peak_gflops` is what the machine can do, measured when None.

    `trace` is the folder to write to what the passes over each kernel did. `executor` is where
    candidates are built and, on a cluster, where features are computed and cost models trained;
    see `build.executors`.
    """

    budget: Budget
    policy: str = "model"
    seed: int = 0
    peak_gflops: float | None = None
    trace: Path | None = None
    executor: ExecutorSpec = field(default_factory=lambda: ExecutorSpec(Engine.PROCESSES))


@dataclass(frozen=True, slots=True)
class Remote:
    """Devices of a fleet to measure on, found by `device_class`; the fleet stays open."""

    fleet: Fleet
    devices: DeviceClass
    options: FleetOptions = field(default_factory=FleetOptions)


def tune(
    task: Task,
    trials: int | None = 128,
    time_budget: float | None = None,
    records: str | None = None,
    policy: str = "model",
    seed: int = 0,
    *,
    fleet: Fleet | str | None = None,
    device: str = "",
    executor: str = "processes",
) -> TuneResult:
    """The fastest program of `task` found on this machine or on a fleet, and how it was found.

    Run it again to go on: trials of an earlier run with the same policy and seed count.

    Args:
        trials: how many configs to measure; None for no limit.
        time_budget: seconds.
        records: the URL that trials are kept at; LOOPWRIGHT_RECORDS when None.
        policy: random, grid, genetic, model or autotvm.
        fleet: whose devices to measure on, or its tracker's URL; this machine when None.
        device: which devices of the fleet, as `board=rpi4`; all that are like the best of them.
        executor: where candidates are built: processes, dask://HOST:PORT or ray://HOST:PORT; a
            cluster computes features and trains cost models too.

    Raises: ConfigError for an unknown policy, or a task for another machine; RecordsError;
        FleetError.
    """
    spec = parse_executor(executor)
    given = from_environment()
    budget = Budget(trials, time_budget)
    settings = TuneSettings(budget, policy, seed, trace=given.trace, executor=spec)
    with contextlib.ExitStack() as stack:
        store = stack.enter_context(SqlStore(records or given.records))
        remote: Remote | None = None
        if fleet is not None:
            found = stack.enter_context(connect(fleet)) if isinstance(fleet, str) else fleet
            remote = Remote(found, device_class(found, device, task.threads))
        return tune_many([task], settings, store, remote=remote)[0]


def tune_many(
    tasks: Sequence[Task],
    settings: TuneSettings,
    store: RecordStore,
    *,
    counts: Sequence[int] | None = None,
    on_event: Callable[[Event], None] | None = None,
    remote: Remote | None = None,
) -> tuple[TuneResult, ...]:
    """The results of tuning `tasks`, in their order, which share the budget.

    Args:
        counts: how often a model computes each; 1 by default.
        on_event: told of each trial.
        remote: the devices to measure on; this machine when None.

    Raises: as `tune`; ConfigError also for tasks of several targets or numbers of threads.
    """
    if not tasks:
        return ()
    threads = _check(tasks, settings.policy, None if remote is None else remote.devices)
    plan = MeasurePlan(threads=threads)
    peak = settings.peak_gflops
    if remote is None:
        device = fingerprint(tasks[0].target)
        if peak is None and isinstance(tasks[0].target, CpuTarget):
            peak = measure_fma_peak(threads)
    else:
        device = remote.devices.device
    journal = Journal(store, device, settings.policy, settings.seed, software())
    with _runner(settings, threads, remote, tasks[0].target) as (runner, offload):
        return tune_tasks(
            tasks,
            runner,
            functools.partial(_policy, settings.policy, offload),
            budget=settings.budget,
            counts=counts,
            journal=journal,
            on_event=on_event,
            seed=settings.seed,
            options=TuneOptions(plan=plan, peak_gflops=peak),
        )


@contextlib.contextmanager
def _runner(
    settings: TuneSettings, threads: int, remote: Remote | None, target: Target
) -> Iterator[tuple[Runner, Offload]]:
    """The runner of a tuning run, and where its policies compute."""
    checker = Checker(ORACLE, settings.seed)
    build: BuildFunction = compile_config
    if settings.trace is not None:
        build = functools.partial(compile_config, trace=settings.trace.absolute())
    allowed = sorted(os.sched_getaffinity(0))
    if remote is None:
        cores = tuple(allowed[: len(allowed) - threads]) or None  # see LocalRunner.background_cores
        workers = max(1, len(allowed) - threads)
        shop = open_workshop(settings.executor, build, workers, cores)
        with LocalRunner(
            builders=shop.builders, threads=threads, checker=checker, target=target
        ) as local:
            yield local, shop.offload
        return
    shop = open_workshop(settings.executor, build, len(allowed))
    with FleetRunner(
        remote.fleet,
        remote.devices,
        shop.builders,
        threads=threads,
        checker=checker,
        options=remote.options,
    ) as runner:
        yield runner, shop.offload


def software() -> str:
    """The versions that decide what code a config becomes."""
    return f"loopwright {__version__}, llvmlite {importlib.metadata.version('llvmlite')}"


def _policy(name: str, offload: Offload, task: Task, rng: np.random.Generator) -> Policy:
    return make_policy(name, task.space, rng, offload.featurizer(task), offload.trainer)


def _check(tasks: Sequence[Task], policy: str, devices: DeviceClass | None) -> int:
    """The threads of all `tasks`, which must be for this machine, or for `devices`.

    Raises: ConfigError otherwise, or for an unknown policy.
    """
    if policy not in NAMES:
        raise ConfigError(f"unknown policy {policy!r}; use one of {', '.join(NAMES)}")
    threads = {task.threads for task in tasks}
    if len(threads) != 1:
        raise ConfigError(f"tasks for {sorted(threads)} threads cannot be tuned together")
    kinds = {task.target.kind for task in tasks}
    if len(kinds) != 1:
        raise ConfigError(f"tasks for {', '.join(sorted(kinds))} targets cannot be tuned together")
    if devices is not None:
        keys = keys_for(devices.target)
        for task in tasks:
            if task.target.key not in keys:
                raise ConfigError(
                    f"{task.name} is for {task.target.name}, the devices are {devices.target.name}:"
                    f" make it for target={str(devices.target)!r}"
                )
        return threads.pop()
    here = host()
    for task in tasks:  # whether a device of another kind is here, its driver says
        if task.target.kind == here.kind and task.target.key not in keys_for(here):
            raise ConfigError(
                f"{task.name} is for {task.target.name}, which this machine ({here.name}) cannot "
                "run; tune it there, or use target cpu"
            )
    return threads.pop()
