"""Native runtimes of clients that attack as soon as any of their instructions runs."""

from __future__ import annotations

import os
import platform
import socket
import struct
import subprocess
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import measure_kernels as kernels
import pytest
from hostile_agent import NOBODY, SOCKET_NAME, Came, HostileAgent, hostile_agent, python_of
from hostile_runtime import PLACES, Argument, Calls, attacking

from loopwright.fleet.agent import wardens
from loopwright.fleet.wire.codec import to_frame
from loopwright.fleet.wire.messages import PROTOCOL, PROTOCOL_MIN, Command, Hello
from loopwright.fleet.words import RunStatus, Tier
from loopwright.runtime.cpu.native import object_code

_SOCKET, _CONNECT, _SENDTO, _WRITE = 41, 42, 44, 1
_MEMFD, _EXECVEAT, _UNSHARE, _FORK, _EXECVE = 319, 322, 272, 57, 59
_UNIX, _INET, _STREAM, _DATAGRAM = 1, 2, 1, 2
_NEW_USER, _NEW_NET, _NEW_MOUNTS = 0x10000000, 0x40000000, 0x00020000
CORES = len(os.sched_getaffinity(0))

pytestmark = pytest.mark.skipif(
    platform.machine() != "x86_64", reason="numbers of system calls of x86-64"
)


@dataclass(frozen=True, slots=True)
class Doors:
    """What of the host an attacker would like to reach: sockets that somebody listens on."""

    folder: Path
    path: socket.socket
    abstract: socket.socket
    datagram: socket.socket

    def came(self) -> list[str]:
        """Which of them somebody came through."""
        found = []
        for name, listener in (("path", self.path), ("abstract", self.abstract)):
            try:
                listener.accept()[0].close()
                found.append(name)
            except BlockingIOError:
                pass
        try:
            self.datagram.recv(100)
            found.append("datagram")
        except BlockingIOError:
            pass
        return found


@pytest.fixture(scope="module")
def doors() -> Iterator[Doors]:
    folder = Path("/tmp") / f"doors-{os.getpid()}"
    folder.mkdir(mode=0o777)
    folder.chmod(0o777)
    with (
        closing(socket.socket(socket.AF_UNIX)) as path,
        closing(socket.socket(socket.AF_UNIX)) as abstract,
        closing(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as datagram,
    ):
        path.bind(str(folder / "tracker.sock"))
        (folder / "tracker.sock").chmod(0o777)
        abstract.bind(f"\0{folder}")
        datagram.bind(("127.0.0.1", 0))
        for listener in (path, abstract):
            listener.listen()
        for one in (path, abstract, datagram):
            one.setblocking(False)
        yield Doors(folder, path, abstract, datagram)
    (folder / "tracker.sock").unlink()
    (folder / "marked").unlink(missing_ok=True)
    folder.rmdir()


def attacks(doors: Doors) -> dict[str, Calls]:
    """Every attack, as system calls."""
    near = struct.pack("<H", _UNIX) + os.fsencode(doors.folder / "tracker.sock") + b"\0"
    hidden = struct.pack("<H", _UNIX) + b"\0" + os.fsencode(doors.folder)
    port = doors.datagram.getsockname()[1]
    far = struct.pack("<H", _INET) + struct.pack(">H", port) + bytes([127, 0, 0, 1]) + bytes(8)
    shell = b"#!/bin/sh\n: > " + os.fsencode(doors.folder / "marked") + b"\n"
    return {
        "path socket": [
            (_SOCKET, [_UNIX, _STREAM, 0]),
            (_CONNECT, ["%0", near, len(near)]),
            (_WRITE, ["%0", b"issue", 5]),
        ],
        "abstract socket": [
            (_SOCKET, [_UNIX, _STREAM, 0]),
            (_CONNECT, ["%0", hidden, len(hidden)]),
        ],
        "datagram": [
            (_SOCKET, [_INET, _DATAGRAM, 0]),
            (_SENDTO, ["%0", b"hello", 5, 0, far, len(far)]),
        ],
        "memory file": [
            (_MEMFD, [b"x\0", 0]),
            (_WRITE, ["%0", shell, len(shell)]),
            (_EXECVEAT, ["%0", b"\0", 0, 0, 0x1000]),
        ],
        "user namespace": [(_UNSHARE, [_NEW_USER])],
        "network namespace": [(_UNSHARE, [_NEW_NET])],
        "mount namespace": [(_UNSHARE, [_NEW_MOUNTS])],
        "fork": [(_FORK, [])],
        "execute": [(_EXECVE, [b"/bin/true\0", 0, 0])],
    }


NAMES = (
    *("path socket", "abstract socket", "datagram", "memory file", "user namespace"),
    *("network namespace", "mount namespace", "fork", "execute"),
)
TIERS = [
    Tier.T1,
    pytest.param(
        Tier.T2,
        marks=pytest.mark.skipif(
            not wardens.bubblewrap_is_there(), reason="bubblewrap is not installed"
        ),
    ),
]


@pytest.fixture(scope="module", params=TIERS, ids=lambda tier: f"T{int(tier)}")
def agent(request: pytest.FixtureRequest) -> Iterator[HostileAgent]:
    with hostile_agent(os.getuid(), request.param, brought=False, threads=min(CORES, 2)) as made:
        assert made.tier == request.param
        yield made


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("place", PLACES)
def test_no_instruction_of_a_runtime_runs_before_the_filter(
    agent: HostileAgent, doors: Doors, code: bytes, machine_dir: Path, place: str, name: str
) -> None:
    if place in ("lw_worker", "lw_parallel") and CORES < 2:
        pytest.skip("needs two cores")
    runtime = object_code(attacking(place, attacks(doors)[name]), machine_dir)

    def ask() -> Came:
        return agent.ask(code=code, entry="parallel_double", threads=min(CORES, 2), runtime=runtime)

    came = ask()
    for _ in range(50 * (place == "lw_worker")):  # a kernel can be over before its worker begins
        if came.status != RunStatus.OK.value:
            break
        came = ask()
    assert came.status == RunStatus.SANDBOX_VIOLATION.value, came
    assert came.tier == agent.tier
    assert doors.came() == []
    assert sorted(path.name for path in doors.folder.iterdir()) == ["tracker.sock"]


def test_the_attacks_are_real(doors: Doors, tmp_path: Path) -> None:
    """What is refused above works for a process that nothing confines."""
    names = ("path socket", "abstract socket", "datagram")
    for name in names:
        script = _in_python(attacks(doors)[name])
        subprocess.run(["python3", "-c", script], check=True, cwd=tmp_path)
    assert doors.came() == ["path", "abstract", "datagram"]


def _in_python(calls: Calls) -> str:
    """A program that makes the same system calls."""
    lines = ["import ctypes", "call = ctypes.CDLL(None).syscall", "r = []"]
    for number, arguments in calls:
        shown = ", ".join(_shown(argument) for argument in arguments)
        lines.append(f"r.append(call({number}, {shown}))")
    return "\n".join([*lines, "assert all(n >= 0 for n in r), r"])


def _shown(argument: Argument) -> str:
    return f"r[{argument[1:]}]" if isinstance(argument, str) else repr(argument)


def _issue() -> bytes:
    """What the owner of a tracker sends to be issued an admin token."""
    hello = Hello(
        role="client",
        proto_min=PROTOCOL_MIN,
        proto_max=PROTOCOL,
        software="mallory",
        auth="none",
    )
    issue = Command(1, "token.issue", {"name": "mallory", "role": "admin"})
    return to_frame(hello).encode() + to_frame(issue).encode()


@pytest.mark.parametrize("tier", TIERS, ids=lambda tier: f"T{int(tier)}")
@pytest.mark.parametrize("place", ["lw_watch", "lw_repeat"])
def test_no_runtime_issues_itself_a_token_of_the_agents_user(
    code: bytes, machine_dir: Path, place: str, tier: Tier
) -> None:
    user = os.getuid() or NOBODY
    if python_of(user) is None:
        pytest.skip("there is no Python that an ordinary user may run with these modules")
    with hostile_agent(user, tier, brought=False) as agent:
        near = struct.pack("<H", _UNIX) + os.fsencode(agent.folder / SOCKET_NAME) + b"\0"
        calls: Calls = [
            (_SOCKET, [_UNIX, _STREAM, 0]),
            (_CONNECT, ["%0", near, len(near)]),
            (_WRITE, ["%0", _issue(), len(_issue())]),
        ]
        runtime = object_code(attacking(place, calls), machine_dir)
        came = agent.ask(code=code, entry="double", runtime=runtime)
        after = agent.ask()
        known = agent.ask(knock=_issue())  # from a process that nothing confines

    assert came.status == RunStatus.SANDBOX_VIOLATION.value, came
    assert (came.tier, came.tokens, after.tokens) == (tier, (), ())
    assert known.tokens == ("ADMIN",)


@pytest.mark.parametrize(
    "name", ["PyRun_SimpleString", "system", "dlsym", "pthread_create", "fork", "malloc", "syscall"]
)
def test_a_candidate_that_wants_more_of_the_process_is_refused(
    agent: HostileAgent, machine_dir: Path, name: str
) -> None:
    text = f"declare i64 @{name}(ptr)\n" + kernels.function("double").replace(
        "  ret void\n", f"  %r = call i64 @{name}(ptr %x)\n  ret void\n"
    )
    came = agent.ask(code=object_code(text, machine_dir), entry="double")

    assert came.status == RunStatus.LOAD_ERROR.value, came
    assert f"it needs the symbol {name}, which is not among those" in came.detail


def test_a_runtime_that_wants_more_of_the_process_is_refused(
    agent: HostileAgent, code: bytes, machine_dir: Path
) -> None:
    plain = attacking("lw_watch", []).replace(
        "define void @lw_watch(ptr %where, i64 %bytes) {",
        "declare i32 @system(ptr)\ndefine void @lw_watch(ptr %where, i64 %bytes) {\n"
        "  %s = call i32 @system(ptr %where)",
    )
    came = agent.ask(code=code, entry="double", runtime=object_code(plain, machine_dir))

    assert came.status == RunStatus.INFRA.value, came
    assert "it needs the symbol system" in came.detail


def test_a_runtime_that_says_it_called_is_not_believed(
    agent: HostileAgent, code: bytes, machine_dir: Path
) -> None:
    lies = attacking("lw_repeat", []).replace("  call void @inner_lw_repeat", "  ret void\n;")
    runtime = object_code(_without_the_rest(lies), machine_dir)

    came = agent.ask(code=code, entry="double", runtime=runtime)

    assert came.status == RunStatus.IMPOSSIBLE_TIME.value, came
    assert "is not possible" in came.detail


def _without_the_rest(text: str) -> str:
    head, _, tail = text.partition("  ret void\n;")
    return head + "  ret void\n" + tail[tail.index("}") :]
