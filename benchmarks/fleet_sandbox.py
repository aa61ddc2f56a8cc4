"""What the sandbox costs: time a candidate, and what it does to a kernel's figures.

    python benchmarks/fleet_sandbox.py [--quick] [-o json]

Two measuring processes, one confined as tier 1 and one not at all, take turns on one core with two
kernels: a chain of integer operations, and a sum over memory. Quoted are medians; the spread is
half the distance of the quartiles.
"""

from __future__ import annotations

import asyncio
import hashlib
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import msgspec

import harness
from fleet_part import Part, run_alone
from fleet_part import Row as Line
from harness import figure
from loopwright.errors import InternalError, UnsupportedError
from loopwright.fleet.agent.wardens import WardenHandle, WardenOptions, Worker
from loopwright.fleet.words import Tier
from loopwright.kernel_call import KernelCall, WireParam
from loopwright.outcome import cores_for
from loopwright.runtime.cpu.native import object_code, runtime_object
from loopwright.runtime.cpu.native_ir import CANARY
from loopwright.sandbox.wire import RunRequest

GOAL_MS, GOAL_SHARE = 1.0, 0.005
FLOATS = 4 << 20
_SUM = f"""
define void @sum(ptr %args, ptr %ws, ptr %parallel, ptr %pool) {{
  %x = load ptr, ptr %args
  %y.at = getelementptr ptr, ptr %args, i64 1
  %y = load ptr, ptr %y.at
  br label %loop
loop:
  %k = phi i64 [ 0, %0 ], [ %k.next, %loop ]
  %s = phi <8 x float> [ zeroinitializer, %0 ], [ %s.next, %loop ]
  %p = getelementptr float, ptr %x, i64 %k
  %v = load <8 x float>, ptr %p, align 32
  %s.next = fadd <8 x float> %s, %v
  %k.next = add i64 %k, 8
  %more = icmp ult i64 %k.next, {FLOATS}
  br i1 %more, label %loop, label %done
done:
  store <8 x float> %s.next, ptr %y, align 32
  ret void
}}
"""


@dataclass(frozen=True, slots=True)
class Row:
    """One kernel: milliseconds a candidate, nanoseconds a call, and what tier 1 adds."""

    kernel: str
    plain_ms: float
    confined_ms: float
    added_ms: float
    plain_ns: float
    confined_ns: float
    effect: float
    spread: float


def requests(cache_dir: Path, core: int) -> dict[str, RunRequest]:
    """What is measured, by name."""
    layout = ((0, 1, 0),)
    params = (
        WireParam("x", "float32", (FLOATS,), layout),
        WireParam("y", "float32", (8,), layout),
    )
    chain, total = runtime_object(cache_dir), object_code(_SUM, cache_dir)
    return {
        "integer chain": RunRequest(_call(chain, CANARY, (), 0), chain, (core,), of_runtime=True),
        "sum over 16 MiB": RunRequest(_call(total, "sum", params, 1), total, (core,)),
    }


def _call(code: bytes, entry: str, params: tuple[WireParam, ...], n_outputs: int) -> KernelCall:
    return KernelCall(
        id=0,
        code=hashlib.sha256(code).digest(),
        entry=entry,
        params=params,
        n_outputs=n_outputs,
        workspace=0,
        threads=1,
        seed=0,
        want_output=False,
        warmup=1,
        repeats=5,
        min_repeat_us=4000,
        run_timeout_ms=10_000,
        run_memory=1 << 30,
    )


async def timed(worker: Worker, request: RunRequest) -> tuple[float, float]:
    """Milliseconds that a candidate took beside its own calls, and its best figure."""
    start = time.perf_counter()
    reply = await worker.run(request, 60.0)
    spent = time.perf_counter() - start
    if reply.kind:
        raise InternalError(f"{reply.kind}: {reply.detail}")
    return (spent - reply.timed_s) * 1e3, min(reply.ns)


async def compare(rounds: int, cache_dir: Path) -> list[Row]:
    """A row a kernel."""
    core = cores_for(1)[0]
    wardens = {tier: await _warden(tier, cache_dir) for tier in (Tier.T0, Tier.T1)}
    workers = {t: await w.begin(time.monotonic() + 3600) for t, w in wardens.items()}
    for worker in workers.values():  # what a session's first request brings
        first = requests(cache_dir, core)["integer chain"]
        await timed(worker, msgspec.structs.replace(first, runtime=runtime_object(cache_dir)))
    rows: list[Row] = []
    for name, request in requests(cache_dir, core).items():
        seen: dict[Tier, list[tuple[float, float]]] = {tier: [] for tier in workers}
        for turn in range(rounds + 2):
            order = list(workers) if turn % 2 else list(workers)[::-1]
            for tier in order:
                figures = await timed(workers[tier], request)
                if turn >= 2:
                    seen[tier].append(figures)
        rows.append(_row(name, seen[Tier.T0], seen[Tier.T1]))
    for tier, warden in wardens.items():
        await workers[tier].end()
        await warden.close()
    return rows


async def _warden(tier: Tier, cache_dir: Path) -> WardenHandle:
    name, cores = f"bench{int(tier)}", cores_for(1)
    options = WardenOptions(name, cache_dir, cores, tier, 63_100, 8 << 30)
    warden = WardenHandle(options, lambda _: None)
    ready = await warden.start()
    if ready.tier != tier:
        missing = ", ".join(ready.missing)
        raise UnsupportedError(f"tier {int(tier)} is not possible on this machine: no {missing}")
    return warden


def _row(name: str, plain: list[tuple[float, float]], caged: list[tuple[float, float]]) -> Row:
    added = [c - p for (p, _), (c, _) in zip(plain, caged, strict=True)]
    effects = [c / p - 1 for (_, p), (_, c) in zip(plain, caged, strict=True)]
    quartiles = statistics.quantiles(effects, n=4)
    median = statistics.median
    return Row(
        name,
        median(ms for ms, _ in plain),
        median(ms for ms, _ in caged),
        median(added),
        median(ns for _, ns in plain),
        median(ns for _, ns in caged),
        median(effects),
        (quartiles[2] - quartiles[0]) / 2,
    )


def measure(quick: bool) -> Part:  # noqa: FBT001  # as all parts of fleet.py
    """Both kernels, in turns."""
    harness.progress("candidates with and without the sandbox, in turns")
    with tempfile.TemporaryDirectory() as folder:
        rows = asyncio.run(compare(30 if quick else 200, Path(folder)))
    worst = max(rows, key=lambda row: abs(row.effect))
    figures = (
        figure("sandbox, of a candidate", max(r.added_ms for r in rows), "ms", at_most=GOAL_MS),
        figure("sandbox, effect on a timed kernel", abs(worst.effect), at_most=GOAL_SHARE),
    )
    lines: list[Line] = []
    for row in rows:
        lines += [
            Line(f"{row.kernel}: a candidate beside its calls", row.plain_ms, "ms"),
            Line(f"{row.kernel}: confined", row.confined_ms, "ms"),
            Line(f"{row.kernel}: the figure", row.plain_ns / 1e3, "us"),
            Line(f"{row.kernel}: the figure, confined", row.confined_ns / 1e3, "us"),
            Line(f"{row.kernel}: spread of the effect", row.spread),
        ]
    return Part(figures, tuple(lines))


if __name__ == "__main__":
    sys.exit(harness.run(lambda words: run_alone("fleet_sandbox", __doc__, measure, words)))
