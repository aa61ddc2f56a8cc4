"""A thousand hostile candidates through one session of an agent: is the device there afterwards?

    python benchmarks/fleet_hostile.py [--candidates N] [--tier T] [-o json]

Kinds take turns in a random order. After each, the time until a good candidate's result is back is
how long the device took to be ready again, less what the same good candidate takes after a good
one. Also printed: what the device says of itself at the end, and processes that were left behind.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import secrets
import statistics
import tempfile
import time
from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np

from hostile_kernels import Hostile, N, hostile
from loopwright.fleet.agent.agent import Agent
from loopwright.fleet.agent.options import AgentOptions, DeviceOptions, Timers
from loopwright.fleet.security.handshake import open_session
from loopwright.fleet.security.tickets import Ticket, seal, session_key
from loopwright.fleet.wire.link import Link, pair
from loopwright.fleet.wire.messages import (
    Close,
    Closed,
    PutHead,
    Result,
    RunBatch,
    RunItem,
    Stored,
    WireParam,
)
from loopwright.fleet.words import Health, Occupancy, RunStatus, Tier
from loopwright.measure.run import cores_for
from loopwright.runtime.native import object_code

GOAL_MS = 500.0
KEY = bytes(32)
DEVICE = "bench/cpu0"
TIMEOUT_MS = 200
WAIT_S = 60.0
MEMORY = 256 << 20


@dataclass(slots=True)
class Report:
    """Counts by kind of what came of it, figures in milliseconds."""

    candidates: int = 0
    tier: int = 0
    outcomes: dict[str, dict[str, int]] = field(default_factory=dict)
    wrong: int = 0
    lost: int = 0
    ready_p50_ms: float = 0.0
    ready_p99_ms: float = 0.0
    ready_max_ms: float = 0.0
    good_p50_ms: float = 0.0
    open_p50_ms: float = 0.0
    seconds: float = 0.0
    health: str = ""
    left_behind: int = 0


def item(code: bytes, entry: str, timeout_ms: int) -> RunItem:
    """A run of a kernel of `hostile_kernels`."""
    params = tuple(WireParam(name, "float32", (N,), ((0, 1, 0),)) for name in "xy")
    return RunItem(
        0, code, entry, params, 1, 256, 1, 0, False, 1, 1, 100, timeout_ms, MEMORY
    )  # fmt: skip


async def run(link: Link, one: RunItem) -> tuple[Result, float]:
    """What comes of an item, and in how many milliseconds."""
    start = time.perf_counter()
    link.send(RunBatch((one,)))
    result = await link.receive(WAIT_S)
    if not isinstance(result, Result):
        raise SystemExit(f"the session ended: {result}")
    return result, (time.perf_counter() - start) * 1e3


async def connect(agent: Agent, epoch: int) -> Link:
    """An open session."""
    ticket = Ticket(f"l{epoch}", DEVICE, agent.incarnation, epoch, "t", (), 3_600_000)
    sealed = seal(ticket, KEY)
    ours, theirs = await pair()
    task = asyncio.create_task(agent.serve_session(theirs))
    task.add_done_callback(lambda done: done.exception())
    await open_session(ours, sealed, session_key(KEY, sealed))
    return ours


async def measure(candidates: int, tier: Tier, folder: Path) -> Report:
    """Run the candidates."""
    text, kinds = hostile()
    code = object_code(text, folder)
    options = AgentOptions("bench", folder, KEY, tier=tier, drift=0.0, timers=Timers())
    devices = [DeviceOptions(DEVICE, cores_for(1))]
    report = Report(candidates)
    async with Agent(options, devices, time.monotonic, secrets.SystemRandom()) as agent:
        (device,) = agent.devices.values()
        while device.health is not Health.GOOD:
            await asyncio.sleep(0.01)
        link = await connect(agent, 1)
        report.tier = int(device.tier)
        digest = hashlib.sha256(code).digest()
        await link.send_data(PutHead(digest, 0, len(code)), code)
        stored = await link.receive(WAIT_S)
        if stored != Stored(digest):
            raise SystemExit(f"the upload failed: {stored}")
        await _all(link, digest, kinds, report)
        link.send(Close())
        await link.receive(WAIT_S)
        while device.occupancy is not Occupancy.IDLE:
            await asyncio.sleep(0.001)
        report.open_p50_ms = await _opens(agent)
        report.health = device.health.value
        report.left_behind = len(_below(device.warden_pid)) - 1
    return report


async def _all(link: Link, digest: bytes, kinds: tuple[Hostile, ...], report: Report) -> None:
    good = item(digest, "k_double", 5000)
    plain = [(await run(link, good))[1] for _ in range(30)]
    report.good_p50_ms = statistics.median(plain)
    rng = np.random.default_rng(0)
    order: list[Hostile] = []
    while len(order) < report.candidates:
        order += [kinds[int(i)] for i in rng.permutation(len(kinds))]
    counts: dict[str, Counter[str]] = {kind.name: Counter() for kind in kinds}
    ready: list[float] = []
    start = time.perf_counter()
    for kind in order[: report.candidates]:
        timeout_ms = TIMEOUT_MS if kind.waits else 5000
        result, _ = await run(link, item(digest, kind.entry, timeout_ms))
        counts[kind.name][result.status] += 1
        report.wrong += result.status != kind.status.value
        after, spent = await run(link, good)
        report.lost += after.status != RunStatus.OK.value
        ready.append(max(0.0, spent - report.good_p50_ms))
    report.seconds = time.perf_counter() - start
    report.outcomes = {name: dict(count) for name, count in counts.items()}
    p50, p99 = np.percentile(ready, [50, 99])
    report.ready_p50_ms, report.ready_p99_ms = float(p50), float(p99)
    report.ready_max_ms = max(ready)


async def _opens(agent: Agent) -> float:
    """Median milliseconds from dialling to Opened."""
    times: list[float] = []
    for epoch in range(2, 32):
        start = time.perf_counter()
        link = await connect(agent, epoch)
        times.append((time.perf_counter() - start) * 1e3)
        link.send(Close())
        closed = await link.receive(WAIT_S)
        if not isinstance(closed, Closed):
            raise SystemExit(f"{closed} in place of Closed")
        await link.wait_closed()
        await asyncio.sleep(0.05)
    return statistics.median(times)


def _below(pid: int) -> list[int]:
    found = [pid]
    for one in found:
        path = Path(f"/proc/{one}/task/{one}/children")
        found += [int(word) for word in path.read_text().split()] if path.exists() else []
    return found


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--candidates", type=int, default=1000)
    parser.add_argument("--tier", type=int, choices=[0, 1, 2], default=1)
    parser.add_argument("-o", dest="form", choices=["text", "json"], default="text")
    said = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        report = asyncio.run(measure(said.candidates, Tier(said.tier), Path(folder)))
    if said.form == "json":
        print(json.dumps(asdict(report), indent=1))
        return
    for name, counts in sorted(report.outcomes.items()):
        print(f"  {name:20} " + ", ".join(f"{n} {status}" for status, n in counts.items()))
    verdict = "met" if report.ready_p99_ms <= GOAL_MS and not report.lost else "MISSED"
    print(
        f"{report.candidates} candidates of {len(report.outcomes)} kinds at tier {report.tier} in "
        f"{report.seconds:.0f} s: {report.wrong} not as expected, {report.lost} good ones lost, "
        f"device {report.health}, {report.left_behind} processes left behind"
    )
    print(
        f"ready again after p50 {report.ready_p50_ms:.1f}, p99 {report.ready_p99_ms:.1f}, at most "
        f"{report.ready_max_ms:.1f} ms beyond a good candidate's {report.good_p50_ms:.1f} ms; goal "
        f"p99 <= {GOAL_MS:.0f} ms {verdict}; a session opens in {report.open_p50_ms:.1f} ms"
    )


if __name__ == "__main__":
    main()
