"""The one pipeline that measures candidates, wherever the devices are.

    submit -> builders -> devices -> oracle -> future

Builds, runs and checks of different candidates overlap. `Devices` is the seam: what runs an
artifact may be a process here or devices leased from a tracker; the pipeline is the same.
"""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future, InvalidStateError
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from typing import Protocol, Self, final

from loopwright.build.candidate import Builders, Built
from loopwright.codegen.artifact import Artifact
from loopwright.errors import ConfigError, EnvironmentFailure
from loopwright.layout import Array
from loopwright.measure.check import Checker
from loopwright.measure.floor import too_fast
from loopwright.measure.request import MeasureRequest
from loopwright.outcome import Failed, MeasurePlan, Outcome, Timed

_CHECKED = 1  # one more request than are built and run: it is being checked


@dataclass(frozen=True, slots=True)
class Run:
    """Time `artifact` as `plan` says on inputs made from `seed`; return outputs if requested.

    `on_doubt` is that of `MeasureRequest`.
    """

    artifact: Artifact
    plan: MeasurePlan
    seed: int
    want_output: bool
    on_doubt: Callable[[], None] | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True)
class RunResult:
    """An outcome and, if requested, the outputs in their memory layouts."""

    outcome: Outcome
    outputs: tuple[Array, ...] = ()


class Devices(Protocol):
    """Runs artifacts, first come first served, on one or more devices.

    A run lost through no fault of the candidate is repeated once, then reported as an
    infrastructure failure. A candidate that takes devices down is to blame.
    """

    @property
    def slots(self) -> int:
        """How many runs in flight keep the devices busy."""
        ...

    def submit(self, run: Run) -> Future[RunResult]:
        """The future result; returns at once. It raises only when no device is left."""
        ...

    def close(self) -> None:
        """End running requests and cancel waiting ones: every future is done afterwards."""
        ...


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


@final
class Pipeline:
    """Measures kernels of `threads` threads: a `Runner`. It owns `builders` and `devices`.

    Without a `checker` a request to check is refused. Where builders and checks share cores with
    the device, `alone` pauses them while a kernel is timed. `on_close` is called last.
    """

    def __init__(
        self,
        builders: Builders,
        devices: Devices,
        *,
        threads: int = 1,
        checker: Checker | None = None,
        seed: int = 0,
        alone: bool = False,
        on_close: Callable[[], None] | None = None,
    ) -> None:
        self.threads = threads
        self._builders = builders
        self._devices = devices
        self._checker = checker
        self._seed = seed if checker is None else checker.seed
        self._alone = alone
        self._on_close = on_close
        self._closed = threading.Event()
        self._quiet = threading.Lock()  # held by anything that would disturb a measurement
        self._open: set[Future[Outcome]] = set()
        self._lock = threading.Lock()  # guards _open
        self._runs: queue.SimpleQueue[_Trial | None] = queue.SimpleQueue()
        self._checks: queue.SimpleQueue[_Measured | None] = queue.SimpleQueue()
        targets = [self._check_all, *([self._run_alone] if alone else [])]
        self._threads = [
            threading.Thread(target=target, name=target.__name__.strip("_"), daemon=True)
            for target in targets
        ]
        for thread in self._threads:
            thread.start()

    @property
    def slots(self) -> int:
        """How many requests in flight keep builders and devices busy."""
        return self._builders.workers + self._devices.slots + _CHECKED

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
        """End running requests, cancel waiting ones; closing again is harmless."""
        if self._closed.is_set():
            return
        self._closed.set()
        self._devices.close()
        self._builders.close()
        self._runs.put(None)
        self._checks.put(None)
        for thread in self._threads:
            thread.join()
        with self._lock:
            waiting = tuple(self._open)
        for future in waiting:
            self._cancel(future)
        if self._on_close is not None:
            self._on_close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _built(self, request: MeasureRequest, done: Future[Built], future: Future[Outcome]) -> None:
        """A builder is done with a request; runs in the builder's thread."""
        if done.cancelled():
            self._cancel(future)
            return
        error = done.exception()
        if error is not None:
            self._raise(future, error)
            return
        built = done.result()
        if isinstance(built.result, Failed):
            self._finish(future, built.result)
            return
        trial = _Trial(request, built.result, built.build_s, future)
        if self._alone:
            self._runs.put(trial)
        else:
            self._start(trial)

    def _start(self, trial: _Trial) -> None:
        """Hand a built candidate to the devices; withdraw it if its future is cancelled."""
        if trial.future.cancelled() or self._closed.is_set():
            self._cancel(trial.future)
            return
        try:
            running = self._devices.submit(self._run(trial))
        except BaseException as e:  # noqa: BLE001  # a future carries whatever it was
            self._raise(trial.future, e)
            return
        trial.future.add_done_callback(lambda done: running.cancel() if done.cancelled() else None)
        running.add_done_callback(lambda done: self._ran(trial, done))

    def _run_alone(self) -> None:
        """Thread that runs one candidate at a time while everything else is paused."""
        while (trial := self._runs.get()) is not None and not self._closed.is_set():
            if trial.future.cancelled():
                self._forget(trial.future)
                continue
            try:
                with self._quiet, self._builders.paused():
                    running = self._devices.submit(self._run(trial))
                    ended = threading.Event()  # `wait` does not wake for cancelled futures
                    running.add_done_callback(lambda _, ended=ended: ended.set())  # type: ignore[misc]  # a default
                    ended.wait()
            except BaseException as e:  # noqa: BLE001  # a future carries whatever it was
                self._raise(trial.future, e)
                continue
            self._ran(trial, running)

    def _run(self, trial: _Trial) -> Run:
        request = trial.request
        return Run(
            trial.artifact,
            request.plan,
            self._seed,
            want_output=request.check,
            on_doubt=request.on_doubt,
        )

    def _ran(self, trial: _Trial, done: Future[RunResult]) -> None:
        """A device is done with a candidate; runs in the devices' thread."""
        if done.cancelled():
            self._cancel(trial.future)
            return
        error = done.exception()
        if error is not None:
            self._raise(trial.future, error)
            return
        result = done.result()
        if isinstance(result.outcome, Failed):
            self._finish(trial.future, result.outcome)
            return
        timed = replace(result.outcome, build_s=trial.build_s)
        refused = too_fast(trial.request.task, timed, self.threads)
        if refused is not None:
            self._finish(trial.future, refused)
            return
        if trial.request.check:
            self._checks.put(_Measured(trial, timed, result.outputs))
        else:
            self._finish(trial.future, timed)

    def _check_all(self) -> None:
        """Thread that compares outputs."""
        guard: AbstractContextManager[object] = (
            self._quiet if self._alone else contextlib.nullcontext()
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
            if wrong is None:
                self._finish(trial.future, replace(measured.timed, checked=True))
            else:
                self._finish(trial.future, replace(wrong, where=measured.timed.where))

    def _finish(self, future: Future[Outcome], outcome: Outcome) -> None:
        self._forget(future)
        with contextlib.suppress(InvalidStateError):  # the caller cancelled it
            future.set_result(outcome)

    def _raise(self, future: Future[Outcome], error: BaseException) -> None:
        self._forget(future)
        with contextlib.suppress(InvalidStateError):  # the caller cancelled it
            future.set_exception(error)

    def _cancel(self, future: Future[Outcome]) -> None:
        self._forget(future)
        future.cancel()

    def _forget(self, future: Future[Outcome]) -> None:
        with self._lock:
            self._open.discard(future)
