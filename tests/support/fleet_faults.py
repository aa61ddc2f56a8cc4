"""A fleet that faults are done to: its processes are killed and stopped, its links are cut.

Where the machine allows, all of it lives in a network namespace of its own, in which packets to
and from one port are dropped: those of one link, in one direction.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType

import msgspec
from fault_process import AgentOrders, TrackerOrders
from fault_tuner import SILENT_S, SOME, WAIT_S, Book, Orders, connect
from fleet_processes import Processes

from loopwright.fleet.client.api import Fleet
from loopwright.fleet.views import DeviceView
from loopwright.fleet.words import EndReason

NAMES = ("one", "two")
CORE = max(os.sched_getaffinity(0))
_CONFIG: Mapping[str, object] = {
    "sync_active_s": 0.3,
    "sync_idle_s": 0.6,
    "retry_s": 0.1,
    "retry_max_s": 0.2,
    "book": {
        "sync_s": 0.3,
        "suspect_s": 1.5,
        "lost_s": 8.0,
        "reconnect_s": 6.0,
        "settle_s": 6.0,
        "grace_s": 0.5,
        "bad_probe_s": 0.5,
    },
}
_TIMERS = {"reconnect_s": 0.05, "reconnect_max_s": 0.2, "warden_s": 1.0}
_REASONS = {reason.value for reason in EndReason}
_CLONE_NEWNET = 0x40000000
_TABLE = "inet faults"
_TESTS = Path(__file__).resolve().parents[1]
_PATH = (_TESTS.parent / "src", _TESTS / "support", _TESTS / "measure")


_FSYNC = """
#include <errno.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>

static int broken(void) { return access(getenv("FAULT_FSYNC"), F_OK) == 0; }

int fsync(int fd) {
    if (broken()) { errno = EIO; return -1; }
    return (int)syscall(SYS_fsync, fd);
}

int fdatasync(int fd) {
    if (broken()) { errno = EIO; return -1; }
    return (int)syscall(SYS_fdatasync, fd);
}
"""
"""A library that makes a process's fsync fail while a file is there."""


def until(condition: Callable[[], object], what: str = "") -> None:
    """Ask again until `condition` holds."""
    deadline = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline, f"never: {what or condition}"
        time.sleep(0.02)


class Network:
    """A network namespace with nothing but loopback, and rules that drop packets on it."""

    def __init__(self) -> None:
        self._holder = subprocess.Popen(
            ["unshare", "--net", "cat"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL
        )
        ours = Path("/proc/self/ns/net").readlink()
        until(lambda: Path(self.path).readlink() != ours, "a namespace")
        self._run("ip", "link", "set", "lo", "up")
        self._nft(f"add table {_TABLE}")
        self._nft(f"add chain {_TABLE} cut {{ type filter hook input priority 0; }}")

    @staticmethod
    def missing() -> str:
        """Why there can be none here, empty if there can."""
        if os.geteuid() != 0:
            return "cutting links needs the superuser"
        for tool in ("unshare", "nsenter", "ip", "nft"):
            if shutil.which(tool) is None:
                return f"cutting links needs {tool}"
        tried = subprocess.run(
            ["unshare", "--net", "nft", "add table inet faults"], capture_output=True, check=False
        )
        return "" if tried.returncode == 0 else "this kernel makes no namespaces or has no nft"

    @property
    def path(self) -> str:
        """What `setns` takes."""
        return f"/proc/{self._holder.pid}/ns/net"

    @property
    def prefix(self) -> tuple[str, ...]:
        """What makes a command run in it."""
        return "nsenter", f"--net={self.path}", "--"

    def enter(self) -> None:
        """Have this thread, and no other, make its sockets in it."""
        libc = ctypes.CDLL(None, use_errno=True)
        with Path(self.path).open() as file:
            if libc.setns(file.fileno(), _CLONE_NEWNET):
                raise OSError(ctypes.get_errno(), "setns")

    @contextmanager
    def cut(self, *ports: int, to: bool = True, back: bool = True) -> Iterator[None]:
        """Drop what goes to these ports, and what comes back from them, until the end."""
        for port in ports:
            self.drop(port, to=to, back=back)
        try:
            yield
        finally:
            self.mend()

    def drop(self, port: int, *, to: bool, back: bool) -> None:
        """Drop what goes `to` a port, and what comes `back` from it."""
        for word, wanted in (("dport", to), ("sport", back)):
            if wanted:
                self._nft(f"add rule {_TABLE} cut tcp {word} {port} drop")

    def mend(self) -> None:
        """Let everything through."""
        self._nft(f"flush chain {_TABLE} cut")

    def _nft(self, words: str) -> None:
        self._run("nft", words)

    def _run(self, *command: str) -> None:
        done = subprocess.run([*self.prefix, *command], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr

    def close(self) -> None:
        self._holder.kill()
        self._holder.communicate()


def fsync_shim(folder: Path, broken: Path) -> dict[str, str]:
    """The environment in which fsync fails while `broken` is there; none without a C compiler."""
    compiler = shutil.which("cc")
    if compiler is None:
        return {}
    source, shim = folder / "fsync.c", folder / "fsync.so"
    source.write_text(_FSYNC)
    subprocess.run([compiler, "-shared", "-fPIC", "-o", str(shim), str(source)], check=True)
    return {"LD_PRELOAD": str(shim), "FAULT_FSYNC": str(broken)}


def port_of(address: str) -> int:
    return int(address.rpartition(":")[2])


class Site(Processes):
    """A tracker, and the agents `one` and `two` with a device each. Use it in a `with`."""

    def __init__(self, folder: Path, cache_dir: Path) -> None:
        super().__init__(folder, cache_dir)
        self.network = None if Network.missing() else Network()
        self.wall = folder / "wall"
        self.doors: dict[str, str] = {}  # who -> where the tracker listens for it
        self.broken = folder / "broken"  # while it is there, no fsync of the tracker works
        self.tracker_environment = fsync_shim(folder, self.broken)
        self._go = folder / "go"
        self._tuners: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> Site:
        super().__enter__()
        codes: dict[str, str] = {}
        with self.owner() as fleet:
            for name in NAMES:
                made = fleet.command("join.issue", agent=name)
                assert isinstance(made, dict)
                codes[name] = str(made["code"])
        self.begin_agent(NAMES[0], "--join", codes[NAMES[0]])
        self.await_agent(NAMES[0])
        for name in NAMES[1:]:
            self._copy_what_is_known(NAMES[0], name)
            self.begin_agent(name, "--join", codes[name])
            self.await_agent(name)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None = None,
        error: BaseException | None = None,
        trace: TracebackType | None = None,
    ) -> None:
        self.go_on()
        for tuner in self._tuners:
            tuner.kill()
            tuner.wait()
        super().__exit__(kind, error, trace)
        if self.network is not None:
            self.network.close()

    # --- processes ---

    def _copy_what_is_known(self, source: str, name: str) -> None:
        """Spare an agent finding out what this machine is."""
        folder = self._cache_dir / name
        folder.mkdir()
        for path in (self._cache_dir / source).glob("*-*.*"):
            shutil.copy(path, folder)

    def cache_of(self, name: str) -> Path:
        """Where an agent keeps what it knows of this machine."""
        return self._cache_dir / name

    def _tracker_command(self) -> list[str]:
        doors = ("client", *NAMES)
        listen = [self.doors.get(who, "tcp://127.0.0.1:0") for who in doors]
        orders = TrackerOrders(
            (*listen, self.socket),
            f"sqlite:///{self.folder / 'tracker.db'}",
            str(self.folder / "admin"),
            str(self.wall),
            dict(_CONFIG),
        )
        return self._command("tracker", orders)

    def start_tracker(self) -> None:
        """Start the tracker, where it was before."""
        super().start_tracker()
        words = [
            line.split()[-1] for line in self.said("tracker").splitlines() if " on tcp" in line
        ]
        self.doors = dict(zip(("client", *NAMES), words, strict=False))

    def _agent_command(self, name: str, *options: str) -> list[str]:
        words = ("--tracker", self.doors[name], "--name", name, "--device", f"cpu0={CORE}")
        words += ("--cache-dir", str(self._cache_dir / name), "--drift", "0")
        words += ("--label", f"board={name}", *options)
        return self._command("agent", AgentOrders(words, str(self.wall), _TIMERS))

    @staticmethod
    def _command(what: str, orders: TrackerOrders | AgentOrders) -> list[str]:
        program = str(Path(__file__).with_name("fault_process.py"))
        return [sys.executable, program, what, msgspec.json.encode(orders).decode()]

    def _start(self, command: list[str], log: object) -> subprocess.Popen[bytes]:
        prefix = () if self.network is None else self.network.prefix
        extra = self.tracker_environment if "tracker" in command else {}
        path = os.pathsep.join(map(str, _PATH))
        environment = {**os.environ, "PYTHONPATH": path, **extra}  # noqa: TID251  # of a process
        return subprocess.Popen(
            [*prefix, *command],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=environment,
        )  # type: ignore[call-overload]  # the log is a file

    def kill(self, process: subprocess.Popen[bytes] | None) -> None:
        """End a process by SIGKILL."""
        assert process is not None
        process.kill()
        process.wait()

    def kill_tracker(self) -> None:
        """`kill -9` of the tracker."""
        self.kill(self.tracker)

    def restart_agent(self, name: str, *options: str) -> None:
        """Start an agent that was killed again, as its supervisor would."""
        self.begin_agent(name, *options)

    def tuner(
        self,
        selector: str,
        records: Book,
        trials: int,
        ttl_s: float,
        silent_s: float = SILENT_S,
        salt: int = 0,
    ) -> subprocess.Popen[bytes]:
        """A tuner in a process of its own, which waits as `Tuning` does, until `release_tuners`."""
        orders = Orders(
            self.doors["client"],
            self.token,
            selector,
            records.url,
            trials,
            ttl_s,
            silent_s,
            SOME + 1,
            str(self._go),
            salt,
        )
        program = str(Path(__file__).with_name("fault_tuner.py"))
        command = [sys.executable, program, msgspec.json.encode(orders).decode()]
        made = self._start(command, self._log(f"tuner{len(self._tuners)}"))
        self._tuners.append(made)
        return made

    def tuner_said(self, tuner: subprocess.Popen[bytes]) -> str:
        """What a tuner's process has written."""
        return self.said(f"tuner{self._tuners.index(tuner)}")

    def release_tuners(self) -> None:
        """Let tuners with processes of their own go on."""
        self._go.touch()

    def client(self, **options: float) -> Fleet:
        """A client in this process."""
        enter = None if self.network is None else self.network.enter
        return connect(self.doors["client"], self.token, enter=enter, **options)

    def go_on(self) -> None:
        """Let everything run that was stopped, everything through that was cut."""
        for process in (self.tracker, *self.agents.values(), *self._tuners):
            if process is not None and process.poll() is None:
                process.send_signal(signal.SIGCONT)
        if self.network is not None:
            self.network.mend()

    def mend(self) -> None:
        """Have all as it was at first: everything runs, every device is free."""
        self.go_on()
        self.wall.unlink(missing_ok=True)
        self._go.unlink(missing_ok=True)
        for tuner in self._tuners:
            if tuner.poll() is None:
                self.kill(tuner)
        self.broken.unlink(missing_ok=True)
        if self.tracker is None or self.tracker.poll() is not None:
            self.start_tracker()
        for name in NAMES:
            if self.agents[name].poll() is not None:
                self.restart_agent(name)
        for name in NAMES:
            self.await_agent(name)

    # --- what became of it ---

    def device(self, name: str) -> DeviceView:
        """What the tracker says of a device."""
        with self.owner() as fleet:
            (view,) = fleet.devices(f"name={name}/cpu0")
        return view

    def live(self) -> set[str]:
        """The leases that have not ended."""
        with self.owner() as fleet:
            return {lease.id for lease in fleet.leases() if lease.state != "releasing"}

    def ends(self) -> dict[str, str]:
        """Lease -> why it ended, of all that did; each for one reason that has a name."""
        with self.owner() as fleet:
            events = [event for event in fleet.events() if event.what == "lease.end"]
        found: dict[str, str] = {}
        for event in events:
            reason = event.detail.partition(": ")[2].split()[0]
            assert reason in _REASONS, event
            assert event.subject not in found, (event, found[event.subject])
            found[event.subject] = reason
        return found

    def ended(self, leases: Sequence[str]) -> list[str]:
        """Why these leases ended, once they have."""
        until(lambda: not self.live().intersection(leases), f"the end of {leases}")
        ends: dict[str, str] = {}

        def written() -> bool:  # it is saved a little after it happened
            ends.update(self.ends())
            return all(lease in ends for lease in leases)

        until(written, f"why {leases} ended")
        return [ends[lease] for lease in leases]


def kill_session_of(agent: subprocess.Popen[bytes]) -> None:
    """`kill -9` of the process that measures for the session in progress."""
    (session,) = sessions_of(agent)
    os.kill(session, signal.SIGKILL)


def sessions_of(agent: subprocess.Popen[bytes]) -> list[int]:
    """The processes that measure for an agent: children of its warden."""
    found: list[int] = []
    for warden in _children(agent.pid):
        found += _children(warden)
    return found


def warden_of(agent: subprocess.Popen[bytes]) -> int:
    """The process that starts the sessions of an agent's device."""
    (warden,) = _children(agent.pid)
    return warden


def _children(pid: int) -> list[int]:
    with contextlib.suppress(OSError):
        return [int(n) for n in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return []
