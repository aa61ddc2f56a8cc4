"""Kernels by way of C beside the same kernels by way of LLVM.

    python benchmarks/clike.py [--layers C2,C6,C9] [--size 1024] [--rounds 15]
                               [--records sqlite:///r.db] [-o json]

Each row is one config on one thread, that of the best record or the one that is good without
tuning. Both programs are called in turns, so that what else the machine does hits both.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

import harness
import loopwright as lw
import resnet18
from harness import figure
from loopwright.api.program import best_record, example_inputs
from loopwright.codegen.clike.compiler import find_compiler
from loopwright.errors import RecordsError
from loopwright.peers.compare import geometric_mean
from loopwright.records.store import SqlStore
from loopwright.space.config import Config
from loopwright.templates.apply import good_config
from loopwright.templates.task import Task

_ROUND_NS = 30_000_000
"""How long each program runs in a round."""


@dataclass(frozen=True, slots=True)
class Row:
    """One kernel; `ratio` is the speed of the C one, of the LLVM one's, and its spread."""

    name: str
    c_ns: float
    llvm_ns: float
    ratio: float
    spread: float


def measure(name: str, task: Task, config: Config, rounds: int) -> Row:
    """Both programs in turns; each figure is a median over rounds."""
    inputs = example_inputs(task)
    calls = [
        lw.build(task, config=config, language=language).timed_call(*inputs)
        for language in ("c", "llvm")
    ]
    times: list[list[float]] = [[], []]
    for _ in range(rounds):
        for call, found in zip(calls, times, strict=True):
            found.append(_time(call))
    ratios = [llvm / c for c, llvm in zip(*times, strict=True)]
    quartiles = statistics.quantiles(ratios, n=4)
    middle = statistics.median(ratios)
    spread = (quartiles[2] - quartiles[0]) / middle
    c_ns, llvm_ns = (statistics.median(found) for found in times)
    return Row(name, c_ns, llvm_ns, middle, spread)


def _time(call: Callable[[], object]) -> float:
    """Nanoseconds of a call, the mean over `_ROUND_NS`."""
    begin = time.perf_counter_ns()
    count = 0
    while time.perf_counter_ns() - begin < _ROUND_NS:
        call()
        count += 1
    return (time.perf_counter_ns() - begin) / count


def _config(task: Task, url: str | None) -> Config:
    if url is None:
        return good_config(task)
    try:
        with SqlStore(url, create=False) as store:
            return best_record(task, store, url).config
    except RecordsError:
        return good_config(task)


def main(argv: list[str]) -> int:
    """Build, time, print; exit code 0."""
    parser = harness.parser(__doc__)
    parser.add_argument("--layers", default="C2,C6,C9", help="layers of ResNet-18")
    parser.add_argument("--size", type=int, default=1024, help="rows, columns and depth")
    parser.add_argument("--rounds", type=int, default=15, help="turns of both programs")
    parser.add_argument("--records", help="where the best configs are")
    args = parser.parse_args(argv)
    harness.progress(f"C compiler: {' '.join(find_compiler())}")
    machine = harness.describe()
    tasks = [(layer.name, layer.task(1)) for layer in resnet18.select(args.layers)]
    shape = (args.size, args.size)
    tasks.append(("matmul", lw.task("matmul", a=shape, b=shape, constant_b=True)))
    rows = []
    for name, task in tasks:
        rows.append(measure(name, task, _config(task, args.records), args.rounds))
        harness.progress(f"{name}: {rows[-1].ratio:.2f} of LLVM's speed")
    figures = [figure(f"{row.name}, speed of C beside LLVM", row.ratio, "x") for row in rows]
    mean = geometric_mean(row.ratio for row in rows)
    if mean is not None:
        figures.append(figure("geometric mean", mean, "x"))
    table = harness.rows_table(
        ["kernel", ">C ms", ">LLVM ms", ">C / LLVM speed", ">spread"],
        [
            (
                row.name,
                f"{row.c_ns / 1e6:.3f}",
                f"{row.llvm_ns / 1e6:.3f}",
                f"{row.ratio:.3f}",
                f"{row.spread:.1%}",
            )
            for row in rows
        ],
        title="Kernels by way of C and of LLVM, 1 thread",
    )
    harness.emit(harness.report("clike", machine, figures, rows), table, args.output)
    return 0


if __name__ == "__main__":
    sys.exit(harness.run(main))
