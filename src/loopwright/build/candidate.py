"""Building one candidate, and the protocol of builders in other processes."""

from __future__ import annotations

import contextlib
import pickle
import resource
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import BrokenExecutor, Executor, Future, InvalidStateError
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol, TypeAlias

from loopwright.codegen.artifact import Artifact
from loopwright.errors import (
    EnvironmentFailure,
    LoopwrightError,
    ScheduleError,
    TemplateError,
)
from loopwright.outcome import Failed, FailureKind, FailureStage, MeasurePlan
from loopwright.space.config import Config
from loopwright.templates.task import Task

BuildFunction: TypeAlias = Callable[[Task, Config], Artifact]
"""From a config to object code. Runs only in builder processes; pickled by reference."""

_DETAIL = 500
_PAGE_BYTES = resource.getpagesize()


@dataclass(frozen=True, slots=True)
class Built:
    """The result of building a candidate, and the seconds that took."""

    result: Artifact | Failed
    build_s: float


class Builders(Protocol):
    """Builds candidates outside this process."""

    @property
    def workers(self) -> int:
        """How many candidates are built at once."""
        ...

    def submit(self, task: Task, config: Config, plan: MeasurePlan) -> Future[Built]:
        """The future result of building `config`; a builder that crashes is a result too."""
        ...

    def paused(self) -> AbstractContextManager[None]:
        """A context in which no builder uses a processor of this machine."""
        ...

    def close(self) -> None:
        """End everything that was started."""
        ...


class ExecutorBuilders:
    """Builders on any `concurrent.futures.Executor` of processes: a pool, Dask, Ray, MPI.

    The executor's workers must be on other machines or other cores: they cannot be paused. With
    `confine` a build's limits are set on the process it runs in, which must not be this one.
    `on_close` is called at the end to release the executor; by default its owner does that.
    """

    def __init__(
        self,
        executor: Executor,
        build: BuildFunction,
        workers: int,
        *,
        confine: bool = True,
        on_close: Callable[[], object] | None = None,
    ) -> None:
        self.workers = workers
        self._executor = executor
        self._build = build
        self._confine = confine
        self._on_close = on_close
        self._lock = threading.Lock()  # guards _open and _closed
        self._open: set[Future[Built]] = set()
        self._closed = False

    def submit(self, task: Task, config: Config, plan: MeasurePlan) -> Future[Built]:
        """The future result; a worker that died is `COMPILER_CRASH`.

        Raises: TemplateError if the task does not pickle; EnvironmentFailure after `close`.
        """
        limits = Limits(plan.build_memory, plan.build_timeout_s) if self._confine else None
        answer: Future[Built] = Future()
        with self._lock:
            if self._closed:
                raise EnvironmentFailure("the builders were closed")
            self._open.add(answer)
        try:
            inner = self._executor.submit(
                build_packed, self._build, pack_task(task), config, limits
            )
        except BaseException:
            self._forget(answer)
            raise
        answer.add_done_callback(lambda done: inner.cancel() if done.cancelled() else None)
        inner.add_done_callback(lambda done: _forward(done, answer))
        answer.add_done_callback(self._forget)
        return answer

    def _forget(self, answer: Future[Built]) -> None:
        with self._lock:
            self._open.discard(answer)

    def paused(self) -> AbstractContextManager[None]:
        """A context that does nothing."""
        return contextlib.nullcontext()

    def close(self) -> None:
        """Cancel what is not built yet; the executor is left to its owner."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            waiting = tuple(self._open)
        for answer in waiting:
            answer.cancel()
        if self._on_close is not None:
            self._on_close()


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits of a build: bytes beyond what its process uses, and seconds of processor time."""

    memory: int
    cpu_s: float


def build_packed(
    build: BuildFunction, packed: bytes, config: Config, limits: Limits | None
) -> Built:
    """The result of `build` for `config` of a packed task, in this process.

    Any exception is a `Failed`: this is the boundary of the builder process. A build that exceeds
    its processor time ends the process, as nothing else can stop a compiler.
    """
    start = time.perf_counter()
    try:
        task = unpack_task(packed)
    except Exception as e:  # noqa: BLE001  # the boundary of the builder process
        return Built(unimportable(e), time.perf_counter() - start)
    if limits is None:
        result = build_one(build, task, config)
    else:
        signal.setitimer(signal.ITIMER_PROF, limits.cpu_s)
        try:
            result = build_one(build, task, config, limits.memory)
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0)
    return Built(result, time.perf_counter() - start)


def build_one(
    build: BuildFunction, task: Task, config: Config, memory: int | None = None
) -> Artifact | Failed:
    """The result of `build` for `config` with at most `memory` bytes beyond current use."""
    try:
        with contextlib.nullcontext() if memory is None else _address_space(memory):
            return build(task, config)
    except MemoryError:
        detail = f"the build took more than {memory} bytes"
        return Failed(FailureStage.BUILD, FailureKind.BUILD_MEMORY, detail)
    except ScheduleError as e:
        return Failed(FailureStage.SCHEDULE, FailureKind.ILLEGAL_SCHEDULE, one_line(str(e)))
    except TemplateError as e:
        return Failed(FailureStage.SCHEDULE, FailureKind.TEMPLATE_ERROR, one_line(str(e)))
    except LoopwrightError as e:
        return Failed(FailureStage.BUILD, FailureKind.COMPILE_ERROR, one_line(str(e)))
    except Exception as e:  # noqa: BLE001  # the boundary of the builder process
        detail = one_line(f"{type(e).__name__}: {e}")
        return Failed(FailureStage.BUILD, FailureKind.COMPILE_ERROR, detail)


def pack_task(task: Task) -> bytes:
    """`task` without its space, which a builder declares again: constraints may be closures.

    Raises: TemplateError if the template cannot be pickled, which is by reference to its module.
    """
    try:
        return pickle.dumps(task, protocol=pickle.HIGHEST_PROTOCOL)
    except (pickle.PicklingError, AttributeError, TypeError) as e:
        raise TemplateError(
            f"template {task.template.name}: its functions must be at the top of a module: {e}"
        ) from e


def unpack_task(packed: bytes) -> Task:
    """The task that was packed."""
    task: Task = pickle.loads(packed)
    return task


def unimportable(error: Exception) -> Failed:
    """The failure of a task whose template could not be imported."""
    reason = f"a builder cannot import the task's template: {type(error).__name__}: {error}"
    return Failed(FailureStage.SCHEDULE, FailureKind.TEMPLATE_ERROR, one_line(reason))


def one_line(text: str) -> str:
    """`text` as one line of bounded length."""
    return " ".join(text.split())[:_DETAIL]


@contextlib.contextmanager
def _address_space(extra: int) -> Iterator[None]:
    """Limits this process to `extra` bytes beyond current use; lifted at the end."""
    with open("/proc/self/statm") as file:  # noqa: PTH123  # hot and tiny
        used = int(file.read().split()[0]) * _PAGE_BYTES
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    limit = used + extra if hard == resource.RLIM_INFINITY else min(used + extra, hard)
    resource.setrlimit(resource.RLIMIT_AS, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def _forward(done: Future[Built], answer: Future[Built]) -> None:
    if done.cancelled():
        answer.cancel()
        return
    error = done.exception()
    with contextlib.suppress(InvalidStateError):  # cancelled meanwhile
        if isinstance(error, BrokenExecutor):
            detail = one_line(f"the builder died: {error}")
            answer.set_result(
                Built(Failed(FailureStage.BUILD, FailureKind.COMPILER_CRASH, detail), 0.0)
            )
        elif error is not None:
            answer.set_exception(error)
        else:
            answer.set_result(done.result())
