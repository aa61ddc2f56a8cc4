"""A builder process: imports once, then forks a worker that builds until it dies.

An error inside LLVM ends the process it happens in. The first process only forks and waits, so a
new worker is ready milliseconds after one dies, with everything imported. Messages are pickles over
a socket pair with both ends our own.
"""

from __future__ import annotations

import contextlib
import gc
import multiprocessing.process
import multiprocessing.spawn
import os
import pickle
import signal
import socket
import sys
import time
from dataclasses import dataclass
from typing import TypeAlias

from loopwright.build.candidate import (
    BuildFunction,
    Built,
    build_one,
    unimportable,
    unpack_task,
)
from loopwright.errors import UserError
from loopwright.outcome import Failed
from loopwright.sandbox import privileges
from loopwright.space.config import Config
from loopwright.templates.task import Task

BOOT = """
import json, os, sys
os.putenv("OPENBLAS_NUM_THREADS", "1")
os.putenv("OMP_NUM_THREADS", "1")
sys.path[:0] = json.loads(sys.argv[1])
from loopwright.build.process import main
main(sys.argv[2:])
"""
_LENGTH_BYTES = 8
_NICE = 5


@dataclass(frozen=True, slots=True)
class Setup:
    """The first message to a builder. `main` is what `multiprocessing` tells a spawned process."""

    build: BuildFunction
    cores: tuple[int, ...]
    main: dict[str, object]


@dataclass(frozen=True, slots=True)
class Order:
    """Build `config` of task `key`; `packed` is the task where the worker has not had it."""

    key: int
    packed: bytes | None
    config: Config
    cpu_s: float
    memory: int


@dataclass(frozen=True, slots=True)
class BuilderReady:
    """The builder has imported what it needs."""


@dataclass(frozen=True, slots=True)
class Died:
    """The worker ended with `status` (negative: the signal); a new one is ready."""

    status: int


Answer: TypeAlias = BuilderReady | Died | Built


def pack(message: Setup | Order | Answer) -> bytes:
    """`message` as `write_packed` sends it."""
    return pickle.dumps(message, protocol=pickle.HIGHEST_PROTOCOL)


def write(sock: socket.socket, message: Setup | Order | Answer) -> None:
    """Send one message."""
    write_packed(sock, pack(message))


def write_packed(sock: socket.socket, body: bytes) -> None:
    """Send one packed message."""
    sock.sendall(len(body).to_bytes(_LENGTH_BYTES, "little") + body)


def read(sock: socket.socket) -> Setup | Order | Answer:
    """The next message.

    Raises: EOFError if the other side is gone.
    """
    length = int.from_bytes(_exactly(sock, _LENGTH_BYTES), "little")
    message: Setup | Order | Answer = pickle.loads(_exactly(sock, length))
    return message


def refuse_nesting() -> None:
    """Check that this is not a builder that is importing the user's main script.

    Raises: UserError if it is: the script tunes on import, which would start builders without end.
    """
    if getattr(multiprocessing.process.current_process(), "_inheriting", False):
        raise UserError(
            "the script starts tuning when it is imported: put it under if __name__ == '__main__'"
        )


def main(arguments: list[str]) -> None:
    """Serve the client, process `arguments[1]`, on descriptor `arguments[0]` until it exits."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _end)
    privileges.die_with_parent(int(arguments[1]))
    sock = socket.socket(fileno=int(arguments[0]))
    os.nice(_NICE)
    try:
        setup = read(sock)
    except EOFError:
        return
    if not isinstance(setup, Setup):
        sys.exit(f"builder: the first message is a {type(setup).__name__}")
    os.sched_setaffinity(0, setup.cores)
    gc.collect()
    gc.freeze()
    write(sock, BuilderReady())
    while True:
        status = _fork_worker(sock, setup)
        if status == 0:
            return
        write(sock, Died(status))


def _fork_worker(sock: socket.socket, setup: Setup) -> int:
    """The status that a worker ended with; 0 when the client is gone."""
    parent = os.getpid()
    pid = os.fork()
    if pid:
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    status = 1
    try:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        privileges.die_with_parent(parent)
        _work(sock, setup)
        status = 0
    except (EOFError, BrokenPipeError, ConnectionResetError):
        status = 0
    except BaseException as e:  # noqa: BLE001  # the process ends here; its last line is reported
        print(f"{type(e).__name__}: {e}", file=sys.stderr, flush=True)  # noqa: T201
    finally:
        os._exit(status)


def _end(*_: object) -> None:
    """End the worker, wait for it, and exit: no other process would wait for it."""
    for pid in privileges.children(os.getpid()):
        with contextlib.suppress(OSError):
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
    os._exit(0)


def _work(sock: socket.socket, setup: Setup) -> None:
    tasks: dict[int, Task | Failed] = {}
    while True:
        order = read(sock)
        if not isinstance(order, Order):
            raise TypeError(f"an order was expected, not a {type(order).__name__}")
        # This timer does not run while the process is stopped; its signal ends the process.
        signal.setitimer(signal.ITIMER_PROF, order.cpu_s)
        built = _build(order, tasks, setup)
        signal.setitimer(signal.ITIMER_PROF, 0)
        write(sock, built)


def _build(order: Order, tasks: dict[int, Task | Failed], setup: Setup) -> Built:
    start = time.perf_counter()
    if order.packed is not None:
        tasks[order.key] = _unpack(order.packed, setup)
    task = tasks[order.key]
    if isinstance(task, Failed):
        return Built(task, 0.0)
    result = build_one(setup.build, task, order.config, order.memory)
    return Built(result, time.perf_counter() - start)


def _unpack(packed: bytes, setup: Setup) -> Task | Failed:
    try:
        if b"__main__" in packed:
            _import_main(setup)
        return unpack_task(packed)
    except Exception as e:  # noqa: BLE001  # the boundary of the builder process
        return unimportable(e)


def _import_main(setup: Setup) -> None:
    """Import the client's main script, as `multiprocessing` does, for templates defined in it."""
    process = multiprocessing.process.current_process()
    process._inheriting = True  # type: ignore[attr-defined]  # what multiprocessing itself sets
    try:
        multiprocessing.spawn.prepare(setup.main)
    finally:
        del process._inheriting  # type: ignore[attr-defined]


def _exactly(sock: socket.socket, count: int) -> bytearray:
    data = bytearray(count)
    view = memoryview(data)
    filled = 0
    while filled < count:
        got = sock.recv_into(view[filled:])
        if got == 0:
            raise EOFError("the other side closed the connection")
        filled += got
    return data
