"""Load on one tracker: lease cycles, 10,000 devices, and a restart after `kill -9`.

    python benchmarks/fleet_load.py [--quick] [-o json]

The tracker, the agents and the clients are processes of their own that share this machine. A cycle
is an ACQUIRE answered by GRANTED and a RELEASE answered by RELEASED, with the lease's row in
SQLite before the grant is told. Clients that use their devices hold each for 10 ms on average;
clients without a break release at once and ask again at once, so that what is measured is how many
cycles the tracker and they together can do, and each acquire waits for those of all others.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass

import numpy as np

import harness
from fleet_part import Part, Row, run_alone
from fleet_roles import address_of, client, cpu_s, process, rss_mb
from harness import figure
from loopwright.errors import FleetError
from loopwright.fleet.wire.link import Link
from loopwright.fleet.wire.messages import Acquire, Answer, Ask, Granted, Queued, Release

HOLD_S = 0.010
RESTARTED, AGENTS, EACH = 1_000, 50, 200
_SAVED_S = 0.2  # by then the last release is in the store
_COMMANDS = 5


@dataclass(frozen=True, slots=True)
class Cycles:
    """Lease cycles of some clients at once."""

    cycles_per_s: float
    p50_ms: float  # from ACQUIRE to GRANTED
    p99_ms: float
    tracker_cpu_us: float  # of the tracker process, a cycle


@dataclass(frozen=True, slots=True)
class Many:
    """A tracker with many devices."""

    rss_mb: float
    idle_cpu_share: float
    list_ms: float  # `devices`, all of them
    list_some_ms: float  # with a selector that means one in a hundred
    command_ms: float  # `loopwright device ls`, its interpreter's start included


@dataclass(frozen=True, slots=True)
class Restart:
    """After `kill -9` of a tracker and a start on the same store, seconds from the start."""

    up_s: float
    first_grant_s: float
    all_back_s: float


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


async def _until_free(link: Link, devices: int, limit_s: float = 60.0) -> None:
    """Wait until that many devices can be granted."""
    begin = time.perf_counter()
    while True:
        (status,) = await _ask(link, "status")
        if status["free"] == devices:
            return
        if time.perf_counter() - begin > limit_s:
            raise FleetError(f"only {status['free']} of {devices} devices are free")
        await asyncio.sleep(0.02)


async def measure_cycles(
    clients: int, seconds: float, *, hold_s: float = 0.0, devices: int = 1000
) -> Cycles:
    """Lease cycles of `clients` clients on `devices` devices."""
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        store = f"sqlite:///{folder}/tracker.db"
        tracker = stack.enter_context(process("tracker", store, "tcp://127.0.0.1:0"))
        address = address_of(tracker)
        stack.enter_context(process("agents", address, "10", str(devices // 10)))
        link = await client(address)
        await _until_free(link, devices)
        before = cpu_s(tracker.pid)
        words = ("clients", address, str(clients), str(seconds), str(hold_s), "kind=cpu")
        load = stack.enter_context(process(*words))
        output, _ = await asyncio.to_thread(load.communicate)
        if load.returncode:
            raise FleetError("a client failed")
        times = json.loads(output.splitlines()[-1])
        used = cpu_s(tracker.pid) - before
        link.close()
    p50, p99 = np.percentile(times, [50, 99]) * 1e3
    return Cycles(len(times) / seconds, float(p50), float(p99), used / len(times) * 1e6)


async def measure_devices(agents: int, each: int, idle_s: float) -> Many:
    """A tracker with `agents` times `each` devices."""
    devices = agents * each
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        store = f"sqlite:///{folder}/tracker.db"
        tracker = stack.enter_context(process("tracker", store, "tcp://127.0.0.1:0"))
        address = address_of(tracker)
        stack.enter_context(process("agents", address, str(agents), str(each)))
        link = await client(address)
        await _until_free(link, devices)
        before, begin = cpu_s(tracker.pid), time.perf_counter()
        await asyncio.sleep(idle_s)
        share = (cpu_s(tracker.pid) - before) / (time.perf_counter() - begin)
        all_s, all_rows = await _timed_list(link, "")
        some_s, some_rows = await _timed_list(link, "board=b7")
        command_s, told = await asyncio.to_thread(_timed_command, address)
        rss = rss_mb(tracker.pid)
        link.close()
    if (all_rows, some_rows, told) != (devices, devices // 100, devices):
        raise FleetError(f"{all_rows} and {told} devices listed, {some_rows} of them board=b7")
    return Many(rss, share, all_s * 1e3, some_s * 1e3, command_s * 1e3)


async def _timed_list(link: Link, selector: str) -> tuple[float, int]:
    best, rows = float("inf"), 0
    for _ in range(3):
        begin = time.perf_counter()
        rows = len(await _ask(link, "devices", selector))
        best = min(best, time.perf_counter() - begin)
    return best, rows


def _timed_command(address: str) -> tuple[float, int]:
    """The median time of `loopwright device ls`, and how many devices it listed."""
    words = [sys.executable, "-m", "loopwright.cli.main", "device", "ls", "--fleet", address]
    times: list[float] = []
    told: set[int] = set()
    for _ in range(_COMMANDS):
        begin = time.perf_counter()
        listed = subprocess.run(words, capture_output=True, check=True)
        times.append(time.perf_counter() - begin)
        told.add(len(listed.stdout.splitlines()) - 1)  # less the heading
    return float(np.median(times)), min(told)


async def _use(link: Link, devices: int) -> None:
    """Lease each device once, so that the store knows it; those free for longest come first."""
    for number in range(devices):
        link.send(Acquire(request=f"before{number}", selector="kind=cpu"))
        answer = await link.receive(30.0)
        if not isinstance(answer, Granted):
            raise FleetError(f"no grant of a free device: {answer}")
        link.send(Release(answer.grants[0].lease, answer.grants[0].epoch))
        await link.receive(30.0)
    await asyncio.sleep(_SAVED_S)


async def measure_restart(agents: int, each: int) -> Restart:
    """`kill -9` of a tracker with `agents` times `each` devices, and its return."""
    devices = agents * each
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        store = f"sqlite:///{folder}/tracker.db"
        first = stack.enter_context(process("tracker", store, "tcp://127.0.0.1:0"))
        address = address_of(first)
        stack.enter_context(process("agents", address, str(agents), str(each)))
        link = await client(address)
        await _until_free(link, devices)
        await _use(link, devices)
        first.send_signal(signal.SIGKILL)
        first.wait()
        begin = time.perf_counter()
        second = stack.enter_context(process("tracker", store, address))
        link = await client(address)
        up = time.perf_counter() - begin
        link.send(Acquire(request="after", selector="kind=cpu", max_wait_ms=30_000))
        while not isinstance(answer := await link.receive(30.0), Granted):
            if not isinstance(answer, Queued):
                raise FleetError(f"no grant after the restart: {answer}")
        granted = time.perf_counter() - begin
        await _until_free(link, devices - 1)
        back = time.perf_counter() - begin
        address_of(second)
        link.close()
    return Restart(up, granted, back)


def measure(quick: bool) -> Part:  # noqa: FBT001  # as all parts of fleet.py
    """Restart, cycles, devices."""
    seconds = 2.0 if quick else 10.0
    harness.progress("a tracker is killed and comes back")
    restart = asyncio.run(measure_restart(AGENTS, RESTARTED // AGENTS))
    harness.progress("lease cycles of 1, 16 and 128 clients")
    alone = asyncio.run(measure_cycles(1, seconds))
    used = asyncio.run(measure_cycles(16, seconds, hold_s=HOLD_S))
    tight = asyncio.run(measure_cycles(16, seconds))
    many = asyncio.run(measure_cycles(128, seconds))
    harness.progress(f"{AGENTS * EACH:,} devices")
    devices = asyncio.run(measure_devices(AGENTS, EACH, 2.0 if quick else 10.0))
    figures = (
        figure("grants back after a restart", restart.all_back_s, "s", at_most=3.0),
        figure("acquire, 16 clients, p50", used.p50_ms, "ms", at_most=1.0),
        figure("acquire, 16 clients, p99", used.p99_ms, "ms", at_most=10.0),
        figure("acquire, 16 clients without a break, p50", tight.p50_ms, "ms", at_most=1.0),
        figure("acquire, 16 clients without a break, p99", tight.p99_ms, "ms", at_most=10.0),
        figure("lease cycles, 128 clients", many.cycles_per_s, "1/s", at_least=5000.0),
        figure("memory, 10,000 devices", devices.rss_mb, "MB", at_most=300.0),
        figure("list of 10,000 devices", devices.list_ms, "ms", at_most=300.0),
        figure("loopwright device ls of them", devices.command_ms, "ms", at_most=300.0),
    )
    rows = (
        Row("tracker answers after kill -9 and a start", restart.up_s, "s"),
        Row("first grant after it", restart.first_grant_s, "s"),
        Row("acquire, 1 client, p50", alone.p50_ms, "ms"),
        Row("acquire, 1 client, p99", alone.p99_ms, "ms"),
        Row("lease cycles, 16 clients that hold for 10 ms", used.cycles_per_s, "1/s"),
        Row("lease cycles, 16 clients without a break", tight.cycles_per_s, "1/s"),
        Row("processor time of the tracker a cycle, 16 clients", tight.tracker_cpu_us, "us"),
        Row("processor time of the tracker a cycle, 128 clients", many.tracker_cpu_us, "us"),
        Row("acquire, 128 clients without a break, p50", many.p50_ms, "ms"),
        Row("share of a core, 10,000 idle devices", devices.idle_cpu_share),
        Row("list of 100 of 10,000 devices", devices.list_some_ms, "ms"),
    )
    return Part(figures, rows)


if __name__ == "__main__":
    sys.exit(harness.run(lambda words: run_alone("fleet_load", __doc__, measure, words)))
