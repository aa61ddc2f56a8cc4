"""An agent in this process, and a client of it that speaks the protocol by hand."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import secrets
import threading
import time
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from loopwright.fleet.agent.agent import Agent
from loopwright.fleet.agent.blobs import BlobCache
from loopwright.fleet.agent.cpu import CpuDriver
from loopwright.fleet.agent.device import AgentDevice
from loopwright.fleet.agent.options import AgentOptions, DeviceOptions, SessionLimits, Timers
from loopwright.fleet.security.handshake import open_session
from loopwright.fleet.security.tickets import Ticket, seal, session_key
from loopwright.fleet.wire.codec import Data
from loopwright.fleet.wire.link import Link, pair
from loopwright.fleet.wire.messages import (
    Close,
    Closed,
    Error,
    Have,
    Message,
    Missing,
    Opened,
    OutputHead,
    PutHead,
    Result,
    RunBatch,
    Stored,
)
from loopwright.fleet.words import Health, Occupancy, Tier
from loopwright.kernel_call import KernelCall, WireParam
from loopwright.outcome import cores_for

KEY = b"k" * 32
DEVICE = "here/cpu0"
CHUNK = 1 << 20
N = 1000
WAIT_S = 120.0
T = TypeVar("T")


def options(cache_dir: Path, **changes: object) -> AgentOptions:
    """An agent without canaries, for the tests' own key."""
    plain = AgentOptions(
        "here",
        cache_dir,
        KEY,
        drift=0.0,
        limits=SessionLimits(wall_s=10.0, memory=1 << 30),
        timers=Timers(canary_s=1e9, restart_s=0.05),
    )
    return replace(plain, **changes)  # type: ignore[arg-type]


@asynccontextmanager
async def running(
    made: AgentOptions, uploads: Path | None = None, threads: int = 1
) -> AsyncIterator[Agent]:
    """An agent whose device is ready; uploads are kept in `uploads`, if that is given."""
    specs = [DeviceOptions(DEVICE, cores_for(threads))]
    limits = made.limits
    blobs = None if uploads is None else BlobCache(uploads, limits.blobs, limits.blob)
    rng = secrets.SystemRandom()
    async with Agent(made, specs, time.monotonic, rng, blobs=blobs) as agent:
        await until(lambda: all(d.health is Health.GOOD for d in agent.devices.values()))
        yield agent


async def until(condition: object, timeout_s: float = WAIT_S) -> None:
    """Wait until `condition()` holds."""
    async with asyncio.timeout(timeout_s):
        while not condition():  # type: ignore[operator]
            await asyncio.sleep(0.002)


async def gone(pids: tuple[int, ...]) -> None:
    """Wait until processes are no more."""
    assert pids
    await until(lambda: not any(alive(pid) for pid in pids), 10.0)


def alive(pid: int) -> bool:
    """Whether a process is there, and not a zombie that waits for a parent far away."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def cpu(device: AgentDevice) -> CpuDriver:
    """The driver of a device that is a processor."""
    assert isinstance(device.driver, CpuDriver)
    return device.driver


def warden_pid(device: AgentDevice) -> int:
    """The process that forks the device's sessions, 0 without."""
    warden = cpu(device).keeper.warden
    return 0 if warden is None else warden.pid


def worker_pid(device: AgentDevice) -> int:
    """The measuring process of the session, 0 without."""
    worker = cpu(device).worker
    return 0 if worker is None else worker.pid


def processes_below(pid: int) -> tuple[int, ...]:
    """A process and all that descend from it, none if it is gone."""
    if not pid or not Path(f"/proc/{pid}").exists():
        return ()
    found = [pid]
    for one in found:
        with contextlib.suppress(OSError):  # it is gone
            for thread in Path(f"/proc/{one}/task").iterdir():
                with contextlib.suppress(OSError):
                    found += [int(w) for w in (thread / "children").read_text().split()]
    return tuple(found)


async def idle(agent: Agent, device: str = DEVICE) -> None:
    """Wait until a device is clean."""
    await until(lambda: agent.devices[device].occupancy is Occupancy.IDLE)


def ticket(agent: Agent, epoch: int, **changes: object) -> Ticket:
    """A ticket for a device of `agent`."""
    plain = Ticket(f"l{epoch}", DEVICE, agent.incarnation, epoch, "t", (), 60_000)
    import msgspec

    return msgspec.structs.replace(plain, **changes)


def item(code: bytes, entry: str, number: int = 0, /, **changes: object) -> KernelCall:
    """A run of a kernel with the ABI of `double` of `measure_kernels`."""
    layout = ((0, 1, 0),)
    params = tuple(WireParam(name, "float32", (N,), layout) for name in "xy")
    plain = KernelCall(
        number,
        hashlib.sha256(code).digest(),
        f"k_{entry}",
        params,
        1,
        256,
        1,
        3,
        False,
        1,
        2,
        500,
        5000,
        512 << 20,
    )
    import msgspec

    return msgspec.structs.replace(plain, **changes)


@dataclass(slots=True)
class Client:
    """One session, spoken by hand."""

    link: Link
    opened: Opened
    sent: int = 0  # bytes of blobs

    async def ask(self, message: Message) -> Message | Data:
        self.link.send(message)
        return await self.link.receive(WAIT_S)

    async def upload(self, data: bytes) -> bytes:
        """Upload what is missing of `data`; its digest."""
        digest = hashlib.sha256(data).digest()
        missing = await self.ask(Have((digest,)))
        assert isinstance(missing, Missing), missing
        if missing.digests:
            for at in range(missing.offsets[0], max(1, len(data)), CHUNK):
                piece = data[at : at + CHUNK]
                self.sent += len(piece)
                await self.link.send_data(PutHead(digest, at, len(data)), piece)
            stored = await self.link.receive(WAIT_S)
            assert stored == Stored(digest), stored
        return digest

    async def run(self, *items: KernelCall) -> list[Result]:
        """The results of a batch."""
        return [result for result, _ in [await one for one in await self.batch(*items)]]

    async def batch(self, *items: KernelCall) -> list[object]:
        self.link.send(RunBatch(items))
        return [self.result() for _ in items]

    async def result(self) -> tuple[Result, bytes]:
        """The next result and its outputs."""
        output = bytearray()
        while True:
            message = await self.link.receive(WAIT_S)
            match message:
                case Data(OutputHead(_, offset, total), data):
                    assert offset == len(output)
                    assert offset + len(data) <= total
                    output += data
                case Result():
                    return message, bytes(output)
                case Error() | Closed():
                    raise AssertionError(message)

    async def doubles(self, code: bytes) -> None:
        """The session still measures, and gets it right."""
        from loopwright.sandbox.inputs import generate

        await self.upload(code)
        self.link.send(RunBatch((item(code, "double", 77, want_output=True),)))
        result, output = await self.result()
        assert result.status == "ok", result
        assert result.id == 77
        assert len(result.ns) == 2
        x = generate("float32", (N,), 3, 0)
        np.testing.assert_array_equal(np.frombuffer(output, np.float32), x + x)

    async def close(self) -> Closed:
        """Close the session; the device's last word."""
        self.link.send(Close())
        while True:
            message = await self.link.receive(WAIT_S)
            if isinstance(message, Closed):
                await self.link.wait_closed()
                return message


class Hosted:
    """An agent on a loop in a thread of its own, for tests that share it."""

    def __init__(self, made: AgentOptions) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._context = running(made)
        self.agent = self.call(self._context.__aenter__())
        self.epoch = 0

    def call(self, work: Coroutine[Any, Any, T], timeout_s: float = 2 * WAIT_S) -> T:
        """What `work` returns, done on the agent's loop."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(timeout_s)

    async def session(self) -> Client:
        """A new session, of a new epoch."""
        self.epoch += 1
        return await connect(self.agent, ticket(self.agent, self.epoch))

    def close(self) -> None:
        self.call(self._context.__aexit__(None, None, None))
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


async def connect(agent: Agent, shown: Ticket, key: bytes = KEY) -> Client:
    """Open a session over a pair, which is served in a task of its own."""
    ours, theirs = await pair()
    task = asyncio.create_task(agent.serve_session(theirs))
    task.add_done_callback(lambda done: done.cancelled() or done.exception())
    sealed = seal(shown, key)
    try:
        opened = await open_session(ours, sealed, session_key(key, sealed), timeout_s=WAIT_S)
    except BaseException:
        ours.close()
        await ours.wait_closed()
        raise
    return Client(ours, opened)


__all__ = [
    "DEVICE",
    "KEY",
    "Client",
    "Hosted",
    "N",
    "Tier",
    "connect",
    "idle",
    "item",
    "options",
    "processes_below",
    "running",
    "ticket",
    "until",
]  # fmt: skip
