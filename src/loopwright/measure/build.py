"""Building one candidate, and the seam behind which candidates are built in other processes."""

from __future__ import annotations

import contextlib
import pickle
import resource
import time
from collections.abc import Callable, Iterator
from concurrent.futures import BrokenExecutor, Executor, Future
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol, TypeAlias

from loopwright.codegen.artifact import Artifact
from loopwright.errors import (
    LoopwrightError,
    ScheduleError,
    TemplateError,
)
from loopwright.measure.types import Failed, FailureKind, MeasurePlan, Stage
from loopwright.space.config import Config
from loopwright.templates.task import Task

BuildFunction: TypeAlias = Callable[[Task, Config], Artifact]
"""Space to object code. Runs in builder processes only and is pickled by reference."""

_DETAIL = 500
_PAGE_BYTES = resource.getpagesize()


@dataclass(frozen=True, slots=True)
class Built:
    """What a builder made of a candidate, and the seconds it worked on it."""

    result: Artifact | Failed
    build_s: float


class Builders(Protocol):
    """Builds candidates somewhere else than in this process."""

    @property
    def workers(self) -> int:
        """How many candidates are built at once."""
        ...

    def submit(self, task: Task, config: Config, plan: MeasurePlan) -> Future[Built]:
        """The future result of building `config`; a builder that dies of it is a result too."""
        ...

    def paused(self) -> AbstractContextManager[None]:
        """A context in which no builder uses a processor of this machine."""
        ...

    def close(self) -> None:
        """End what was started."""
        ...


class ExecutorBuilders:
    """Builders on any `concurrent.futures.Executor` of processes: a pool, Dask, Ray, MPI.

    The executor's workers must be on other machines or other cores: they cannot be paused.
    """

    def __init__(self, executor: Executor, build: BuildFunction, workers: int) -> None:
        self.workers = workers
        self._executor = executor
        self._build = build

    def submit(self, task: Task, config: Config, plan: MeasurePlan) -> Future[Built]:
        """The future result; a worker that died is `COMPILER_CRASH`."""
        answer: Future[Built] = Future()
        inner = self._executor.submit(
            build_packed, self._build, pack_task(task), config, plan.build_memory
        )
        inner.add_done_callback(lambda done: _forward(done, answer))
        return answer

    def paused(self) -> AbstractContextManager[None]:
        """A context that does nothing."""
        return contextlib.nullcontext()

    def close(self) -> None:
        """Leave the executor to its owner."""


def build_packed(build: BuildFunction, packed: bytes, config: Config, memory: int) -> Built:
    """What `build` makes of `config` of a packed task, in this process.

    Any exception is a `Failed`: this is the boundary of the builder process.
    """
    start = time.perf_counter()
    try:
        task = unpack_task(packed)
    except Exception as e:  # noqa: BLE001  # the boundary of the builder process
        return Built(unimportable(e), time.perf_counter() - start)
    result = build_one(build, task, config, memory)
    return Built(result, time.perf_counter() - start)


def build_one(build: BuildFunction, task: Task, config: Config, memory: int) -> Artifact | Failed:
    """What `build` makes of `config` with at most `memory` bytes more than this process has now."""
    try:
        with _address_space(memory):
            return build(task, config)
    except MemoryError:
        detail = f"the build took more than {memory} bytes"
        return Failed(Stage.BUILD, FailureKind.BUILD_MEMORY, detail)
    except ScheduleError as e:
        return Failed(Stage.SCHEDULE, FailureKind.ILLEGAL_SCHEDULE, one_line(str(e)))
    except TemplateError as e:
        return Failed(Stage.SCHEDULE, FailureKind.TEMPLATE_ERROR, one_line(str(e)))
    except LoopwrightError as e:
        return Failed(Stage.BUILD, FailureKind.COMPILE_ERROR, one_line(str(e)))
    except Exception as e:  # noqa: BLE001  # the boundary of the builder process
        detail = one_line(f"{type(e).__name__}: {e}")
        return Failed(Stage.BUILD, FailureKind.COMPILE_ERROR, detail)


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
    return Failed(Stage.SCHEDULE, FailureKind.TEMPLATE_ERROR, one_line(reason))


def one_line(text: str) -> str:
    """`text` as one line of bounded length."""
    return " ".join(text.split())[:_DETAIL]


@contextlib.contextmanager
def _address_space(extra: int) -> Iterator[None]:
    """Limits this process to `extra` bytes more than it has; lifted at the end."""
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
    try:
        answer.set_result(done.result())
    except BrokenExecutor as e:
        detail = one_line(f"the builder died: {e}")
        answer.set_result(Built(Failed(Stage.BUILD, FailureKind.COMPILER_CRASH, detail), 0.0))
    except BaseException as e:  # noqa: BLE001  # a future carries whatever it was
        answer.set_exception(e)
