"""Processes for the fleet's benchmarks: trackers, agents that are simulated or real, and clients.

Run as a script it is one of them: `tracker`, `agents` or `clients`. Simulated agents report and
obey, and run nothing, so that thousands of devices fit one process.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from harness import until_we_end
from loopwright.errors import FleetError, InternalError
from loopwright.fleet.client.api import Fleet, connect
from loopwright.fleet.security.handshake import Anonymous, ByKey, Credential, greet
from loopwright.fleet.tracker.config import TrackerConfig
from loopwright.fleet.tracker.serve import ServeOptions, Serving, run, serve
from loopwright.fleet.wire.codec import Incoming
from loopwright.fleet.wire.link import Link, LinkClosed, dial
from loopwright.fleet.wire.messages import (
    Acquire,
    Desired,
    DeviceInfo,
    DeviceReport,
    Granted,
    Queued,
    Register,
    Release,
    Released,
    Sync,
)

_PAGE = 200
_START_S = 60.0


# --- what each process does ---


async def run_tracker(store: str, address: str) -> None:
    """The tracker process: one line of JSON when it serves."""
    options = ServeOptions(listen=(address,), store=store, config=TrackerConfig(auth=False))

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
        self._credential: Credential = Anonymous(name)
        self._devices = tuple(
            DeviceInfo(
                name=f"{name}/cpu{n}",
                labels={"board": f"b{n % 100}", "host": name, "kind": "cpu", "arch": "x86-64"},
                target="cpu -mcpu=x86-64-v3",
                device="Simulated CPU @ 2.0 GHz",
                cores=(n,),
                addresses=("tcp://127.0.0.1:7071",),
                tier=1,
            )
            for n in range(count)
        )
        self._epochs = {device.name: 0 for device in self._devices}
        self._seq = 0
        self._link: Link | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._lost = asyncio.Event()

    async def run(self) -> None:
        """Connect, and again whenever the connection is gone."""
        while True:
            with contextlib.suppress(FleetError):
                link = await dial(self._address, timeout_s=5.0)
                welcome = await greet(link, "agent", self._credential)
                if welcome.device_key:
                    self._credential = ByKey(self.name, welcome.device_key)
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
            DeviceReport(name=name, occupancy="idle", health="good", last_epoch=epoch)
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
    """Acquires, holds for `hold_s` on average, releases, and again, until told to stop.

    How long it holds is drawn anew each time (exponentially), so that clients do not march in step.
    """

    def __init__(
        self, link: Link, number: int, selector: str, hold_s: float, rng: np.random.Generator
    ) -> None:
        self.times: list[float] = []
        self.failed: str = ""
        self.done = asyncio.Event()
        self._link = link
        self._number = number
        self._selector = selector
        self._hold_s = hold_s
        self._rng = rng
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
        self._link.send(
            Acquire(request=f"r{os.getpid()}-{self._number}-{self._count}", selector=self._selector)
        )

    def _heard(self, message: Incoming, _: int) -> None:
        if isinstance(message, Granted):
            self.times.append(time.perf_counter() - self._asked)
            grant = message.grants[0]
            release = Release(grant.lease, grant.epoch)
            if self._hold_s:
                held = float(self._rng.exponential(self._hold_s))
                asyncio.get_running_loop().call_later(held, self._link.send, release)
            else:
                self._link.send(release)
        elif isinstance(message, Released):
            self._acquire()
        elif not isinstance(message, Queued):
            self.failed = repr(message)
            self.done.set()

    def _closed(self, why: str) -> None:
        self.failed = self.failed or why
        self.done.set()


async def run_clients(
    address: str, clients: int, seconds: float, hold_s: float, selector: str
) -> None:
    """A clients' process: acquire times in seconds as JSON on its last line."""
    links = [await client(address) for _ in range(clients)]
    rngs = np.random.default_rng(3).spawn(clients)
    load = [
        LoadClient(link, number, selector, hold_s, rng)
        for number, (link, rng) in enumerate(zip(links, rngs, strict=True))
    ]
    until = time.perf_counter() + seconds
    for one in load:
        one.start(until)
    for one in load:
        await one.done.wait()
    failed = [one.failed for one in load if one.failed]
    if failed:
        sys.exit(f"a client failed: {failed[0]}")
    sys.stdout.write(json.dumps([time for one in load for time in one.times]) + "\n")


# --- starting them ---


@contextlib.contextmanager
def process(*arguments: str) -> Iterator[subprocess.Popen[str]]:
    """This file as a process, killed at the end."""
    command = until_we_end(sys.executable, str(Path(__file__)), *arguments)
    started = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        yield started
    finally:
        started.kill()
        started.wait()
        if started.stdout is not None:
            started.stdout.close()


def address_of(tracker: subprocess.Popen[str]) -> str:
    """Where a tracker process serves; waits until it does.

    Raises: FleetError if it ends instead.
    """
    line = tracker.stdout.readline() if tracker.stdout is not None else ""
    if not line:
        raise FleetError("the tracker did not start")
    return str(json.loads(line)["addresses"][0])


async def client(address: str, limit_s: float = 30.0) -> Link:
    """A client's link to the tracker at `address`, as soon as there is one.

    Raises: FleetError when nobody is there for `limit_s`.
    """
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


def cpu_s(pid: int) -> float:
    """The processor time that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def rss_mb(pid: int) -> float:
    """The memory that a process has."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


@contextlib.contextmanager
def tracker_process(folder: Path, words: Sequence[str], scheme: str) -> Iterator[tuple[str, str]]:
    """A tracker that the command starts with the options `words`, and ended with the block.

    Returns: its owner's socket, and its address of `scheme`.
    """
    folder.mkdir(exist_ok=True)
    socket = f"unix://{folder / 't.sock'}"
    serve = ["loopwright.cli.main", "tracker", "serve", *words, "--listen", socket]
    serve += ["--store", f"sqlite:///{folder / 't.db'}", "--token-file", str(folder / "admin")]
    log = folder / "tracker.log"
    with log.open("wb") as file:
        started = subprocess.Popen(until_we_end(sys.executable, "-m", *serve), stderr=file)
    try:
        yield socket, _wait_for(log, rf"listens on ({scheme}://\S+)")
    finally:
        started.terminate()
        started.wait(_START_S)


@contextlib.contextmanager
def real_fleet(folder: Path, cores: Sequence[int]) -> Iterator[tuple[Fleet, str]]:
    """A tracker and an agent for each of `cores`, as processes that the commands start.

    Everything but this client's own connection with the tracker is TCP on loopback.
    Returns: the fleet, and the tracker's TCP address.
    """
    started: list[subprocess.Popen[bytes]] = []
    listen = ("--listen", "tcp://127.0.0.1:0")
    with tracker_process(folder, listen, "tcp") as (socket, address):
        try:
            with connect(socket) as fleet:
                started.extend(_agent(folder, fleet, address, core) for core in cores)
                deadline = time.monotonic() + _START_S
                while sum(device.grantable for device in fleet.devices()) < len(cores):
                    if time.monotonic() > deadline:
                        raise InternalError("the agents do not come up")
                    time.sleep(0.05)
                yield fleet, address
        finally:
            for one in reversed(started):
                one.terminate()
                one.wait(_START_S)


def _agent(folder: Path, fleet: Fleet, address: str, core: int) -> subprocess.Popen[bytes]:
    """An agent's process with one device, `core`."""
    made = fleet.command("join.issue", agent=f"core{core}")
    code = str(made["code"]) if isinstance(made, dict) else ""
    words = ["loopwright.fleet.agent", "--tracker", address, "--join", code]
    words += ["--name", f"core{core}", "--device", f"cpu0={core}"]
    words += ["--cache-dir", str(folder / f"core{core}")]
    with (folder / f"core{core}.log").open("wb") as said:
        command = until_we_end(sys.executable, "-m", *words)
        return subprocess.Popen(command, stdout=said, stderr=said)


def _wait_for(log: Path, pattern: str) -> str:
    deadline = time.monotonic() + _START_S
    while (found := re.search(pattern, log.read_text())) is None:
        if time.monotonic() > deadline:
            raise InternalError(f"the tracker does not come up: {log.read_text()}")
        time.sleep(0.05)
    return found[1]


def main(arguments: Sequence[str]) -> None:
    """Be one of the processes."""
    match list(arguments):
        case ["tracker", store, address]:
            run(run_tracker(store, address))
        case ["agents", address, agents, devices]:
            asyncio.run(run_agents(address, int(agents), int(devices)))
        case ["clients", address, clients, seconds, hold_s, selector]:
            asyncio.run(run_clients(address, int(clients), float(seconds), float(hold_s), selector))
        case _:
            sys.exit("usage: fleet_roles.py tracker|agents|clients ...; see fleet_load.py")


if __name__ == "__main__":
    main(sys.argv[1:])
