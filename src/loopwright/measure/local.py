"""The local runner: builders, one measuring process and the oracle as a pipeline on this machine.

    submit -> builder processes -> measuring process (one at a time) -> oracle -> future

Builds, checks and the caller's own work overlap with measuring, but never on a core that is
measured: builders, and this process while the runner is open, keep to the other cores. Where
there are no others, builders are stopped and checks wait while a kernel is timed.
"""

from __future__ import annotations

import contextlib
import os
import queue
import threading
from collections.abc import Iterator
from concurrent.futures import Future, InvalidStateError
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

from loopwright.codegen.artifact import Artifact
from loopwright.errors import ConfigError, EnvironmentFailure
from loopwright.layout import Array
from loopwright.measure.build import Builders, BuildFunction, Built
from loopwright.measure.builders import BuilderPool
from loopwright.measure.check import Checker
from loopwright.measure.request import MeasureRequest
from loopwright.measure.run import MeasureServer, RunResult, cores_for
from loopwright.measure.types import Failed, FailureKind, Outcome, Stage, Timed

_QUEUED = 2  # requests beyond those being built: one is measured, one is checked


@dataclass(frozen=True, slots=True)
class _Trial:
    request: MeasureRequest
    artifact: Artifact
    build_s: float
    future: Future[Outcome]


@dataclass(frozen=True, slots=True)
class _Measured:
    trial: _Trial
    timed: Timed
    outputs: tuple[Array, ...]


class LocalRunner:
    """Measures kernels that use `threads` threads on this machine.

    `build` makes an artifact of a task and a config in a builder process (`builders` of them, or
    Builders of your own). Without a `checker` a request to check is refused. With `confine`, this
    process keeps off the measured cores until `close`, if there are other cores.
    Raises: ConfigError for more threads than cores.
    """

    def __init__(
        self,
        build: BuildFunction,
        *,
        threads: int = 1,
        builders: int | Builders = 1,
        checker: Checker | None = None,
        seed: int = 0,
        cache_dir: Path | None = None,
        confine: bool = True,
    ) -> None:
        self.threads = threads
        allowed = sorted(os.sched_getaffinity(0))
        self.cores = cores_for(threads, allowed)
        self.background_cores = tuple(c for c in allowed if c not in self.cores)
        self._seed = seed if checker is None else checker.seed
        self._checker = checker
        self._closed = threading.Event()
        self._quiet = threading.Lock()  # held by what would disturb a measurement on all cores
        self._open: set[Future[Outcome]] = set()
        self._lock = threading.Lock()  # guards _open
        self._runs: queue.SimpleQueue[_Trial | None] = queue.SimpleQueue()
        self._checks: queue.SimpleQueue[_Measured | None] = queue.SimpleQueue()
        self._server = MeasureServer(cache_dir)
        self._builders: Builders = (
            BuilderPool(build, builders, self.background_cores or None)
            if isinstance(builders, int)
            else builders
        )
        self._confined = contextlib.ExitStack()
        if confine and self.background_cores:
            self._confined.enter_context(keep_to(self.background_cores))
        self._threads = (
            threading.Thread(target=self._measure_all, name="measure", daemon=True),
            threading.Thread(target=self._check_all, name="check", daemon=True),
        )
        for thread in self._threads:
            thread.start()

    @property
    def slots(self) -> int:
        """How many requests in flight keep the runner busy."""
        return self._builders.workers + _QUEUED

    def submit(self, request: MeasureRequest) -> Future[Outcome]:
        """The future outcome of `request`.

        Raises: ConfigError for a plan of other threads, or a check without a checker;
        EnvironmentFailure after `close`; TemplateError if the task does not pickle.
        """
        if self._closed.is_set():
            raise EnvironmentFailure("the runner was closed")
        if request.plan.threads != self.threads:
            raise ConfigError(
                f"a plan for {request.plan.threads} threads on a runner for {self.threads}"
            )
        if request.check and self._checker is None:
            raise ConfigError("the runner has no checker: give it one, or do not ask for a check")
        future: Future[Outcome] = Future()
        built = self._builders.submit(request.task, request.config, request.plan)
        with self._lock:
            self._open.add(future)
        built.add_done_callback(lambda done: self._built(request, done, future))
        return future

    def close(self) -> None:
        """Kill what runs, cancel what waits, and give this process its cores back."""
        if self._closed.is_set():
            return
        self._closed.set()
        self._server.interrupt()
        self._builders.close()
        self._runs.put(None)
        self._checks.put(None)
        for thread in self._threads:
            thread.join()
        with self._lock:
            waiting = tuple(self._open)
        for future in waiting:
            future.cancel()
            self._forget(future)
        self._confined.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _built(self, request: MeasureRequest, done: Future[Built], future: Future[Outcome]) -> None:
        """A builder is done with a request; runs in the builder's thread."""
        if done.cancelled():
            self._forget(future)
            future.cancel()
            return
        error = done.exception()
        if error is not None:
            self._raise(future, error)
            return
        built = done.result()
        if isinstance(built.result, Failed):
            self._finish(future, built.result)
        else:
            self._runs.put(_Trial(request, built.result, built.build_s, future))

    def _measure_all(self) -> None:
        """Thread that owns the measuring process."""
        with contextlib.suppress(EnvironmentFailure):
            self._server.start()  # now; an error is met again, and told, by the first trial
        while (trial := self._runs.get()) is not None and not self._closed.is_set():
            if trial.future.cancelled():
                self._forget(trial.future)
                continue
            try:
                result = self._measure(trial)
            except BaseException as e:  # noqa: BLE001  # a future carries whatever it was
                self._raise(trial.future, e)
                continue
            if isinstance(result.outcome, Failed):
                self._finish(trial.future, result.outcome)
                continue
            timed = replace(result.outcome, build_s=trial.build_s)
            if trial.request.check:
                self._checks.put(_Measured(trial, timed, result.outputs))
            else:
                self._finish(trial.future, timed)
        self._server.close()

    def _measure(self, trial: _Trial) -> RunResult:
        """The result of a run; once more if the measuring process is lost, which may be chance."""
        first = self._run(trial)
        if not _lost(first) or self._closed.is_set():
            return first
        again = self._run(trial)
        if not _lost(again) or self._closed.is_set():
            return again
        detail = "the measuring process was lost twice while it ran this candidate"
        return RunResult(Failed(Stage.RUN, FailureKind.CRASH, detail))

    def _run(self, trial: _Trial) -> RunResult:
        request = trial.request
        with self._undisturbed():
            return self._server.run(
                trial.artifact,
                request.plan,
                seed=self._seed,
                cores=self.cores,
                want_output=request.check,
            )

    @contextlib.contextmanager
    def _undisturbed(self) -> Iterator[None]:
        """A context in which nothing of ours runs on the measured cores."""
        if self.background_cores:
            yield
            return
        with self._quiet, self._builders.paused():
            yield

    def _check_all(self) -> None:
        """Thread that compares outputs."""
        guard: AbstractContextManager[object] = (
            contextlib.nullcontext() if self.background_cores else self._quiet
        )
        while (measured := self._checks.get()) is not None and not self._closed.is_set():
            trial, checker = measured.trial, self._checker
            if checker is None:
                continue
            try:
                with guard:
                    task = trial.request.task
                    error = task.template.error
                    wrong = checker.check(task.workload, trial.artifact, measured.outputs, error)
            except BaseException as e:  # noqa: BLE001  # a future carries whatever it was
                self._raise(trial.future, e)
                continue
            good = replace(measured.timed, checked=True)
            self._finish(trial.future, good if wrong is None else wrong)

    def _finish(self, future: Future[Outcome], outcome: Outcome) -> None:
        self._forget(future)
        with contextlib.suppress(InvalidStateError):  # the caller cancelled it
            future.set_result(outcome)

    def _raise(self, future: Future[Outcome], error: BaseException) -> None:
        self._forget(future)
        with contextlib.suppress(InvalidStateError):  # the caller cancelled it
            future.set_exception(error)

    def _forget(self, future: Future[Outcome]) -> None:
        with self._lock:
            self._open.discard(future)


def _lost(result: RunResult) -> bool:
    outcome = result.outcome
    return isinstance(outcome, Failed) and outcome.kind is FailureKind.WORKER_LOST


@contextlib.contextmanager
def keep_to(cores: tuple[int, ...]) -> Iterator[None]:
    """Keeps every thread of this process to `cores`; each gets back what it had at the end."""
    before: dict[int, set[int]] = {}
    for thread in _threads():
        with contextlib.suppress(OSError):  # it ended meanwhile
            before[thread] = os.sched_getaffinity(thread)
            os.sched_setaffinity(thread, cores)
    everything = before.get(os.getpid(), set(cores))
    try:
        yield
    finally:
        for thread in _threads():
            with contextlib.suppress(OSError):
                os.sched_setaffinity(thread, before.get(thread, everything))


def _threads() -> list[int]:
    """Ids of the threads of this process."""
    return [int(entry.name) for entry in Path("/proc/self/task").iterdir()]
