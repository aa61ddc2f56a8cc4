"""Load on one tracker: lease cycles, 10,000 devices, and a restart after `kill -9`.

    python benchmarks/fleet_load.py [cycles|devices|restart|all] [-o json]

The tracker, the agents and the clients are processes of their own that share this machine. A cycle
is an ACQUIRE answered by GRANTED and a RELEASE answered by RELEASED, with the lease's row in
SQLite before the grant is told. Agents are simulated: they report and obey, and run nothing.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from loopwright.errors import FleetError
from loopwright.fleet.security.handshake import Anonymous, ByKey, greet
from loopwright.fleet.tracker.config import TrackerConfig
from loopwright.fleet.tracker.serve import ServeOptions, Serving, serve
from loopwright.fleet.wire.link import Link, LinkClosed, dial
from loopwright.fleet.wire.messages import (
    Acquire,
    Answer,
    Ask,
    Desired,
    DeviceInfo,
    DeviceReport,
    Granted,
    Incoming,
    Queued,
    Register,
    Release,
    Released,
    Sync,
)

_PAGE = 200


@dataclass(frozen=True, slots=True)
class Cycles:
    """Lease cycles of some clients at once; times in milliseconds."""

    clients: int
    seconds: float
    cycles_per_s: float
    acquire_p50_ms: float
    acquire_p99_ms: float
    tracker_cpu_us: float  # of the tracker process, a cycle
    pause_ms: float = 0.0  # of each client after a cycle; 0: as fast as it goes


@dataclass(frozen=True, slots=True)
class Many:
    """A tracker with many devices."""

    devices: int
    agents: int
    rss_mb: float
    idle_cpu_share: float
    list_ms: float  # `devices`, all of them
    list_some_ms: float  # with a selector that means one in a hundred


@dataclass(frozen=True, slots=True)
class Restart:
    """After `kill -9` of a tracker and a start on the same store, seconds from the start."""

    devices: int
    up_s: float
    first_grant_s: float
    all_back_s: float


# --- the processes ---


async def run_tracker(store: str, address: str) -> None:
    """The tracker process: one line of JSON when it serves."""
    options = ServeOptions((address,), store, TrackerConfig(auth=False))

    def ready(serving: Serving) -> None:
        sys.stdout.write(json.dumps({"addresses": serving.addresses}) + "\n")
        sys.stdout.flush()

    await serve(options, rng=np.random.default_rng(1), ready=ready)


class SimulatedAgent:
    """An agent with `count` devices that are always well."""

    def __init__(self, name: str, count: int, address: str, rng: np.random.Generator) -> None:
        self.name = name
        self._address = address
        self._incarnation = f"boot-{name}"
        self._rng = rng
        self._devices = tuple(
            DeviceInfo(
                f"{name}/cpu{n}",
                {"board": f"b{n % 100}", "host": name, "kind": "cpu", "arch": "x86-64"},
                "cpu -mcpu=x86-64-v3",
                "Simulated CPU @ 2.0 GHz",
                (n,),
                ("tcp://127.0.0.1:7071",),
                1,
            )
            for n in range(count)
        )
        self._epochs = {device.name: 0 for device in self._devices}
        self._seq = 0
        self._key = b""
        self._link: Link | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._lost = asyncio.Event()

    async def run(self) -> None:
        """Connect, and again whenever the connection is gone."""
        while True:
            with contextlib.suppress(FleetError):
                link = await dial(self._address, timeout_s=5.0)
                who = ByKey(self.name, self._key) if self._key else Anonymous(self.name)
                self._key = (await greet(link, "agent", who)).device_key or self._key
                self._link = link
                self._lost.clear()
                for start in range(0, len(self._devices), _PAGE):
                    more = start + _PAGE < len(self._devices)
                    link.send(
                        Register(self._incarnation, self._devices[start : start + _PAGE], more)
                    )
                link.on_message(self._heard, lambda _: self._lost.set())
                self._sync()
                await self._lost.wait()
            await asyncio.sleep(0.05 + 0.2 * self._rng.random())

    def _sync(self) -> None:
        link = self._link
        if link is None or link.closed:
            return
        reports = tuple(
            DeviceReport(name, "idle", "good", last_epoch=epoch)
            for name, epoch in self._epochs.items()
        )
        for start in range(0, len(reports), _PAGE):
            self._seq += 1
            with contextlib.suppress(LinkClosed):
                link.send(Sync(self._seq, reports[start : start + _PAGE]))

    def _heard(self, message: Incoming, _: int) -> None:
        if isinstance(message, Desired):
            if self._timer is not None:
                self._timer.cancel()
            wait_s = message.next_sync_ms / 1000
            self._timer = asyncio.get_running_loop().call_later(wait_s, self._sync)


async def run_agents(address: str, agents: int, devices: int) -> None:
    """The agents' process: `devices` on each of `agents` agents, until it is killed."""
    rng = np.random.default_rng(2)
    fleet = [SimulatedAgent(f"host{n}", devices, address, rng) for n in range(agents)]
    await asyncio.gather(*(agent.run() for agent in fleet))


class LoadClient:
    """Acquires and releases, one after the other, until told to stop."""

    def __init__(self, link: Link, number: int, selector: str, pause_s: float) -> None:
        self.times: list[float] = []
        self.failed: str = ""
        self.done = asyncio.Event()
        self._link = link
        self._number = number
        self._selector = selector
        self._pause_s = pause_s
        self._count = 0
        self._asked = 0.0
        self._until = 0.0
        link.on_message(self._heard, self._closed)

    def start(self, until: float) -> None:
        """Begin; the last cycle begins before `until`."""
        self._until = until
        self._acquire()

    def _acquire(self) -> None:
        self._asked = time.perf_counter()
        if self._asked >= self._until:
            self.done.set()
            return
        self._count += 1
        self._link.send(Acquire(f"r{os.getpid()}-{self._number}-{self._count}", self._selector))

    def _heard(self, message: Incoming, _: int) -> None:
        if isinstance(message, Granted):
            self.times.append(time.perf_counter() - self._asked)
            grant = message.grants[0]
            self._link.send(Release(grant.lease, grant.epoch))
        elif isinstance(message, Released) and self._pause_s:
            asyncio.get_running_loop().call_later(self._pause_s, self._acquire)
        elif isinstance(message, Released):
            self._acquire()
        elif not isinstance(message, Queued):
            self.failed = repr(message)
            self.done.set()

    def _closed(self, why: str) -> None:
        self.failed = self.failed or why
        self.done.set()


async def run_clients(
    address: str, clients: int, seconds: float, pause_s: float, selector: str
) -> None:
    """A clients' process: acquire times in seconds as JSON on its last line."""
    links = [await _client(address) for _ in range(clients)]
    load = [LoadClient(link, number, selector, pause_s) for number, link in enumerate(links)]
    until = time.perf_counter() + seconds
    for client in load:
        client.start(until)
    for client in load:
        await client.done.wait()
    failed = [client.failed for client in load if client.failed]
    if failed:
        sys.exit(f"a client failed: {failed[0]}")
    sys.stdout.write(json.dumps([time for client in load for time in client.times]) + "\n")


# --- what is measured ---


def _spawn(*arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, str(Path(__file__)), *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


@contextlib.contextmanager
def _process(*arguments: str) -> Iterator[subprocess.Popen[str]]:
    process = _spawn(*arguments)
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()


def _address(tracker: subprocess.Popen[str]) -> str:
    assert_line = tracker.stdout.readline() if tracker.stdout is not None else ""
    if not assert_line:
        sys.exit("the tracker did not start")
    return str(json.loads(assert_line)["addresses"][0])


def _cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _rss_mb(pid: int) -> float:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


async def _ask(link: Link, what: str, selector: str = "") -> list[dict[str, object]]:
    rows: list[dict[str, object]] = []
    after = ""
    while True:
        link.send(Ask(1, what, selector=selector, after=after))
        answer = await link.receive(30.0)
        if not isinstance(answer, Answer):
            raise FleetError(f"asked for {what}, got {answer}")
        page = json.loads(answer.body)
        if isinstance(page, dict):
            return [page]
        rows += page
        if not answer.more:
            return rows
        after = answer.more


async def _until_free(link: Link, devices: int, limit_s: float = 60.0) -> float:
    """Seconds until all devices can be granted."""
    begin = time.perf_counter()
    while True:
        (status,) = await _ask(link, "status")
        if status["free"] == devices:
            return time.perf_counter() - begin
        if time.perf_counter() - begin > limit_s:
            raise FleetError(f"only {status['free']} of {devices} devices are free")
        await asyncio.sleep(0.02)


async def _client(address: str, limit_s: float = 30.0) -> Link:
    begin = time.perf_counter()
    while True:
        try:
            link = await dial(address)
            await greet(link, "client", Anonymous())
        except FleetError:
            if time.perf_counter() - begin > limit_s:
                raise
            await asyncio.sleep(0.005)
        else:
            return link


async def measure_cycles(
    clients: int,
    seconds: float,
    *,
    pause_s: float = 0.0,
    processes: int = 1,
    devices: int = 1000,
) -> Cycles:
    """Lease cycles of `clients` clients in `processes` processes on `devices` devices."""
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        store = f"sqlite:///{folder}/tracker.db"
        tracker = stack.enter_context(_process("tracker", store, "tcp://127.0.0.1:0"))
        address = _address(tracker)
        stack.enter_context(_process("agents", address, "10", str(devices // 10)))
        link = await _client(address)
        await _until_free(link, devices)
        before = _cpu_s(tracker.pid)
        load = [
            stack.enter_context(
                _process(
                    "clients",
                    address,
                    str(clients // processes),
                    str(seconds),
                    str(pause_s),
                    "kind=cpu",
                )
            )
            for _ in range(processes)
        ]
        times: list[float] = []
        for process in load:
            output, _ = await asyncio.to_thread(process.communicate)
            if process.returncode:
                raise FleetError("a clients' process failed")
            times += json.loads(output.splitlines()[-1])
        used = _cpu_s(tracker.pid) - before
        link.close()
    p50, p99 = np.percentile(times, [50, 99]) * 1e3
    return Cycles(
        clients,
        seconds,
        round(len(times) / seconds, 1),
        round(float(p50), 3),
        round(float(p99), 3),
        round(used / len(times) * 1e6, 1),
        pause_s * 1e3,
    )


async def measure_devices(agents: int = 50, each: int = 200, idle_s: float = 10.0) -> Many:
    """A tracker with `agents` times `each` devices."""
    devices = agents * each
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        store = f"sqlite:///{folder}/tracker.db"
        tracker = stack.enter_context(_process("tracker", store, "tcp://127.0.0.1:0"))
        address = _address(tracker)
        stack.enter_context(_process("agents", address, str(agents), str(each)))
        link = await _client(address)
        await _until_free(link, devices)
        before, begin = _cpu_s(tracker.pid), time.perf_counter()
        await asyncio.sleep(idle_s)
        share = (_cpu_s(tracker.pid) - before) / (time.perf_counter() - begin)
        all_s, all_rows = await _timed_list(link, "")
        some_s, some_rows = await _timed_list(link, "board=b7")
        rss = _rss_mb(tracker.pid)
        link.close()
    if (all_rows, some_rows) != (devices, devices // 100):
        raise FleetError(f"{all_rows} devices listed, {some_rows} of them board=b7")
    return Many(
        devices,
        agents,
        round(rss, 1),
        round(share, 3),
        round(all_s * 1e3, 1),
        round(some_s * 1e3, 1),
    )


async def _timed_list(link: Link, selector: str) -> tuple[float, int]:
    best, rows = float("inf"), 0
    for _ in range(3):
        begin = time.perf_counter()
        rows = len(await _ask(link, "devices", selector))
        best = min(best, time.perf_counter() - begin)
    return best, rows


async def measure_restart(agents: int = 50, each: int = 20) -> Restart:
    """`kill -9` of a tracker with `agents` times `each` devices, and its return."""
    devices = agents * each
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        store = f"sqlite:///{folder}/tracker.db"
        first = stack.enter_context(_process("tracker", store, "tcp://127.0.0.1:0"))
        address = _address(first)
        stack.enter_context(_process("agents", address, str(agents), str(each)))
        link = await _client(address)
        await _until_free(link, devices)
        first.send_signal(signal.SIGKILL)
        first.wait()
        begin = time.perf_counter()
        second = stack.enter_context(_process("tracker", store, address))
        link = await _client(address)
        up = time.perf_counter() - begin
        link.send(Acquire("after", "kind=cpu", max_wait_ms=30_000))
        while not isinstance(answer := await link.receive(30.0), Granted):
            if not isinstance(answer, Queued):
                raise FleetError(f"no grant after the restart: {answer}")
        granted = time.perf_counter() - begin
        await _until_free(link, devices - 1)
        back = time.perf_counter() - begin
        _address(second)
        link.close()
    return Restart(devices, round(up, 3), round(granted, 3), round(back, 3))


async def measure(what: str, seconds: float) -> list[Cycles | Many | Restart]:
    """The figures that `what` names."""
    found: list[Cycles | Many | Restart] = []
    if what in ("cycles", "all"):
        found += [await measure_cycles(clients, seconds) for clients in (1, 16, 128)]
        found.append(await measure_cycles(16, seconds, pause_s=0.01))
    if what in ("devices", "all"):
        found.append(await measure_devices())
    if what in ("restart", "all"):
        found.append(await measure_restart())
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    match given:
        case ["tracker", store, address]:
            asyncio.run(run_tracker(store, address))
        case ["agents", address, agents, devices]:
            asyncio.run(run_agents(address, int(agents), int(devices)))
        case ["clients", address, clients, seconds, pause_s, selector]:
            asyncio.run(
                run_clients(address, int(clients), float(seconds), float(pause_s), selector)
            )
        case _:
            parser = argparse.ArgumentParser(description="Load on one tracker.")
            parser.add_argument(
                "what", nargs="?", default="all", choices=("cycles", "devices", "restart", "all")
            )
            parser.add_argument("--seconds", type=float, default=4.0)
            parser.add_argument("-o", "--output", choices=("text", "json"), default="text")
            options = parser.parse_args(given)
            found = asyncio.run(measure(options.what, options.seconds))
            if options.output == "json":
                named = [{"figure": type(one).__name__.lower(), **asdict(one)} for one in found]
                print(json.dumps(named))
            for one in found if options.output == "text" else ():
                print(one)


if __name__ == "__main__":
    main()
