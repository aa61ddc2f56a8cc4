"""A pool of builder processes that outlives any builder.

Each builder has a thread here that starts it, hands it one candidate at a time and waits. A
builder that dies, takes too long or takes too much memory is a `Failed` of that candidate alone.
Builders run at a lower priority, on the cores they are given, and stop while `paused`.
"""

from __future__ import annotations

import contextlib
import json
import multiprocessing.spawn
import os
import pickle
import queue
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import IO

from loopwright.build.candidate import BuildFunction, Built, one_line, pack_task
from loopwright.build.process import (
    BOOT,
    Answer,
    BuilderReady,
    Died,
    Order,
    Setup,
    pack,
    read,
    refuse_nesting,
    write,
    write_packed,
)
from loopwright.errors import ConfigError, EnvironmentFailure
from loopwright.outcome import Failed, FailureKind, FailureStage, MeasurePlan
from loopwright.space.config import Config
from loopwright.templates.task import Task

_START_S = 60.0
_WALL_FACTOR = 3.0  # a build may wait for a processor; its own time is limited in the builder
_POLL_S = 1.0
_END_S = 5.0
_STDERR_BYTES = 4096
# What a builder needs to import the main script; the rest is for multiprocessing's own processes.
_MAIN_KEYS = frozenset(
    {"sys_path", "sys_argv", "orig_dir", "dir", "init_main_from_name", "init_main_from_path"}
)


class _Clock:
    """A clock in seconds that stops while paused. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._lost = 0.0
        self._since: float | None = None

    def now(self) -> float:
        with self._lock:
            at = time.monotonic() if self._since is None else self._since
            return at - self._lost

    def stop(self) -> None:
        with self._lock:
            self._since = time.monotonic()

    def go(self) -> None:
        with self._lock:
            if self._since is not None:
                self._lost += time.monotonic() - self._since
                self._since = None


@dataclass(slots=True)
class _Trial:
    key: int
    packed: bytes
    config: Config
    plan: MeasurePlan
    future: Future[Built]


@dataclass(slots=True)
class _Builder:
    """One process; only its thread talks to it."""

    process: subprocess.Popen[bytes]
    sock: socket.socket
    stderr: IO[bytes]
    had: set[int] = field(default_factory=set)


class BuilderPool:
    """`workers` builder processes on `cores` (all that this process may use, if None).

    A task is pickled once, and sent once to each builder. The processes start at once, in the
    background, and end with `close` or with this process.
    Raises: UserError while a builder imports the main script that made the pool; ConfigError if
    `build` cannot be pickled by reference to its module.
    """

    def __init__(
        self, build: BuildFunction, workers: int = 1, cores: tuple[int, ...] | None = None
    ) -> None:
        refuse_nesting()
        self.workers = workers
        self._setup = _pack_setup(build, cores)
        self._queue: queue.SimpleQueue[_Trial | None] = queue.SimpleQueue()
        self._clock = _Clock()
        self._lock = threading.Lock()  # guards _builders and _tasks
        self._pausing = threading.Lock()  # held while paused
        self._builders: dict[int, _Builder] = {}
        self._tasks: dict[int, tuple[Task, int, bytes]] = {}
        self._closed = threading.Event()
        self._threads = [
            threading.Thread(target=self._serve, args=(i,), name=f"builder-{i}", daemon=True)
            for i in range(workers)
        ]
        for thread in self._threads:
            thread.start()

    def submit(self, task: Task, config: Config, plan: MeasurePlan) -> Future[Built]:
        """The future result of building `config` within the limits of `plan`.

        Raises: TemplateError if the task does not pickle; EnvironmentFailure after `close`.
        """
        if self._closed.is_set():
            raise EnvironmentFailure("the builders were closed")
        key, packed = self._pack(task)
        trial = _Trial(key, packed, config, plan, Future())
        self._queue.put(trial)
        return trial.future

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Pause every builder; the time counts against no limit. One thread at a time."""
        with self._pausing:
            with self._lock:
                self._clock.stop()
                self._signal(signal.SIGSTOP)
            try:
                yield
            finally:
                with self._lock:
                    self._signal(signal.SIGCONT)
                    self._clock.go()

    def close(self) -> None:
        """End the builders. Waiting candidates are cancelled, running ones are WORKER_LOST."""
        self._closed.set()
        with contextlib.suppress(queue.Empty):
            while True:
                trial = self._queue.get_nowait()
                if trial is not None:
                    trial.future.cancel()
        for _ in self._threads:
            self._queue.put(None)
        with self._lock:
            for builder in self._builders.values():
                _ask_to_end(builder)
        for thread in self._threads:
            thread.join()

    def __enter__(self) -> BuilderPool:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def pids(self) -> tuple[int, ...]:
        """The current builder processes; each leads a process group."""
        with self._lock:
            return tuple(b.process.pid for b in self._builders.values())

    def _pack(self, task: Task) -> tuple[int, bytes]:
        with self._lock:
            known = self._tasks.get(id(task))
            if known is None:
                known = (task, len(self._tasks), pack_task(task))
                self._tasks[id(task)] = known
        return known[1], known[2]

    def _signal(self, number: signal.Signals) -> None:
        for builder in self._builders.values():
            with contextlib.suppress(ProcessLookupError):
                os.killpg(builder.process.pid, number)

    def _serve(self, index: int) -> None:
        """Thread of builder `index`; the process dies with it."""
        with contextlib.suppress(EnvironmentFailure):
            self._builder(index)  # start now; an error recurs, and is reported, in the first trial
        while True:
            trial = self._queue.get()
            if trial is None:
                break
            if not trial.future.set_running_or_notify_cancel():
                continue
            try:
                trial.future.set_result(self._build(index, trial))
            except BaseException as e:  # noqa: BLE001  # a future carries whatever it was
                trial.future.set_exception(e)
        self._drop(index)

    def _build(self, index: int, trial: _Trial) -> Built:
        builder = self._builder(index)
        plan = trial.plan
        packed = None if trial.key in builder.had else trial.packed
        start = self._clock.now()
        limit = plan.build_timeout_s * _WALL_FACTOR
        try:
            write(
                builder.sock,
                Order(trial.key, packed, trial.config, plan.build_timeout_s, plan.build_memory),
            )
            answer = self._answer(builder, start + limit)
        except (OSError, EOFError):
            return self._lost(index, self._clock.now() - start)
        spent = self._clock.now() - start
        if answer is None:
            self._drop(index)
            return Built(_timeout(f"not done after {limit:g} s"), spent)
        if isinstance(answer, Died):
            builder.had.clear()
            return Built(_explain(answer.status, plan, _last_line(builder)), spent)
        if not isinstance(answer, Built):
            raise EnvironmentFailure(f"a builder answered {type(answer).__name__}")
        builder.had.add(trial.key)
        return answer

    def _answer(self, builder: _Builder, deadline: float) -> Answer | None:
        """The next answer; None if there is none by `deadline`, which pauses postpone."""
        poll = select.poll()
        poll.register(builder.sock, select.POLLIN)
        while not poll.poll(min(max(deadline - self._clock.now(), 0.0), _POLL_S) * 1000):
            if self._clock.now() >= deadline:
                return None
        answer = read(builder.sock)
        if isinstance(answer, Setup | Order):
            raise EnvironmentFailure(f"a builder answered {type(answer).__name__}")
        return answer

    def _lost(self, index: int, spent: float) -> Built:
        line = self._drop(index)
        why = "the builders were closed" if self._closed.is_set() else f"the builder is gone{line}"
        return Built(Failed(FailureStage.BUILD, FailureKind.WORKER_LOST, one_line(why)), spent)

    def _builder(self, index: int) -> _Builder:
        """Builder `index`, started if needed.

        Raises: EnvironmentFailure if it does not come up.
        """
        with self._lock:
            known = self._builders.get(index)
        if known is not None:
            return known
        with self._pausing:  # starting uses a processor, so it waits for the end of a pause
            builder = _spawn()
            with self._lock:
                self._builders[index] = builder
                if self._closed.is_set():
                    _ask_to_end(builder)
        try:
            write_packed(builder.sock, self._setup)
            answer = self._answer(builder, self._clock.now() + _START_S)
        except (OSError, EOFError):
            answer = None
        if not isinstance(answer, BuilderReady):
            raise EnvironmentFailure(f"a builder did not start{self._drop(index)}", retryable=True)
        return builder

    def _drop(self, index: int) -> str:
        """End builder `index`; returns its last output, ready to append to a sentence."""
        with self._lock:
            builder = self._builders.pop(index, None)
        if builder is None:
            return ""
        _ask_to_end(builder)
        try:
            builder.process.wait(_END_S)
        except subprocess.TimeoutExpired:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(builder.process.pid, signal.SIGKILL)
            builder.process.wait()
        builder.sock.close()
        line = _last_line(builder)
        builder.stderr.close()
        return line


def _pack_setup(build: BuildFunction, cores: tuple[int, ...] | None) -> bytes:
    where = tuple(sorted(os.sched_getaffinity(0))) if cores is None else cores
    told = multiprocessing.spawn.get_preparation_data("builder")
    main: dict[str, object] = {k: v for k, v in told.items() if k in _MAIN_KEYS}
    try:
        packed = pack(Setup(build, where, main))
    except (pickle.PicklingError, AttributeError, TypeError) as e:
        raise ConfigError(f"the build function must be at the top of a module: {e}") from e
    if getattr(build, "__module__", None) == "__main__":
        raise ConfigError("the build function is in the main script: move it to a module")
    return packed


def _spawn() -> _Builder:
    ours, theirs = socket.socketpair()
    stderr = tempfile.TemporaryFile()  # noqa: SIM115  # lives as long as the process
    arguments = [json.dumps(sys.path), str(theirs.fileno()), str(os.getpid())]
    try:
        process = subprocess.Popen(
            [sys.executable, "-P", "-c", BOOT, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=stderr,
            pass_fds=(theirs.fileno(),),
            start_new_session=True,
        )
    except OSError as e:
        ours.close()
        stderr.close()
        raise EnvironmentFailure(f"cannot start {sys.executable}: {e}", retryable=True) from e
    finally:
        theirs.close()
    return _Builder(process, ours, stderr)


def _ask_to_end(builder: _Builder) -> None:
    """Have the builder end its worker, wait for it, and exit; paused ones too."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(builder.process.pid, signal.SIGTERM)
        os.killpg(builder.process.pid, signal.SIGCONT)


def _last_line(builder: _Builder) -> str:
    """`: ` and the last line the builder printed, or nothing; its output is then discarded."""
    fd = builder.stderr.fileno()
    size = os.fstat(fd).st_size
    text = os.pread(fd, _STDERR_BYTES, max(0, size - _STDERR_BYTES)).decode(errors="replace")
    os.ftruncate(fd, 0)
    lines = text.strip("\0 \n").splitlines()
    return f": {lines[-1]}" if lines else ""


def _explain(status: int, plan: MeasurePlan, line: str) -> Failed:
    """Why the worker ended with `status` while it built."""
    name = signal.Signals(-status).name if status < 0 else f"exit({status})"
    if status == -signal.SIGPROF:
        return _timeout(f"took more than {plan.build_timeout_s:g} s of processor time")
    exhausted = ("out of memory" in line.lower(), "bad_alloc" in line, "MemoryError" in line)
    if any(exhausted) or status == -signal.SIGKILL:
        detail = one_line(f"the compiler ended with {name}{line}; limit {plan.build_memory} bytes")
        return Failed(FailureStage.BUILD, FailureKind.BUILD_MEMORY, detail)
    detail = one_line(f"the compiler ended with {name}{line}")
    return Failed(FailureStage.BUILD, FailureKind.COMPILER_CRASH, detail)


def _timeout(detail: str) -> Failed:
    return Failed(FailureStage.BUILD, FailureKind.BUILD_TIMEOUT, detail)
