"""The agent's side of wardens and of the measuring processes that they fork."""

from __future__ import annotations

import asyncio
import contextlib
import mmap
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import msgspec

from loopwright.errors import EnvironmentFailure
from loopwright.fleet.agent.driver import DriverError
from loopwright.fleet.words import Tier
from loopwright.sandbox import cgroup
from loopwright.sandbox.layers import BUBBLE, USUAL, CagePlan
from loopwright.sandbox.libraries import SYSTEM, libraries
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
    command,
)
from loopwright.sandbox.wire import MAX_FRAME, RunReply, RunRequest

START_S = 60.0
_HELLO_S = 20.0
_END_S = 2.0  # a healthy warden ends as soon as nobody talks to it
_SWEEP_S = 0.01
_LADDER_S = POLITE_S + PATIENT_S  # what a warden takes to end a session, at most
_LOOKS = 4  # without an answer, at least: time passes for a machine that was stopped too
_LENGTH_BYTES = 4
_PROCESSES = 512  # of a session, threads included
_KEPT = ("CAP_SYS_ADMIN", "CAP_SETUID", "CAP_SETGID", "CAP_KILL", "CAP_SYS_NICE", "CAP_SETPCAP")
"""Capabilities in a bubble: what it takes to confine candidates further, in its own namespaces."""
_HIDDEN = ("/home", "/run", "/tmp", "/root", "/var", "/etc")
"""Folders of the host that a bubble has not, but for what it needs in them."""
_SYSTEM = (*SYSTEM, "/usr", "/bin", "/lib32", "/etc/ld.so.cache", "/sys/devices/system/cpu")
_TOLD = msgspec.msgpack.Decoder(Told)
_REPLY = msgspec.msgpack.Decoder(RunReply)
_ENCODER = msgspec.msgpack.Encoder()


class WorkerLost(DriverError):  # noqa: N818  # it says what happened, not who erred
    """The measuring process went away, which says nothing about the candidate."""


class Worker:
    """A measuring process. One request at a time. Making one may raise OSError."""

    def __init__(self, number: int, warden: WardenHandle) -> None:
        self.number = number
        self.pid = 0
        self.watch = -1  # tells when the process has ended, where it can be seen
        self.over: asyncio.Future[Over] = asyncio.get_running_loop().create_future()
        self._warden = warden
        self._output = os.memfd_create("outputs")
        try:
            self._sock, self._theirs = socket.socketpair()
        except OSError:
            os.close(self._output)
            raise
        self._sock.setblocking(False)

    @property
    def descriptors(self) -> tuple[int, int]:
        """What the measuring process gets: its socket and its output file."""
        return self._theirs.fileno(), self._output

    def handed_over(self) -> None:
        """The process has its own copies of its descriptors."""
        self._theirs.close()

    async def hello(self) -> None:
        """Wait until the process is ready.

        Raises: WorkerLost.
        """
        try:
            async with asyncio.timeout(_HELLO_S):
                await self._frame()
        except TimeoutError as error:
            raise WorkerLost(f"the measuring process was not ready within {_HELLO_S} s") from error

    async def run(self, request: RunRequest, timeout_s: float) -> RunReply:
        """What comes of `request`.

        Raises: WorkerLost when the process ends, says nonsense, or says nothing in time.
        """
        body = _ENCODER.encode(request)
        try:
            async with asyncio.timeout(timeout_s):
                head = len(body).to_bytes(_LENGTH_BYTES, "little")
                await asyncio.get_running_loop().sock_sendall(self._sock, head + body)
                return _REPLY.decode(await self._frame())
        except TimeoutError as error:
            raise WorkerLost(f"it said nothing for {timeout_s:g} s") from error
        except OSError as error:
            raise WorkerLost(f"it went away: {error.strerror}") from error
        except msgspec.MsgspecError as error:
            raise WorkerLost(f"it said nonsense: {error}") from error

    async def _frame(self) -> bytearray:
        length = int.from_bytes(await self._exactly(_LENGTH_BYTES), "little")
        if length > MAX_FRAME:
            raise WorkerLost(f"it sent a frame of {length} bytes")
        return await self._exactly(length)

    async def _exactly(self, count: int) -> bytearray:
        loop = asyncio.get_running_loop()
        data = bytearray(count)
        view, filled = memoryview(data), 0
        while filled < count:
            got = await loop.sock_recv_into(self._sock, view[filled:])
            if got == 0:
                raise WorkerLost("it ended")
            filled += got
        return data

    def output(self, nbytes: int) -> mmap.mmap:
        """The outputs that the last run left: `nbytes` of them.

        Raises: WorkerLost when there are fewer.
        """
        try:
            return mmap.mmap(self._output, nbytes, prot=mmap.PROT_READ)
        except (OSError, ValueError) as error:
            raise WorkerLost(f"it left no output of {nbytes} bytes") from error

    def extend(self, deadline: float) -> None:
        """Let the process live until `deadline` of the monotonic clock."""
        self._warden.send(Extend(self.number, deadline))

    def hang_up(self) -> None:
        """Close what this side holds; a process that runs no candidate ends by that."""
        self._sock.close()
        with contextlib.suppress(OSError):
            self._theirs.close()
        if self._output >= 0:
            os.close(self._output)
            self._output = -1

    async def end(self) -> Over:
        """End the process by the kill ladder, and all that it started.

        A warden that does not do that in time is given up; then nobody saw a clean end.
        """
        warden = self._warden
        if not self.over.done():
            warden.send(End(self.number))
        try:
            async with asyncio.timeout(warden.limit_s):
                await asyncio.wait((self.over,))
        except TimeoutError:
            warden.give_up(f"it did not end a session within {warden.limit_s:g} s")
        finally:
            self.hang_up()
        return await self.over


@dataclass(frozen=True, slots=True)
class WardenOptions:
    """How a warden is started. `uid` is who candidates are, where this process is the superuser;
    `memory` bytes is what everything in a session may hold together; a `bare` host has no native
    runtime that sessions could begin with, others keep it in `runtime_file`. A warden is given up
    when it does not answer for `slack_s` longer than the kill ladder takes.
    """

    name: str
    cache_dir: Path
    cores: tuple[int, ...] = ()
    tier: Tier = Tier.T0
    uid: int = 0
    memory: int = 1 << 40
    bare: bool = False
    runtime_file: str = ""
    slack_s: float = 5.0


class WardenHandle:
    """The warden of one device, started by `start`. It belongs to one event loop.

    `on_lost` is called once when it is gone, or was given up, with the reason; then `close` ends
    what is left. `on_unclean` is called when something of a session cannot be killed.
    """

    def __init__(
        self,
        options: WardenOptions,
        on_lost: Callable[[str], None],
        on_unclean: Callable[[], None] = lambda: None,
    ) -> None:
        self.ready: WardenReady | None = None
        self.limit_s = _LADDER_S + options.slack_s  # for any answer
        self.hung = False  # it was given up
        self.words = ""  # the last ones of a process that is gone
        self._options = options
        self._on_lost = on_lost
        self._on_unclean = on_unclean
        self._loop = asyncio.get_running_loop()
        self._process: subprocess.Popen[bytes] | None = None
        self._stderr: IO[bytes] | None = None
        self._sock: socket.socket | None = None
        self._workers: dict[int, Worker] = {}
        self._begun: dict[int, asyncio.Future[int]] = {}
        self._is_ready: asyncio.Future[None] = self._loop.create_future()
        self._numbers = 0
        self._asked_at: float | None = None  # when it was asked whether it is there
        self._looks = 0  # for the answer
        self._strays: list[int] = []  # pidfds of processes that are not known to have ended
        self._bubbled = False
        self._cgroup: cgroup.Cgroup | None = None
        self._ending: asyncio.Future[bool] | None = None

    @property
    def alive(self) -> bool:
        """Whether it can start sessions."""
        return self._sock is not None and self.ready is not None

    @property
    def pid(self) -> int:
        """The id of the process, 0 without one."""
        return 0 if self._process is None else self._process.pid

    async def start(self) -> WardenReady:
        """Start the process and wait until it is ready.

        Raises: EnvironmentFailure.
        """
        try:
            self._launch()
        except OSError as error:
            raise EnvironmentFailure(f"cannot start a warden: {error}", retryable=True) from error
        try:
            async with asyncio.timeout(START_S):
                await asyncio.shield(self._is_ready)
        except TimeoutError as error:
            self.give_up(f"it was not ready within {START_S:g} s")
            raise EnvironmentFailure(f"the warden was not ready within {START_S:g} s") from error
        if self.ready is None:
            await self.close()
            raise EnvironmentFailure(f"the warden ended before it was ready: {self.words}")
        return self.ready

    def _launch(self) -> None:
        """Start the process, and listen to it."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            ours.setblocking(False)
            self._stderr = tempfile.TemporaryFile()  # noqa: SIM115  # lives as long as the process
            self._process = subprocess.Popen(
                self._command(theirs.fileno()),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=self._stderr,
                pass_fds=(theirs.fileno(),),
                start_new_session=True,
            )
        except OSError:
            ours.close()
            raise
        finally:
            theirs.close()
        self._sock = ours
        self._loop.add_reader(ours.fileno(), self._read)

    def _command(self, control: int) -> list[str]:
        """The command line of the process, confined as far as this machine allows."""
        told = self._options
        bubbled = self._bubbled = told.tier >= Tier.T2 and bubblewrap_is_there()
        group = plan = None
        if told.tier >= Tier.T1:
            group = self._cgroup = cgroup.create(told.name, told.memory, _PROCESSES)
            plan = CagePlan(
                _empty_folder(told.cache_dir),
                told.uid,
                () if group is None else group.doors,
                group is not None and group.limits,
                Path("/proc/self/ns/net").stat().st_ino,
                _identities(_HIDDEN),
            )
        options = WardenSettings(
            0 if bubbled else os.getpid(),
            str(told.cache_dir),
            plan,
            int(USUAL | BUBBLE if told.tier >= Tier.T2 else USUAL),
            told.cores,
            bare=told.bare,
        )
        plain = command(control, options)
        if not bubbled:
            return plain
        writable = () if group is None else map(str, group.folders)
        return in_bubble(plain, (*_SYSTEM, *self._needed()), writable)

    def _needed(self) -> Iterator[str]:
        """What a process needs besides the system: Python, its modules, two things of ours."""
        yield from (sys.prefix, sys.base_prefix, *libraries())
        yield from (path for path in sys.path if Path(path).is_absolute())
        yield str(Path(__file__).resolve().parents[3])  # where this package is
        yield _empty_folder(self._options.cache_dir)
        if self._options.runtime_file:  # not its folder: that may hold the agent's key
            yield self._options.runtime_file

    async def begin(self, deadline: float) -> Worker:
        """A new measuring process, killed at `deadline` of the monotonic clock unless extended.

        Raises: WorkerLost.
        """
        sock = self._sock
        if sock is None:
            raise WorkerLost("the warden is not there")
        self._numbers += 1
        begun: asyncio.Future[int] = self._loop.create_future()
        try:
            worker = Worker(self._numbers, self)
        except OSError as error:
            raise WorkerLost(f"no measuring process can be made: {error.strerror}") from error
        self._workers[worker.number] = worker
        self._begun[worker.number] = begun
        try:
            packet = _ENCODER.encode(Begin(worker.number, deadline))
            socket.send_fds(sock, [packet], worker.descriptors)
            worker.handed_over()
            await self._started(worker, begun)
            await worker.hello()
        except OSError as error:
            self.give_up(f"it takes no orders: {error.strerror}")
            worker.hang_up()
            raise WorkerLost(f"the warden takes no orders: {error.strerror}") from error
        except WorkerLost:
            await worker.end()
            raise
        except BaseException:
            begun.cancel()
            self.send(End(worker.number))
            worker.hang_up()
            raise
        return worker

    async def _started(self, worker: Worker, begun: asyncio.Future[int]) -> None:
        """Wait until the warden has forked a process.

        Raises: WorkerLost when that has ended at once; a warden that does not answer is given up.
        """
        try:
            async with asyncio.timeout(self.limit_s):
                await asyncio.wait((begun,))
        except TimeoutError:
            self.give_up(f"it did not begin a session within {self.limit_s:g} s")
        worker.pid = await begun
        if not self._bubbled:
            with contextlib.suppress(OSError):
                worker.watch = os.pidfd_open(worker.pid)

    def beat(self, now: float) -> None:
        """Ask whether it is there; one that did not answer for too long by now is given up."""
        if self.ready is None:
            return
        if self._asked_at is None:
            self._asked_at, self._looks = now, 0
            self.send(Beat())
            return
        self._looks += 1
        if now > self._asked_at + self.limit_s and self._looks > _LOOKS:
            self.give_up(f"it does not answer for {now - self._asked_at:.0f} s")

    def send(self, order: Order) -> None:
        """Tell the warden something; one that is gone is told nothing, one that hangs is given up.

        No warden is ever so busy that what is sent to it does not fit into its socket.
        """
        if self._sock is None:
            return
        try:
            self._sock.send(_ENCODER.encode(order))
        except ConnectionError:
            pass  # `_read` meets its end
        except OSError as error:
            self.give_up(f"it takes no orders: {error.strerror}")

    def give_up(self, why: str) -> None:
        """End a process that does not answer, with everything below it."""
        self.hung = True
        self.kill()
        self._gone(why)

    def _read(self) -> None:
        while self._sock is not None:
            try:
                data = self._sock.recv(MAX_PACKET)
            except BlockingIOError:
                return
            except OSError:
                data = b""
            if not data:
                self._gone("it ended")
                return
            told: Told = _TOLD.decode(data)
            match told:
                case WardenReady() as ready:
                    self.ready = ready
                    if not self._is_ready.done():
                        self._is_ready.set_result(None)
                case Alive():
                    self._asked_at = None
                case Begun(number, pid):
                    self._settle(number, pid)
                case Over() as over:
                    self._over(over)
                    if not over.clean:
                        self._on_unclean()

    def _settle(self, number: int, pid: int) -> None:
        begun = self._begun.pop(number, None)
        if begun is not None and not begun.done():
            begun.set_result(pid)

    def _over(self, over: Over, why: str = "the measuring process ended at once") -> None:
        worker = self._workers.pop(over.session, None)
        begun = self._begun.pop(over.session, None)
        if begun is not None and not begun.done():
            begun.set_exception(WorkerLost(why))
        if worker is None:
            return
        if not worker.over.done():
            worker.over.set_result(over)
        if worker.watch >= 0:
            self._strays.append(worker.watch)
        if over.clean:
            self._strays = [watch for watch in self._strays if not _has_ended(watch)]

    def _gone(self, why: str) -> None:
        """The warden has ended, or was given up."""
        if self._hang_up(f"the warden was lost: {why}"):
            self._on_lost(why)

    def _hang_up(self, why: str) -> bool:
        """Close the connection; its sessions count as not clean. False if that was done before."""
        sock, self._sock = self._sock, None
        if sock is None:
            return False
        self._loop.remove_reader(sock.fileno())
        sock.close()
        self.ready = None
        for number in tuple(self._workers):
            self._over(Over(number, SessionEnding.LEFT.value, -signal.SIGKILL, clean=False), why)
        if not self._is_ready.done():
            self._is_ready.set_result(None)
        return True

    def kill(self) -> None:
        """End the process and everything below it at once."""
        if self._process is not None and self._process.poll() is None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, signal.SIGKILL)

    async def close(self) -> bool:
        """End the process and everything below it; whether all of it is gone.

        What cannot be killed is killed again when this is called again.
        """
        workers = tuple(self._workers.values())
        self._hang_up("the warden is not there")
        for worker in workers:
            worker.hang_up()
        ending = self._ending
        if ending is None or (ending.done() and not ending.result()):
            ending = self._ending = self._loop.run_in_executor(None, self._end_all)
        return await asyncio.shield(ending)

    def _end_all(self) -> bool:
        """The part of `close` that waits; runs in a thread."""
        gone = self._process is None or _ended(self._process)
        if self._cgroup is not None:
            self._cgroup.kill()
            gone = not self._cgroup.processes() and gone
            self._cgroup.remove()
        deadline = time.monotonic() + PATIENT_S
        while (left := [watch for watch in self._strays if not _has_ended(watch, kill=True)]) and (
            time.monotonic() < deadline
        ):
            time.sleep(_SWEEP_S)
        self._strays = left
        self.words = self._last_words()
        return gone and not left

    def _last_words(self) -> str:
        """How the process ended, and the last line that it printed."""
        words = [] if self._process is None else [f"it ended with {self._process.poll()}"]
        file, self._stderr = self._stderr, None
        if file is None:
            return self.words
        with file:
            file.seek(0)
            words += file.read().decode(errors="replace").strip().splitlines()[-1:]
        return "; ".join(words)


def bubblewrap_is_there() -> bool:
    """Whether bubblewrap is installed."""
    return shutil.which("bwrap") is not None


def in_bubble(
    command: Sequence[str], readable: Iterable[str], writable: Iterable[str]
) -> list[str]:
    """`command` without a network and other processes in sight.

    Of the host's files there are only those that are `readable`, and what is `writable`.
    """
    options: list[str] = []
    for path in dict.fromkeys(readable):
        options += ["--ro-bind-try", path, path]
    options += ["--dev", "/dev", "--proc", "/proc"]
    for path in writable:
        options += ["--bind", path, path]
    options += ["--remount-ro", "/"]
    options += [f"--unshare-{name}" for name in ("net", "ipc", "uts", "pid")]
    for capability in _KEPT:
        options += ["--cap-add", capability]
    return [shutil.which("bwrap") or "bwrap", *options, "--die-with-parent", "--", *command]


def _identities(folders: Iterable[str]) -> tuple[tuple[str, int, int], ...]:
    """Path, device and number of those folders that there are."""
    found = []
    for folder in folders:
        with contextlib.suppress(OSError):
            status = Path(folder).stat()
            found.append((folder, status.st_dev, status.st_ino))
    return tuple(found)


def _ended(process: subprocess.Popen[bytes]) -> bool:
    """Wait for the end of a warden that nobody talks to any more; whether it came."""
    for patience_s in (_END_S, PATIENT_S):
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(patience_s)
            return True
        process.kill()
    return False


def _has_ended(watch: int, *, kill: bool = False) -> bool:
    """Whether the process behind a pidfd has ended; the descriptor is closed then."""
    if kill:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            signal.pidfd_send_signal(watch, signal.SIGKILL)
    poll = select.poll()
    poll.register(watch, select.POLLIN)
    if not poll.poll(0):
        return False
    os.close(watch)
    return True


def _empty_folder(cache_dir: Path) -> str:
    """An empty folder, which sessions mount their own over."""
    folder = cache_dir / "empty"
    folder.mkdir(parents=True, exist_ok=True, mode=0o555)
    return str(folder)
