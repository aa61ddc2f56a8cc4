"""A thousand hostile candidates through one session of an agent: is the device there afterwards?

    python benchmarks/fleet_hostile.py [--quick] [-o json]

Kinds take turns in a random order, confined as tier 1 does. After each, the time until a good
candidate's result is back is how long the device took to be ready again, less what the same good
candidate takes after a good one. A device is lost when the good one has no result, or when the
device does not call itself good at the end.
"""

from __future__ import annotations

import asyncio
import hashlib
import secrets
import statistics
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

import harness
from fleet_part import Part, Row, run_alone
from harness import figure
from hostile_kernels import Hostile, N, hostile
from loopwright.fleet.agent.agent import Agent
from loopwright.fleet.agent.options import AgentOptions, DeviceOptions, Timers
from loopwright.fleet.security.handshake import open_session
from loopwright.fleet.security.tickets import Ticket, seal, session_key
from loopwright.fleet.wire.link import Link, pair
from loopwright.fleet.wire.messages import (
    Close,
    PutHead,
    Result,
    RunBatch,
    Stored,
)
from loopwright.fleet.words import Health, Occupancy, RunStatus, Tier
from loopwright.kernel_call import KernelCall, WireParam
from loopwright.outcome import cores_for
from loopwright.runtime.cpu.native import object_code

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
    seconds: float = 0.0
    health: str = ""
    left_behind: int = 0


def item(code: bytes, entry: str, timeout_ms: int) -> KernelCall:
    """A run of a kernel of `hostile_kernels`."""
    params = tuple(WireParam(name, "float32", (N,), ((0, 1, 0),)) for name in "xy")
    return KernelCall(
        0, code, entry, params, 1, 256, 1, 0, False, 1, 1, 100, timeout_ms, MEMORY
    )  # fmt: skip


async def run(link: Link, one: KernelCall) -> tuple[Result, float]:
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


async def endure(candidates: int, tier: Tier, folder: Path) -> Report:
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
        report.tier = int(device.prober.tier)
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
        report.health = device.health.value
        report.left_behind = len(_below(device.driver.pids[0])) - 1
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


def _below(pid: int) -> list[int]:
    found = [pid]
    for one in found:
        path = Path(f"/proc/{one}/task/{one}/children")
        found += [int(word) for word in path.read_text().split()] if path.exists() else []
    return found


def measure(quick: bool) -> Part:  # noqa: FBT001  # as all parts of fleet.py
    """What a thousand of them do to a device."""
    candidates = 120 if quick else 1000
    harness.progress(f"{candidates:,} hostile candidates")
    with tempfile.TemporaryDirectory() as folder:
        report = asyncio.run(endure(candidates, Tier.T1, Path(folder)))
    lost = report.lost + (report.health != Health.GOOD.value)
    figures = (
        figure("hostile candidates", report.candidates, at_least=float(candidates)),
        figure("kinds of them", len(report.outcomes), at_least=20.0),
        figure("devices lost to them", lost, at_most=0.0),
        figure("ready again after one, p99", report.ready_p99_ms, "ms", at_most=GOAL_MS),
    )
    rows = (
        Row("tier of the sandbox", report.tier),
        Row("outcomes other than expected", report.wrong),
        Row("processes left behind", report.left_behind),
        Row("a good candidate, p50", report.good_p50_ms, "ms"),
        Row("ready again after a hostile one, p50", report.ready_p50_ms, "ms"),
        Row("ready again after a hostile one, at most", report.ready_max_ms, "ms"),
        Row("all of them", report.seconds, "s"),
    )
    notes = (
        f"  {name:20} " + ", ".join(f"{n} {status}" for status, n in counts.items())
        for name, counts in sorted(report.outcomes.items())
    )
    return Part(figures, rows, tuple(notes))


if __name__ == "__main__":
    sys.exit(harness.run(lambda words: run_alone("fleet_hostile", __doc__, measure, words)))
