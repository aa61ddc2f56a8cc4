"""What a warden makes of sessions that do not end."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import msgspec
import pytest

from loopwright.sandbox.orders import (
    MAX_PACKET,
    PATIENT_S,
    Alive,
    Beat,
    SessionEnding,
    Told,
    WardenSettings,
)
from loopwright.sandbox.warden import Warden, _Session


@contextmanager
def asleep() -> Iterator[int]:
    """A process that does not end by itself."""
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    try:
        yield process.pid
    finally:
        process.kill()
        process.wait()


@pytest.fixture
def ends() -> Iterator[tuple[socket.socket, socket.socket]]:
    """The socket of a warden, and the agent's."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        yield theirs, ours


def said(agent: socket.socket) -> object:
    return msgspec.msgpack.decode(agent.recv(MAX_PACKET), type=Told)


def test_giving_up_on_a_process_says_so_and_leaks_no_descriptor(
    ends: tuple[socket.socket, socket.socket],
) -> None:
    control, agent = ends
    warden = Warden(control, None, WardenSettings(0), None)
    now = time.monotonic()
    with asleep() as pid:
        watch = os.pidfd_open(pid)
        late = now - PATIENT_S - 1.0
        session = _Session(3, pid, watch, now, SessionEnding.ASKED, asked_at=late, killed_at=late)
        warden._sessions[3] = session

        warden._finish(session, now)

        over = said(agent)
        assert (getattr(over, "session", 0), getattr(over, "clean", True)) == (3, False)
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(watch)


def test_a_warden_answers_when_it_is_asked_whether_it_is_there(
    ends: tuple[socket.socket, socket.socket],
) -> None:
    control, agent = ends
    agent.send(msgspec.msgpack.encode(Beat()))

    assert Warden(control, None, WardenSettings(0), None)._take_order()

    assert said(agent) == Alive()
