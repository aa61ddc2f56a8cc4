"""The local runner: builders, one measuring process and the oracle on this machine.

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
from concurrent.futures import Future
from pathlib import Path
from typing import Self

from loopwright.errors import EnvironmentFailure
from loopwright.measure.build import Builders, BuildFunction
from loopwright.measure.builders import BuilderPool
from loopwright.measure.check import Checker
from loopwright.measure.pipeline import Pipeline, Run
from loopwright.measure.request import MeasureRequest
from loopwright.measure.run import MeasureServer, RunResult, cores_for
from loopwright.measure.types import Failed, FailureKind, Outcome, Stage


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
        allowed = sorted(os.sched_getaffinity(0))
        self.threads = threads
        self.cores = cores_for(threads, allowed)
        self.background_cores = tuple(c for c in allowed if c not in self.cores)
        self._server = MeasureServer(cache_dir)
        self._builders: Builders = (
            BuilderPool(build, builders, self.background_cores or None)
            if isinstance(builders, int)
            else builders
        )
        self._confined = contextlib.ExitStack()
        if confine and self.background_cores:
            self._confined.enter_context(keep_to(self.background_cores))
        self._pipeline = Pipeline(
            self._builders,
            _OwnProcess(self._server, self.cores),
            threads=threads,
            checker=checker,
            seed=seed,
            alone=not self.background_cores,
            on_close=self._confined.close,
        )

    @property
    def slots(self) -> int:
        """How many requests in flight keep the runner busy."""
        return self._pipeline.slots

    def submit(self, request: MeasureRequest) -> Future[Outcome]:
        """The future outcome of `request`; raises as `Pipeline.submit` does."""
        return self._pipeline.submit(request)

    def close(self) -> None:
        """Kill what runs, cancel what waits, and give this process its cores back."""
        self._pipeline.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _OwnProcess:
    """One measuring process and the thread that it belongs to: `pipeline.Devices`."""

    slots = 1

    def __init__(self, server: MeasureServer, cores: tuple[int, ...]) -> None:
        self._server = server
        self._cores = cores
        self._closed = threading.Event()
        self._queue: queue.SimpleQueue[tuple[Run, Future[RunResult]] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._serve, name="measure", daemon=True)
        self._thread.start()

    def submit(self, run: Run) -> Future[RunResult]:
        """The future result of `run`."""
        future: Future[RunResult] = Future()
        self._queue.put((run, future))
        if self._closed.is_set():
            future.cancel()
        return future

    def close(self) -> None:
        """End the process; what waits is cancelled."""
        self._closed.set()
        self._server.interrupt()
        self._queue.put(None)
        self._thread.join()
        with contextlib.suppress(queue.Empty):
            while True:
                entry = self._queue.get_nowait()
                if entry is not None:
                    entry[1].cancel()

    def _serve(self) -> None:
        with contextlib.suppress(EnvironmentFailure):
            self._server.start()  # now; an error is met again, and told, by the first trial
        while (entry := self._queue.get()) is not None:
            run, future = entry
            if self._closed.is_set():
                future.cancel()
            if not future.set_running_or_notify_cancel():
                continue
            try:
                future.set_result(self._measure(run))
            except BaseException as e:  # noqa: BLE001  # a future carries whatever it was
                future.set_exception(e)
        self._server.close()

    def _measure(self, run: Run) -> RunResult:
        """The result of a run; once more if the process is lost, which may be chance."""
        for _ in range(2):
            result = self._server.run(
                run.artifact,
                run.plan,
                seed=run.seed,
                cores=self._cores,
                want_output=run.want_output,
            )
            if not _lost(result) or self._closed.is_set():
                return result
        detail = "the measuring process was lost twice while it ran this candidate"
        return RunResult(Failed(Stage.RUN, FailureKind.CRASH, detail))


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
