"""The client of the measuring process: start it, hand it kernels, start another when it is lost."""

from __future__ import annotations

import contextlib
import mmap
import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np

from loopwright.codegen.artifact import Artifact, Param
from loopwright.errors import ConfigError, EnvironmentFailure
from loopwright.layout import Array
from loopwright.measure.boot import command
from loopwright.measure.types import Failed, FailureKind, MeasurePlan, Outcome, Stage, Timed
from loopwright.measure.wire import Hello, RunReply, RunRequest, WireParam, receive, send
from loopwright.runtime.loader import require_runnable
from loopwright.runtime.native import native

_START_S = 60.0
_END_S = 5.0
_GRACE_S = 30.0  # beyond the run limit: making inputs the first time, and the server's own work


@dataclass(frozen=True, slots=True)
class RunResult:
    """An outcome and, where they were asked for, the outputs in their memory layouts."""

    outcome: Outcome
    outputs: tuple[Array, ...] = ()


@dataclass(slots=True)
class _Process:
    process: subprocess.Popen[bytes]
    sock: socket.socket
    output_fd: int
    stderr: IO[bytes]


class MeasureServer:
    """A measuring process of one's own. One thread at a time may use it.

    The process dies with the thread that started it, which is the first to call `start` or `run`.
    """

    def __init__(self, cache_dir: Path | None = None) -> None:
        self._cache_dir = cache_dir
        self._server: _Process | None = None

    @property
    def pid(self) -> int | None:
        """The measuring process, if it is running."""
        return None if self._server is None else self._server.process.pid

    def start(self) -> None:
        """Start the process unless it runs.

        Raises: EnvironmentFailure if it does not come up.
        """
        if self._server is not None:
            return
        native(self._cache_dir)  # compiled and kept before the server wants it
        server = _spawn(self._cache_dir)
        try:
            server.sock.settimeout(_START_S)
            receive(server.sock, Hello)
        except (OSError, EOFError, EnvironmentFailure) as e:
            raise EnvironmentFailure(
                f"the measuring process did not start: {_end(server) or e}", retryable=True
            ) from e
        self._server = server

    def run(
        self,
        artifact: Artifact,
        plan: MeasurePlan,
        *,
        seed: int = 0,
        cores: tuple[int, ...] | None = None,
        want_output: bool = False,
    ) -> RunResult:
        """The outcome of timing `artifact`; never raises for what the candidate does.

        It runs on `cores` (`cores_for(plan.threads)`, if None), on inputs made from `seed`. A
        lost measuring process is `Failed(RUN, WORKER_LOST)`; the next call starts another.
        Raises: ConfigError for an artifact of another target, or more threads than cores;
        EnvironmentFailure if the process does not start.
        """
        require_runnable(artifact.target_key)
        where = cores_for(plan.threads) if cores is None else cores
        request = _request(artifact, plan, seed, where, want_output=want_output)
        self.start()
        try:
            reply = self._ask(request)
        except (OSError, EOFError, EnvironmentFailure) as e:
            detail = f"the measuring process was lost: {self._drop() or e}"
            return RunResult(Failed(Stage.RUN, FailureKind.WORKER_LOST, detail))
        if reply.kind:
            failed = Failed(Stage(reply.stage), FailureKind(reply.kind), reply.detail)
            return RunResult(failed)
        timed = Timed(reply.ns, min(reply.ns), run_s=reply.run_s)
        return RunResult(timed, self._outputs(artifact) if want_output else ())

    def close(self) -> None:
        """End the process and what it runs."""
        self._drop()

    def interrupt(self) -> None:
        """Hang up, from any thread: the process ends, a `run` under way returns WORKER_LOST."""
        server = self._server
        if server is not None:
            with contextlib.suppress(OSError):  # closed meanwhile
                server.sock.shutdown(socket.SHUT_RDWR)

    def __enter__(self) -> MeasureServer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _ask(self, request: RunRequest) -> RunReply:
        if self._server is None:
            raise EnvironmentFailure("the measuring process is not running")
        sock = self._server.sock
        sock.settimeout(request.run_timeout_s + _GRACE_S)
        send(sock, request)
        return receive(sock, RunReply)

    def _outputs(self, artifact: Artifact) -> tuple[Array, ...]:
        params = artifact.params[len(artifact.params) - artifact.n_outputs :]
        total = sum(p.nbytes for p in params)
        if self._server is None or total == 0:
            return ()
        with mmap.mmap(self._server.output_fd, total, prot=mmap.PROT_READ) as memory:
            data = memory[:]
        return _split(data, params)

    def _drop(self) -> str:
        server, self._server = self._server, None
        return "" if server is None else _end(server)


def cores_for(threads: int, allowed: Sequence[int] | None = None) -> tuple[int, ...]:
    """The cores to measure `threads` threads on: the last ones, since others favour the first.

    Raises: ConfigError when this process may use fewer.
    """
    cores = sorted(os.sched_getaffinity(0) if allowed is None else allowed)
    if not 1 <= threads <= len(cores):
        raise ConfigError(f"{threads} threads cannot be measured on {len(cores)} cores; use fewer")
    return tuple(cores[len(cores) - threads :])


def _request(
    artifact: Artifact,
    plan: MeasurePlan,
    seed: int,
    cores: tuple[int, ...],
    *,
    want_output: bool,
) -> RunRequest:
    return RunRequest(
        code=artifact.code,
        entry=artifact.entry,
        params=tuple(_wire(p) for p in artifact.params),
        n_outputs=artifact.n_outputs,
        workspace=artifact.workspace_shared + plan.threads * artifact.workspace_per_thread,
        threads=plan.threads,
        cores=cores,
        seed=seed,
        want_output=want_output,
        warmup=plan.warmup,
        repeats=plan.repeats,
        min_repeat_s=plan.min_repeat_s,
        run_timeout_s=plan.run_timeout_s,
        run_memory=plan.run_memory,
        abandon_ns=plan.abandon_ns,
    )


def _wire(param: Param) -> WireParam:
    layout = tuple((p.dim, p.stride, p.extent) for p in param.layout.parts)
    return WireParam(param.name, param.dtype.name, param.shape, layout, param.transform)


def _split(data: bytes, params: Sequence[Param]) -> tuple[Array, ...]:
    arrays: list[Array] = []
    at = 0
    for param in params:
        piece = np.frombuffer(data, np.uint8, param.nbytes, at)
        arrays.append(piece.view(param.dtype.numpy).reshape(param.physical_shape))
        at += param.nbytes
    return tuple(arrays)


def _spawn(cache_dir: Path | None) -> _Process:
    ours, theirs = socket.socketpair()
    output = os.memfd_create("outputs")
    stderr = tempfile.TemporaryFile()  # noqa: SIM115  # lives as long as the process
    numbers = [str(theirs.fileno()), str(output), str(cache_dir or ""), str(os.getpid())]
    try:
        process = subprocess.Popen(
            command("server", numbers),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=stderr,
            pass_fds=(theirs.fileno(), output),
            start_new_session=True,
        )
    except OSError as e:
        ours.close()
        os.close(output)
        stderr.close()
        raise EnvironmentFailure(f"cannot start {sys.executable}: {e}", retryable=True) from e
    finally:
        theirs.close()
    return _Process(process, ours, output, stderr)


def _end(server: _Process) -> str:
    """How the process, now gone, ended: its status and its last line."""
    died = server.process.poll()
    server.sock.close()
    if died is None:
        try:  # it sees that we are gone, and waits for what it runs
            server.process.wait(_END_S)
        except subprocess.TimeoutExpired:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(server.process.pid, signal.SIGKILL)
            server.process.wait()
    os.close(server.output_fd)
    with server.stderr as file:
        file.seek(0)
        lines = file.read().decode(errors="replace").strip().splitlines()
    status = "" if died is None else f"it ended with {died}"
    return "; ".join(part for part in (status, lines[-1] if lines else "") if part)
