"""Tuning one operator and timing its program in turns with the peers, for conv.py and matmul.py.

What is timed is the same for everybody: one call of the operator on the same cores, round after
round A-B-A-B, medians of at least 15 figures. Ours is the kernel in its own blocked layout with
packed weights and, beside it, the whole call on plain arrays. A peer gets plain arrays (PyTorch
the fastest of its forms, see `loopwright.peers`), and, where it tells the time of its kernel
alone, that counts too: the best peer is the smallest of all these figures.
"""

from __future__ import annotations

import argparse
import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from rich.table import Table

import harness
import loopwright as lw
from loopwright.api.program import example_inputs
from loopwright.peers.compare import KERNEL, PLAIN, Comparison, TimingPlan, compare, peers_on
from loopwright.peers.peer import OPERATOR_PEERS
from loopwright.peers.wire import OpSpec
from loopwright.runtime.cpu.machine import FmaBurst, fed_fma_burst, fma_burst, measure_fma_peak

PEAK, FED = "fma peak", "fed fma"
_Peaks: TypeAlias = tuple[float, float, float | None]
"""GFLOP/s in turns, at best, and with operands from the L1 cache."""


@dataclass(frozen=True, slots=True)
class Case:
    """An operator to tune and time; `spec` says to the peers what it is."""

    name: str
    shape: str
    task: lw.Task
    spec: OpSpec


@dataclass(frozen=True, slots=True)
class PeerTime:
    """A peer on one operator. `kernel_ns` is its kernel alone, where it tells."""

    peer: str
    form: str
    ns: float
    spread: float
    kernel_ns: float | None

    @property
    def best_ns(self) -> float:
        """The smaller of the call's time and the kernel's."""
        return self.ns if self.kernel_ns is None else min(self.ns, self.kernel_ns)


@dataclass(frozen=True, slots=True)
class OperatorRow:
    """One operator: medians in nanoseconds; a spread is the interquartile range over the median.

    `peak_gflops` is the FMA kernel that `loopwright doctor` runs: on one thread timed in turns with
    the others (median), on more the higher of a measurement before and one after. `burst_gflops` is
    always the latter, the best of short bursts. `share` is ours of `peak_gflops`.

    `fed_gflops` is a register tile whose operands come from the L1 cache (`fed_fma_burst`), in
    turns too: what a kernel can reach just then, beside the neighbours that the host has.
    One thread only.
    """

    name: str
    shape: str
    flops: int
    trials: int
    config: str
    ns: float
    spread: float
    figures: int
    gflops: float
    peak_gflops: float
    burst_gflops: float
    share: float
    fed_gflops: float | None
    fed_share: float | None
    plain_ns: float
    peers: tuple[PeerTime, ...]
    best_peer: str | None
    ratio: float | None
    plain_ratio: float | None


@dataclass(frozen=True, slots=True)
class Options:
    """What `add_options` adds, read."""

    threads: int
    trials: int
    records: str
    policy: str
    seed: int
    engines: tuple[str, ...]
    rounds: int


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of tuning and comparing to `parser`."""
    parser.add_argument("--threads", type=int, default=1, help="threads of every contender")
    parser.add_argument("--trials", type=int, default=128, help="trials an operator")
    parser.add_argument("--records", help="where records are kept; out/benchmarks.db without")
    parser.add_argument("--policy", default="model", help="search policy")
    parser.add_argument("--seed", type=int, default=0, help="seed of the search")
    parser.add_argument("--peers", default="onnxruntime,torch", help="libraries to compare with")
    parser.add_argument(
        "--rounds", type=int, default=7, help="turns of each contender, 3 figures a turn"
    )


def options(args: argparse.Namespace) -> Options:
    """The options that were given."""
    url = harness.records_url(args.records)
    engines = harness.installed(args.peers, OPERATOR_PEERS)
    return Options(args.threads, args.trials, url, args.policy, args.seed, engines, args.rounds)


def tune_and_measure(cases: Sequence[Case], options: Options) -> list[OperatorRow]:
    """A row for each of `cases`: first all are tuned, then all are timed in turns with peers."""
    programs = [_tuned(case, options) for case in cases]
    rows = []
    with peers_on(options.engines, options.threads) as peers:
        for case, (program, trials) in zip(cases, programs, strict=True):
            harness.progress(f"{case.name}: timing")
            before = measure_fma_peak(options.threads)
            plan = TimingPlan(options.rounds)
            calls = dict(_calls(program))
            bursts: dict[str, FmaBurst] = {}
            if options.threads == 1:
                bursts = {PEAK: fma_burst(), FED: fed_fma_burst()}
            calls |= {name: burst.run for name, burst in bursts.items()}
            found = compare(calls, peers, case.spec, case.task.flops, plan)
            best = max(before, measure_fma_peak(options.threads))
            speeds = {n: b.flops / found.ours[n].median_ns for n, b in bursts.items()}
            peaks = (speeds.get(PEAK, best), best, speeds.get(FED))
            rows.append(_row(case, program, trials, found, peaks))
    return rows


def _tuned(case: Case, options: Options) -> tuple[lw.Program, int]:
    """The best program after the trials of `options`, and how many the records hold.

    Trials in the records count: the second time nothing is measured.
    """
    result = lw.tune(
        case.task,
        trials=options.trials,
        records=options.records,
        policy=options.policy,
        seed=options.seed,
    )
    failed = sum(result.failures.values())
    harness.progress(
        f"{case.name}: {result.gflops:.1f} GFLOP/s after {result.trials} trials, {failed} failed"
    )
    return lw.build(case.task, records=options.records), result.trials


def _calls(program: lw.Program) -> Mapping[str, Callable[[], object]]:
    """The calls that are timed; weights are laid out before, as every peer does."""
    task = program.task
    arrays = dict(zip(program.inputs, example_inputs(task), strict=True))
    weights = {name: a for name, a in arrays.items() if name in task.workload.constants}
    data = [array for name, array in arrays.items() if name not in weights]
    bound = program.bind(**weights) if weights else program
    return {KERNEL: bound.timed_call(*data), PLAIN: functools.partial(bound, *data)}


def _row(
    case: Case, program: lw.Program, trials: int, found: Comparison, peaks: _Peaks
) -> OperatorRow:
    peak, burst, fed = peaks
    ours, plain = found.ours[KERNEL], found.ours[PLAIN]
    peers = tuple(
        PeerTime(
            name,
            found.forms[name],
            timing.median_ns,
            timing.spread,
            found.peer_kernels[name].median_ns if name in found.peer_kernels else None,
        )
        for name, timing in found.peers.items()
    )
    best = min(peers, key=lambda peer: peer.best_ns, default=None)
    gflops = found.gflops(ours)
    return OperatorRow(
        name=case.name,
        shape=case.shape,
        flops=found.flops,
        trials=trials,
        config=str(program.config),
        ns=ours.median_ns,
        spread=ours.spread,
        figures=len(ours.ns),
        gflops=gflops,
        peak_gflops=peak,
        burst_gflops=burst,
        share=gflops / peak,
        fed_gflops=fed,
        fed_share=None if fed is None else gflops / fed,
        plain_ns=plain.median_ns,
        peers=peers,
        best_peer=best.peer if best else None,
        ratio=found.ratio,
        plain_ratio=min(p.ns for p in peers) / plain.median_ns if peers else None,
    )


def table(rows: Sequence[OperatorRow], options: Options, title: str) -> Table:
    """The rows for a person. A peer's kernel alone, where it tells, is in brackets."""
    columns = [
        "",
        "operator",
        ">trials",
        ">ms",
        ">GFLOP/s",
        ">of peak",
        ">of fed",
        ">plain ms",
    ]
    columns += [f">{name} ms" for name in options.engines]
    columns += [">best peer", ">ratio"]
    threads = f"{options.threads} thread{'s' if options.threads > 1 else ''}"
    lines = [_cells(row, options.engines) for row in rows]
    return harness.rows_table(columns, lines, title=f"{title}, {threads}")


def _cells(row: OperatorRow, engines: Sequence[str]) -> list[str]:
    times = {peer.peer: peer for peer in row.peers}
    shown = [
        row.name,
        row.shape,
        str(row.trials),
        f"{row.ns / 1e6:.3f}",
        f"{row.gflops:.1f}",
        f"{row.share:.1%}",
        "" if row.fed_share is None else f"{row.fed_share:.1%}",
        f"{row.plain_ns / 1e6:.3f}",
    ]
    shown += [_peer_cell(times[name]) if name in times else "-" for name in engines]
    ratio = "-" if row.ratio is None else f"{row.ratio:.2f}"
    return [*shown, row.best_peer or "-", ratio]


def _peer_cell(peer: PeerTime) -> str:
    kernel = "" if peer.kernel_ns is None else f" ({peer.kernel_ns / 1e6:.3f})"
    return f"{peer.ns / 1e6:.3f}{kernel}"
