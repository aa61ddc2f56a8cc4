"""The agent's side of wardens and of the measuring processes that they fork."""

from __future__ import annotations

import asyncio
import contextlib
import mmap
import os
import signal
import socket
import subprocess
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import msgspec

from loopwright.errors import EnvironmentFailure, FleetError
from loopwright.fleet.agent import bubble
from loopwright.fleet.words import Tier
from loopwright.measure import cgroup
from loopwright.measure.boot import command
from loopwright.measure.layers import BUBBLE, USUAL, Plan
from loopwright.measure.orders import (
    MAX_PACKET,
    Beat,
    Begin,
    Begun,
    End,
    Ending,
    Extend,
    Options,
    Order,
    Over,
    Ready,
    Told,
)
from loopwright.measure.wire import MAX_FRAME, RunReply, RunRequest

START_S = 60.0
_HELLO_S = 20.0
_END_S = 5.0
_WORDS_S = 0.5
_LENGTH_BYTES = 4
_PROCESSES = 512  # of a session, threads included
_TOLD = msgspec.msgpack.Decoder(Told)
_REPLY = msgspec.msgpack.Decoder(RunReply)
_ENCODER = msgspec.msgpack.Encoder()


class WorkerLost(FleetError):  # noqa: N818  # it says what happened, not who erred
    """The measuring process went away, which says nothing about the candidate."""


class Worker:
    """A measuring process. One request at a time."""

    def __init__(self, number: int, warden: Warden) -> None:
        self.number = number
        self.pid = 0
        self.runtime = ""  # digest of the one that it has
        self.over: asyncio.Future[Over] = asyncio.get_running_loop().create_future()
        self._warden = warden
        self._sock, self._theirs = socket.socketpair()
        self._sock.setblocking(False)
        self._output = os.memfd_create("outputs")

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
        """End the process by the kill ladder, and all that it started."""
        self._warden.send(End(self.number))
        try:
            return await asyncio.shield(self.over)
        finally:
            self.hang_up()


@dataclass(frozen=True, slots=True)
class WardenOptions:
    """How a warden is started. `uid` is who candidates are, where this process is the superuser;
    `memory` bytes is what everything in a session may hold together; `runtime` is the digest of
    the native runtime that sessions begin with, empty where there is none.
    """

    name: str
    cache_dir: Path
    cores: tuple[int, ...] = ()
    tier: Tier = Tier.T0
    uid: int = 0
    memory: int = 1 << 40
    watchdog_s: float = 0.0
    runtime: str = ""


class Warden:
    """The warden of one device, started by `start`. It belongs to one event loop."""

    def __init__(self, options: WardenOptions, on_lost: Callable[[str], None]) -> None:
        self.ready: Ready | None = None
        self._options = options
        self._on_lost = on_lost
        self._loop = asyncio.get_running_loop()
        self._process: subprocess.Popen[bytes] | None = None
        self._stderr: IO[bytes] | None = None
        self._sock: socket.socket | None = None
        self._workers: dict[int, Worker] = {}
        self._begun: dict[int, asyncio.Future[int]] = {}
        self._is_ready: asyncio.Future[None] = self._loop.create_future()
        self._numbers = 0
        self._words = ""  # the last ones of a process that is gone
        self._cgroup: cgroup.Cgroup | None = None

    @property
    def alive(self) -> bool:
        """Whether it can start sessions."""
        return self._sock is not None and self.ready is not None

    @property
    def pid(self) -> int:
        """The process, 0 without."""
        return 0 if self._process is None else self._process.pid

    async def start(self) -> Ready:
        """Start the process and wait until it is ready.

        Raises: EnvironmentFailure.
        """
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.setblocking(False)
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115  # lives as long as the process
        try:
            self._process = subprocess.Popen(
                self._command(theirs.fileno()),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=self._stderr,
                pass_fds=(theirs.fileno(),),
                start_new_session=True,
            )
        except OSError as error:
            ours.close()
            raise EnvironmentFailure(f"cannot start a warden: {error}", retryable=True) from error
        finally:
            theirs.close()
        self._sock = ours
        self._loop.add_reader(ours.fileno(), self._read)
        try:
            async with asyncio.timeout(START_S):
                await asyncio.shield(self._is_ready)
        except TimeoutError as error:
            self.kill()
            raise EnvironmentFailure(f"the warden was not ready within {START_S} s") from error
        if self.ready is None:
            raise EnvironmentFailure(f"the warden ended before it was ready: {self._words}")
        return self.ready

    def _command(self, control: int) -> list[str]:
        """The command line of the process, confined as far as this machine allows."""
        told = self._options
        bubbled = told.tier >= Tier.T2 and bubble.available()
        group = plan = None
        if told.tier >= Tier.T1:
            group = self._cgroup = cgroup.create(told.name, told.memory, _PROCESSES)
            plan = Plan(
                _empty_folder(told.cache_dir),
                told.uid,
                () if group is None else group.doors,
                group is not None and group.limits,
                Path("/proc/self/ns/net").stat().st_ino,
            )
        options = Options(
            0 if bubbled else os.getpid(),
            str(told.cache_dir),
            told.watchdog_s,
            plan,
            int(USUAL | BUBBLE if told.tier >= Tier.T2 else USUAL),
            told.cores,
            bare=not told.runtime,
        )
        plain = command("warden", [str(control), msgspec.json.encode(options).decode()])
        if not bubbled:
            return plain
        return bubble.wrapped(plain, () if group is None else map(str, group.folders))

    async def begin(self, deadline: float) -> Worker:
        """A new measuring process, killed at `deadline` of the monotonic clock unless extended.

        Raises: WorkerLost.
        """
        sock = self._sock
        if sock is None:
            raise WorkerLost("the warden is not there")
        self._numbers += 1
        worker = Worker(self._numbers, self)
        worker.runtime = self._options.runtime
        self._workers[worker.number] = worker
        begun: asyncio.Future[int] = self._loop.create_future()
        self._begun[worker.number] = begun
        try:
            packet = _ENCODER.encode(Begin(worker.number, deadline))
            socket.send_fds(sock, [packet], worker.descriptors)
            worker.handed_over()
            worker.pid = await begun
            await worker.hello()
        except OSError as error:
            self._workers.pop(worker.number, None)
            worker.hang_up()
            raise WorkerLost(f"the warden does not answer: {error.strerror}") from error
        except BaseException:
            self.send(End(worker.number))
            worker.hang_up()
            raise
        return worker

    def beat(self) -> None:
        """Say that this process's loop turns."""
        self.send(Beat())

    def send(self, order: Order) -> None:
        """Tell the warden something; a warden that is gone is told nothing."""
        if self._sock is not None:
            with contextlib.suppress(OSError):
                self._sock.send(_ENCODER.encode(order))

    def _read(self) -> None:
        while self._sock is not None:
            try:
                data = self._sock.recv(MAX_PACKET)
            except BlockingIOError:
                return
            except OSError:
                data = b""
            if not data:
                self._gone()
                return
            told: Told = _TOLD.decode(data)
            match told:
                case Ready() as ready:
                    self.ready = ready
                    if not self._is_ready.done():
                        self._is_ready.set_result(None)
                case Begun(number, pid):
                    self._settle(number, pid)
                case Over() as over:
                    self._over(over)

    def _settle(self, number: int, pid: int) -> None:
        begun = self._begun.pop(number, None)
        if begun is not None and not begun.done():
            begun.set_result(pid)

    def _over(self, over: Over) -> None:
        worker = self._workers.pop(over.session, None)
        if worker is not None and not worker.over.done():
            worker.over.set_result(over)
        begun = self._begun.pop(over.session, None)
        if begun is not None and not begun.done():
            begun.set_exception(WorkerLost("the measuring process ended at once"))

    def _gone(self) -> None:
        """The warden ended; the kernel ends what it had started."""
        sock, self._sock = self._sock, None
        if sock is not None:
            self._loop.remove_reader(sock.fileno())
            sock.close()
        self._words = self._last_words()
        why = f"the warden was lost: {self._words}"
        for number in tuple(self._workers):
            self._over(Over(number, Ending.LEFT.value, -signal.SIGKILL, clean=True))
        if not self._is_ready.done():
            self._is_ready.set_result(None)
        self.ready = None
        self._on_lost(why)

    def _last_words(self) -> str:
        process, file, self._stderr = self._process, self._stderr, None
        status = ""
        if process is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                status = f"it ended with {process.wait(_WORDS_S)}"
        if file is None:
            return status
        with file:
            file.seek(0)
            lines = file.read().decode(errors="replace").strip().splitlines()
        return "; ".join(part for part in (status, lines[-1] if lines else "") if part)

    def kill(self) -> None:
        """End the process and everything below it at once."""
        if self._process is not None and self._process.poll() is None:
            self._process.kill()

    async def close(self) -> None:
        """End the process and everything below it; waits until it is gone."""
        sock, self._sock = self._sock, None
        if sock is not None:
            self._loop.remove_reader(sock.fileno())
            sock.close()
        for number in tuple(self._workers):
            worker = self._workers[number]
            self._over(Over(number, Ending.ASKED.value, 0, clean=True))
            worker.hang_up()
        process = self._process
        if process is not None:
            await self._loop.run_in_executor(None, _wait, process, self._cgroup)
            self._cgroup = None
        if self._stderr is not None:
            self._stderr.close()
            self._stderr = None


def _wait(process: subprocess.Popen[bytes], group: cgroup.Cgroup | None) -> None:
    """Wait for the end of a warden; what is left in its group is killed."""
    try:
        process.wait(_END_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    if group is not None:
        group.kill()
        group.remove()


def _empty_folder(cache_dir: Path) -> str:
    """An empty folder, which sessions lay their own over."""
    folder = cache_dir / "empty"
    folder.mkdir(parents=True, exist_ok=True, mode=0o555)
    return str(folder)
