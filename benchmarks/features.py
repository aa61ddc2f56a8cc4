"""How many candidates a second are described by features, without lowering any, on one core.

    python benchmarks/features.py [--layers C2,C6,C9,C12] [--candidates 16384] [-o json]

Valid points of each layer's space are drawn, then `learn.features.featurize` describes all of
them; the median of several runs counts. A sample of them is described again one config at a
time, through a schedule with plain numbers, and compared.
"""

from __future__ import annotations

import os
import statistics
import sys
import time
from dataclasses import dataclass

import numpy as np

import harness
import loopwright as lw
import resnet18
from harness import figure
from loopwright.learn.features import NAMES, features_of, featurize
from loopwright.sched.extent import IntArray


@dataclass(frozen=True, slots=True)
class Row:
    """One layer. `error`: the largest difference to one config at a time, relative to 1 + |x|."""

    name: str
    shape: str
    candidates: int
    structures: int
    per_s: float
    spread: float
    one_at_a_time_per_s: float
    compared: int
    error: float


def measure(layer: resnet18.Layer, candidates: int, compared: int, repeats: int) -> Row:
    """The speed and the error on one layer."""
    task = layer.task()
    points = task.space.sample(np.random.default_rng(0), candidates)
    featurize(task, points)
    times = []
    for _ in range(repeats):
        begin = time.perf_counter()
        featurize(task, points)
        times.append(time.perf_counter() - begin)
    low, _, high = statistics.quantiles(times, n=4)
    error, single_s = difference(task, points[:compared])
    return Row(
        name=layer.name,
        shape=layer.shape,
        candidates=candidates,
        structures=len(task.space.batches(points)),
        per_s=candidates / statistics.median(times),
        spread=(high - low) / statistics.median(times),
        one_at_a_time_per_s=min(compared, candidates) / single_s,
        compared=min(compared, candidates),
        error=error,
    )


def difference(task: lw.Task, points: IntArray) -> tuple[float, float]:
    """The largest difference to features of one config at a time, and the seconds these took."""
    batched = featurize(task, points)
    begin = time.perf_counter()
    single = np.concatenate([features_of(task, task.space.decode(point)) for point in points])
    spent = time.perf_counter() - begin
    return float((np.abs(batched - single) / (1.0 + np.abs(single))).max()), spent


def main(argv: list[str]) -> int:
    """Measure, print; exit code 0."""
    parser = harness.parser(__doc__)
    parser.add_argument("--layers", default="C2,C6,C9,C12", help="layers of ResNet-18")
    parser.add_argument("--candidates", type=int, default=16384, help="candidates at once")
    parser.add_argument("--compared", type=int, default=256, help="of these, described one by one")
    parser.add_argument("--repeats", type=int, default=15, help="runs, of which the median counts")
    args = parser.parse_args(argv)
    machine = harness.describe()
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    rows = [
        measure(layer, args.candidates, args.compared, args.repeats)
        for layer in resnet18.select(args.layers)
    ]
    slowest = min(row.per_s for row in rows)
    figures = [
        figure("features, one core, slowest layer", slowest, "candidates/s", at_least=50_000),
        figure("difference to one at a time", max(r.error for r in rows), at_most=1e-6),
    ]
    columns = ["", "layer", ">candidates", ">structures", ">per s", ">one at a time", ">difference"]
    lines = [
        [
            row.name,
            row.shape,
            str(row.candidates),
            str(row.structures),
            f"{row.per_s:,.0f}",
            f"{row.one_at_a_time_per_s:,.0f}",
            f"{row.error:.1e}",
        ]
        for row in rows
    ]
    title = f"{len(NAMES)} features a candidate, one core"
    shown = harness.rows_table(columns, lines, title=title)
    harness.emit(harness.report("features", machine, figures, rows), shown, args.output)
    return 0


if __name__ == "__main__":
    sys.exit(harness.run(main))
