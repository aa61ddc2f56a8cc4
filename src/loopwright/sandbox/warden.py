"""The warden: forks a measuring process for each session of a device, and makes sure that it ends.

It is started once per device, has imported everything a measuring process needs, and never runs a
candidate itself: a candidate is a child of a measuring process, which is a child of this one. This
process adopts the orphans of a session, and kills them before the session counts as over. A session
that its agent forgets is killed at its deadline; all of them end with the agent.
"""

from __future__ import annotations

import contextlib
import gc
import os
import select
import signal
import socket
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from loopwright.errors import EnvironmentFailure
from loopwright.runtime.cpu.native import Native, native
from loopwright.sandbox import privileges
from loopwright.sandbox.confine import Cage
from loopwright.sandbox.layers import NOTHING, Layer, missing, tier_of
from loopwright.sandbox.orders import (
    MAX_PACKET,
    PATIENT_S,
    POLITE_S,
    Alive,
    Beat,
    Begin,
    Begun,
    End,
    Extend,
    Order,
    Over,
    SessionEnding,
    Told,
    WardenReady,
    WardenSettings,
)
from loopwright.sandbox.server import Server

_SWEEP_S = 0.002
_NICE = -10  # a session's process sleeps while a candidate runs, and must run promptly afterwards
_MAX_WAIT_S = 1.0
_ORDERS = msgspec.msgpack.Decoder(Order)
_ENCODER = msgspec.msgpack.Encoder()


@dataclass(slots=True)
class _Session:
    """A measuring process. `killed_at` is when it was sent SIGKILL."""

    number: int
    pid: int
    watch: int
    deadline: float
    ending: SessionEnding = SessionEnding.LEFT
    asked_at: float | None = None
    killed_at: float | None = None
    status: int | None = None
    started: float = field(default_factory=time.monotonic)


class Warden:
    """Serves one agent on `control`, a socket that keeps packets apart."""

    def __init__(
        self,
        control: socket.socket,
        code: Native | None,
        options: WardenSettings,
        cage: Cage | None,
    ) -> None:
        self._control = control
        self._cage = cage
        self._native = code
        self._options = options
        self._sessions: dict[int, _Session] = {}

    def serve(self) -> None:
        """Handle orders until the agent goes away."""
        self._tell(self._ready())
        while True:
            poll = select.poll()
            poll.register(self._control, select.POLLIN)
            for session in self._sessions.values():
                if session.status is None:
                    poll.register(session.watch, select.POLLIN)
            ready = poll.poll(self._patience() * 1000)
            for fd, _ in ready:
                if fd != self._control.fileno():
                    self._reap(fd)
            if any(fd == self._control.fileno() for fd, _ in ready) and not self._take_order():
                break
            self._look(time.monotonic())
        for session in self._sessions.values():
            _kill(session.pid)

    def _ready(self) -> WardenReady:
        cage = self._cage
        if cage is None:
            return WardenReady(os.getpid(), 0, ("everything",))
        layers = cage.layers
        return WardenReady(
            os.getpid(), tier_of(layers), missing(layers, Layer(self._options.wanted))
        )

    def _take_order(self) -> bool:
        """Handle one order; False when the agent has gone."""
        try:
            data, fds, _, _ = socket.recv_fds(self._control, MAX_PACKET, 4)
        except (ConnectionError, TimeoutError):
            return False
        if not data:
            return False
        order: Order = _ORDERS.decode(data)
        match order:
            case Begin() as begin:
                self._begin(begin, fds)
            case Extend(number, deadline):
                if number in self._sessions:
                    self._sessions[number].deadline = deadline
            case End(number):
                self._end(number, SessionEnding.ASKED)
            case Beat():
                self._tell(Alive())
        return True

    def _tell(self, message: Told) -> None:
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self._control.send(_ENCODER.encode(message))

    def _begin(self, begin: Begin, fds: Sequence[int]) -> None:
        sock_fd, output_fd = fds
        parent = os.getpid()
        pid = os.fork() if self._cage is None else self._cage.fork()
        if pid == 0:
            self._become_session(parent, sock_fd, output_fd)
        for fd in fds:
            os.close(fd)
        watch = os.pidfd_open(pid)
        self._sessions[begin.session] = _Session(begin.session, pid, watch, begin.deadline)
        self._tell(Begun(begin.session, pid))

    def _become_session(self, parent: int, sock_fd: int, output_fd: int) -> None:
        """Be the measuring process of one session; never returns."""
        status = 1
        try:
            signal.signal(signal.SIGTERM, lambda *_: os._exit(128 + signal.SIGTERM))
            os.setsid()
            privileges.die_with_parent(parent)
            privileges.adopt_orphans()
            if self._options.cores:
                os.sched_setaffinity(0, self._options.cores)
            privileges.set_priority(_NICE)
            self._control.close()
            for session in self._sessions.values():
                os.close(session.watch)
            layers = NOTHING if self._cage is None else self._cage.enter_session()
            sock = socket.socket(fileno=sock_fd)
            Server(sock, output_fd, self._native, self._cage, layers).serve()
        except (EOFError, BrokenPipeError, ConnectionResetError):
            status = 0  # the agent hung up
        except SystemExit as end:
            status = end.code if isinstance(end.code, int) else 1
        except BaseException as error:  # noqa: BLE001  # the process ends here: say why
            print(f"measuring process: {type(error).__name__}: {error}", file=sys.stderr)  # noqa: T201
        finally:
            with contextlib.suppress(OSError):
                sys.stderr.flush()
            os._exit(status)

    # --- the end of sessions ---

    def _end(self, number: int, ending: SessionEnding) -> None:
        session = self._sessions.get(number)
        if session is None:
            self._tell(Over(number, ending.value, 0, clean=True))
        elif session.asked_at is None:
            session.asked_at = time.monotonic()
            session.ending = ending
            with contextlib.suppress(ProcessLookupError):
                os.kill(session.pid, signal.SIGTERM)

    def _reap(self, watch: int) -> None:
        """A session's process ended."""
        session = next(s for s in self._sessions.values() if s.watch == watch)
        _kill(session.pid)  # its group, before the id can be reused
        _, status = os.waitpid(session.pid, 0)
        os.close(session.watch)
        session.status = os.waitstatus_to_exitcode(status)
        if session.asked_at is None:
            session.asked_at = time.monotonic()
        if session.killed_at is None:
            session.killed_at = time.monotonic()

    def _look(self, now: float) -> None:
        """Do what is due: deadlines, the next signal, cleaning up."""
        for session in tuple(self._sessions.values()):
            if session.asked_at is None:
                if now >= session.deadline:
                    self._end(session.number, SessionEnding.EXPIRED)
                continue
            if session.killed_at is None and now >= session.asked_at + POLITE_S:
                session.killed_at = now
                _kill(session.pid)
            if session.killed_at is not None:
                self._finish(session, now)

    def _finish(self, session: _Session, now: float) -> None:
        """Clean up after a session whose process is gone; report when it is over."""
        clean = session.status is not None and self._sweep()
        if clean or now >= (session.killed_at or now) + PATIENT_S:
            del self._sessions[session.number]
            if session.status is None:  # it is a stray from now on
                os.close(session.watch)
            status = -signal.SIGKILL if session.status is None else session.status
            took = now - (session.asked_at or now)
            self._tell(Over(session.number, session.ending.value, status, clean, took))

    def _sweep(self) -> bool:
        """Kill what sessions left behind; True when nothing is left."""
        known = {s.pid for s in self._sessions.values() if s.status is None}
        strays = [pid for pid in privileges.children(os.getpid()) if pid not in known]
        for pid in strays:
            _kill(pid)
        for pid in strays:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, os.WNOHANG)
        return not strays

    def _patience(self) -> float:
        """How long until something may be due."""
        now, due = time.monotonic(), _MAX_WAIT_S
        for session in self._sessions.values():
            if session.asked_at is None:
                due = min(due, session.deadline - now)
            elif session.killed_at is None:
                due = min(due, session.asked_at + POLITE_S - now)
            else:
                due = min(due, _SWEEP_S)
        return max(0.0, due)


def main(arguments: list[str]) -> None:
    """Serve an agent. `arguments`: the descriptor of its socket, and WardenSettings as JSON."""
    options = msgspec.json.decode(arguments[1], type=WardenSettings)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    privileges.die_with_parent(options.agent)
    privileges.adopt_orphans()
    control = socket.socket(fileno=int(arguments[0]))
    try:
        folder = Path(options.cache_dir) if options.cache_dir else None
        code = None if options.bare else native(folder)
        cage = None if options.plan is None else Cage(options.plan)
        gc.collect()
        gc.freeze()
        Warden(control, code, options, cage).serve()
    except EnvironmentFailure as e:
        sys.exit(f"loopwright warden: {e}")


def _kill(pid: int) -> None:
    """Send SIGKILL to a process and its group."""
    for kill, target in ((os.killpg, pid), (os.kill, pid)):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            kill(target, signal.SIGKILL)
