"""Executors to build and to learn on: this process, processes of our own, a Dask or Ray cluster.

All are `concurrent.futures.Executor`s, and a cluster raises `BrokenExecutor` when a task kills a
worker, as a pool of processes does. Clusters belong to others: shutting down only disconnects.
Their workers need Loopwright installed, and one thread each, since a build's limits are those of
its process.

A cluster retries a task whose worker died, since that may be chance: Ray once, Dask as often as its
scheduler's `allowed-failures` says (1 for a second try; 3 by default). That setting belongs to the
scheduler and all of its clients, so a value above 1 is reported, not changed.
"""

from __future__ import annotations

import contextlib
import enum
import importlib
import threading
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import BrokenExecutor, Executor, Future, InvalidStateError
from dataclasses import dataclass
from types import ModuleType
from typing import Any, ParamSpec, TypeVar, final

from loopwright.build.candidate import Builders, BuildFunction, ExecutorBuilders
from loopwright.build.offload import Offload
from loopwright.build.pool import BuilderPool
from loopwright.errors import ConfigError, EnvironmentFailure

_CONNECT_S = 10.0
_TRIES = 2  # of a task whose worker died
_P = ParamSpec("_P")
_T = TypeVar("_T")


class Engine(enum.Enum):
    """What runs tasks."""

    INLINE = "inline"
    PROCESSES = "processes"
    DASK = "dask"
    RAY = "ray"


@dataclass(frozen=True, slots=True)
class ExecutorSpec:
    """An executor as the user names it. `address` is that of a cluster, else empty."""

    engine: Engine
    address: str = ""

    def __str__(self) -> str:
        return f"{self.engine.value}://{self.address}" if self.address else self.engine.value


class WorkerDied(BrokenExecutor):
    """A cluster gave up a task because the workers that ran it died."""


def parse_executor(text: str) -> ExecutorSpec:
    """The executor that `text` names: processes, inline, dask://HOST:PORT or ray://HOST:PORT.

    `ray://auto` is this machine's cluster, `ray://local` one of this process's own.
    Raises: ConfigError for anything else.
    """
    name, separator, address = text.strip().partition("://")
    engines = {engine.value: engine for engine in Engine}
    engine = engines.get(name)
    clustered = engine in (Engine.DASK, Engine.RAY)
    if engine is None or clustered != bool(separator and address):
        raise ConfigError(
            f"executor {text!r} is not one of processes, inline, dask://HOST:PORT, "
            "ray://HOST:PORT, ray://auto, ray://local"
        )
    if engine is Engine.DASK and not address.rpartition(":")[2].isdigit():
        raise ConfigError(f"executor {text!r} has no port; write dask://HOST:8786")
    return ExecutorSpec(engine, address)


@dataclass(frozen=True, slots=True)
class Workshop:
    """Where candidates are built, and where features and training are computed.

    Closing the builders closes the executor of both; afterwards `offload` works in this process.
    """

    builders: Builders
    offload: Offload


def open_workshop(
    spec: ExecutorSpec, build: BuildFunction, workers: int, cores: tuple[int, ...] | None = None
) -> Workshop:
    """A workshop on `spec`; `workers` builders on `cores` where they are processes of our own.

    Features and training are done in this process unless there is a cluster.
    Raises: EnvironmentFailure when an engine is not installed, or its cluster does not answer.
    """
    match spec.engine:
        case Engine.PROCESSES:
            return Workshop(BuilderPool(build, workers, cores), Offload())
        case Engine.INLINE:
            inline = ExecutorBuilders(InlineExecutor(), build, 1, confine=False)
            return Workshop(inline, Offload())
        case Engine.DASK | Engine.RAY:
            dask = spec.engine is Engine.DASK
            cluster = DaskExecutor(spec.address) if dask else RayExecutor(spec.address)
            builders = ExecutorBuilders(cluster, build, cluster.workers, on_close=cluster.shutdown)
            return Workshop(builders, Offload(cluster))


@final
class InlineExecutor(Executor):
    """Runs each task at once, in the thread that submits it: for tests and for debugging."""

    def __init__(self) -> None:
        self._closed = False

    def submit(self, fn: Callable[_P, _T], /, *args: _P.args, **kwargs: _P.kwargs) -> Future[_T]:
        """A future that is already done."""
        if self._closed:
            raise EnvironmentFailure("the executor was shut down")
        future: Future[_T] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except Exception as error:  # noqa: BLE001  # a future carries whatever it was
            future.set_exception(error)
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:  # noqa: ARG002, FBT001, FBT002  # the interface
        """Take no more tasks."""
        self._closed = True


@final
class _Remote(Future[_T]):
    """A future on a cluster; cancelling it cancels the task there."""

    def __init__(self) -> None:
        super().__init__()
        self.stop: Callable[[], object] | None = None

    def cancel(self) -> bool:
        """Cancel, unless it is done."""
        cancelled = super().cancel()
        if cancelled and self.stop is not None:
            self.stop()
        return cancelled

    def settle(self, take: Callable[[], _T]) -> None:
        """Become what `take` returns or raises."""
        with contextlib.suppress(InvalidStateError):  # cancelled meanwhile
            try:
                self.set_result(take())
            except InvalidStateError:
                raise
            except BaseException as error:  # noqa: BLE001  # a future carries whatever it was
                self.set_exception(error)


class _Open:
    """The futures that a cluster has yet to complete."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._futures: set[Future[Any]] = set()
        self._closed = False

    @contextlib.contextmanager
    def owing(self, future: Future[Any]) -> Iterator[None]:
        """Register `future` as pending, unless the block raises."""
        with self._lock:
            if self._closed:
                raise EnvironmentFailure("the executor was shut down")
            self._futures.add(future)
        try:
            yield
        except BaseException:
            self._drop(future)
            raise
        future.add_done_callback(self._drop)

    def _drop(self, future: Future[Any]) -> None:
        with self._lock:
            self._futures.discard(future)

    def close(self) -> tuple[Future[Any], ...] | None:
        """The pending ones on the first call; None later."""
        with self._lock:
            if self._closed:
                return None
            self._closed = True
            return tuple(self._futures)


@final
class DaskExecutor(Executor):
    """Tasks on the workers of the Dask cluster at `address` (HOST:PORT of its scheduler)."""

    def __init__(self, address: str) -> None:
        distributed = _engine("distributed", "dask", "Dask")
        url = address if "://" in address else f"tcp://{address}"
        try:
            self._client: Any = distributed.Client(
                url, timeout=_CONNECT_S, set_as_default=False, name="loopwright"
            )
        except (OSError, TimeoutError) as error:
            raise EnvironmentFailure(
                f"no Dask scheduler answers at {address}; start one with `dask scheduler`",
                retryable=True,
            ) from error
        self._killed: type[Exception] = distributed.scheduler.KilledWorker
        self._open = _Open()
        ended = self._workers_ended()
        if ended > _TRIES:
            warnings.warn(
                f"the Dask scheduler at {address} lets one candidate end {ended} workers before it "
                "gives up; start it with DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES=1",
                RuntimeWarning,
                stacklevel=2,
            )

    def _workers_ended(self) -> int:
        """How many workers a task may kill; 0 where the scheduler does not say."""

        def read(dask_scheduler: Any) -> int:  # noqa: ANN401  # nested: pickled by value
            return int(dask_scheduler.allowed_failures)

        try:
            return int(self._client.run_on_scheduler(read)) + 1
        except Exception:  # noqa: BLE001  # a scheduler of another version, or one that runs nothing
            return 0

    @property
    def workers(self) -> int:
        """How many tasks the cluster runs at once now; at least 1."""
        known = self._client.scheduler_info(n_workers=-1)["workers"].values()
        return max(1, sum(int(worker["nthreads"]) for worker in known))

    def submit(self, fn: Callable[_P, _T], /, *args: _P.args, **kwargs: _P.kwargs) -> Future[_T]:
        """The future of `fn(...)` on a worker."""
        future: _Remote[_T] = _Remote()
        with self._open.owing(future):
            inner = self._client.submit(fn, *args, **kwargs, pure=False)
        future.stop = inner.cancel
        inner.add_done_callback(lambda done: self._done(done, future))
        return future

    def _done(self, inner: Any, future: _Remote[_T]) -> None:  # noqa: ANN401  # Dask has no types
        if inner.cancelled():
            future.stop = None
            future.cancel()
            return

        def take() -> _T:
            try:
                result: _T = inner.result(timeout=_CONNECT_S)
            except self._killed as error:
                raise WorkerDied(str(error)) from error
            return result

        future.settle(take)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:  # noqa: FBT001, FBT002  # the interface
        """Disconnect from the cluster, which goes on; tasks not waited for are cancelled."""
        waiting = self._open.close()
        if waiting is None:
            return
        for future in waiting:
            _end(future, wait=wait, cancel=cancel_futures)
        self._client.close()


@final
class RayExecutor(Executor):
    """Tasks on a Ray cluster: `HOST:PORT`, `auto` (this machine's) or `local` (one of our own)."""

    def __init__(self, address: str) -> None:
        self._ray: Any = _engine("ray", "ray", "Ray")
        self._ours = not self._ray.is_initialized()
        where = {"auto": "auto", "local": "local"}.get(address, f"ray://{address}")
        if self._ours:
            try:
                self._ray.init(
                    where, log_to_driver=False, configure_logging=False, include_dashboard=None
                )
            except (ConnectionError, OSError, RuntimeError, TimeoutError) as error:
                raise EnvironmentFailure(
                    f"no Ray cluster answers at {address}; start one with `ray start --head`",
                    retryable=True,
                ) from error
        self._open = _Open()

    @property
    def workers(self) -> int:
        """How many tasks the cluster runs at once now; at least 1."""
        return max(1, int(self._ray.cluster_resources().get("CPU", 1)))

    def submit(self, fn: Callable[_P, _T], /, *args: _P.args, **kwargs: _P.kwargs) -> Future[_T]:
        """The future of `fn(...)` on a worker; a worker that dies is replaced once."""
        future: _Remote[_T] = _Remote()
        with self._open.owing(future):
            remote = self._ray.remote(_call).options(max_retries=_TRIES - 1, num_cpus=1)
            reference = remote.remote(fn, args, kwargs)
        future.stop = lambda: self._ray.cancel(reference)  # force would kill a shared worker
        reference.future().add_done_callback(lambda done: self._done(done, future))
        return future

    def _done(self, done: Future[_T], future: _Remote[_T]) -> None:
        errors = self._ray.exceptions

        def take() -> _T:
            try:
                return done.result()
            except errors.RayTaskError as error:
                raise error.cause from None
            except (errors.WorkerCrashedError, errors.OutOfMemoryError) as error:
                raise WorkerDied(str(error).splitlines()[0]) from error

        if not future.cancelled():
            future.settle(take)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:  # noqa: FBT001, FBT002  # the interface
        """Disconnect from the cluster, which goes on unless it was `local`."""
        waiting = self._open.close()
        if waiting is None:
            return
        for future in waiting:
            _end(future, wait=wait, cancel=cancel_futures)
        if self._ours:
            self._ray.shutdown()


def _call(fn: Callable[..., _T], args: tuple[Any, ...], kwargs: dict[str, Any]) -> _T:
    return fn(*args, **kwargs)


def _end(future: Future[Any], *, wait: bool, cancel: bool) -> None:
    if cancel or not wait:
        future.cancel()
    else:
        future.exception()


def _engine(module: str, extra: str, name: str) -> ModuleType:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise EnvironmentFailure(
            f"{name} is not installed here; pip install 'loopwright[{extra}]'"
        ) from error
