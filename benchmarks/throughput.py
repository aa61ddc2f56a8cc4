"""How long one candidate takes from space to object code, and how many trials a second a tuning
run makes.

    python benchmarks/throughput.py [--trials 256] [--builds 48] [-o json]

Both on C2 (56x56, 64>64, 3x3). Compiling: configs with a register tile of 14 columns by 2 vectors
(6 by 2 where there are 16 registers),
one builder process pinned to one core; the time in that process from the config to the
object code. Trials: one `lw.tune` with the model policy into records that are thrown away, from
the call to its return, processes started within.
"""

from __future__ import annotations

import os
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import harness
import loopwright as lw
import resnet18
from harness import figure
from loopwright.build.compile import compile_config
from loopwright.build.pool import BuilderPool
from loopwright.errors import InternalError
from loopwright.outcome import Failed, MeasurePlan, Timed
from loopwright.records.store import SqlStore
from loopwright.space.config import Config

VECTORS = 2


@dataclass(frozen=True, slots=True)
class Row:
    """One measurement; times in seconds. `failed` counts candidates that did not build or run.

    Tuning measures more often than it makes trials: what may be the best is measured twice.
    """

    name: str
    count: int
    measured: int
    failed: int
    wall_s: float
    median_build_s: float
    slowest_build_s: float
    median_run_s: float | None
    best_gflops: float | None


def tiled_configs(task: lw.Task, count: int, seed: int) -> list[Config]:
    """`count` configs of C2 whose register tile is one row of `tile_width` columns by 2 vectors."""
    space = task.space
    points = space.sample(np.random.default_rng(seed), 1 << 17)
    tile = space.values(points, "tile_w")[1] == tile_width(task)
    tile &= space.values(points, "rows")[2] == 1
    tile &= space.values(points, "oc")[2] == VECTORS
    chosen = points[tile]
    _, first = np.unique(space.keys(chosen), return_index=True)
    return [space.decode(point) for point in chosen[np.sort(first)[:count]]]


def tile_width(task: lw.Task) -> int:
    """Columns of the register tile: what the registers of the target have room for."""
    return 14 if task.target.registers >= 32 else 6


def compile_times(task: lw.Task, count: int) -> Row:
    """Building `count` candidates in one builder process on one core."""
    core = max(os.sched_getaffinity(0))
    configs = tiled_configs(task, count + 2, seed=0)
    with BuilderPool(compile_config, 1, (core,)) as pool:
        for config in configs[:2]:
            pool.submit(task, config, MeasurePlan()).result()
        begin = time.perf_counter()
        built = [pool.submit(task, config, MeasurePlan()).result() for config in configs[2:]]
        wall_s = time.perf_counter() - begin
    failed = [b.result for b in built if isinstance(b.result, Failed)]
    if failed:
        raise InternalError(f"a candidate of C2 does not build: {failed[0].detail}")
    times = [b.build_s for b in built]
    name = f"space to object code, tile {tile_width(task)}x{VECTORS}"
    return Row(name, len(times), 0, 0, wall_s, statistics.median(times), max(times), None, None)


def tuning(task: lw.Task, trials: int, seed: int) -> Row:
    """One tuning run from nothing."""
    with tempfile.TemporaryDirectory() as folder:
        url = f"sqlite:///{Path(folder) / 'r.db'}"
        begin = time.perf_counter()
        result = lw.tune(task, trials=trials, records=url, policy="model", seed=seed)
        wall_s = time.perf_counter() - begin
        with SqlStore(url, create=False) as store:
            outcomes = [record.outcome for record in store.query()]
    timed = [outcome for outcome in outcomes if isinstance(outcome, Timed)]
    if not timed:
        raise InternalError(f"none of {len(outcomes)} trials of C2 worked: {outcomes[:1]}")
    return Row(
        "trials, policy model",
        result.trials,
        len(outcomes),
        len(outcomes) - len(timed),
        wall_s,
        statistics.median(outcome.build_s for outcome in timed),
        max(outcome.build_s for outcome in timed),
        statistics.median(outcome.run_s for outcome in timed),
        result.gflops,
    )


def main(argv: list[str]) -> int:
    """Measure, print; exit code 0."""
    parser = harness.parser(__doc__)
    parser.add_argument("--trials", type=int, default=256, help="trials of the tuning run")
    parser.add_argument("--builds", type=int, default=48, help="candidates to build")
    parser.add_argument("--seed", type=int, default=0, help="seed of the search")
    args = parser.parse_args(argv)
    machine = harness.describe()
    (layer,) = resnet18.select("C2")
    task = layer.task()
    building = compile_times(task, args.builds)
    trials = tuning(task, args.trials, args.seed)
    rows = [building, trials]
    per_s = trials.count / trials.wall_s
    figures = [
        figure("space to object code, median", building.median_build_s * 1e3, "ms", at_most=80.0),
        figure(f"trials, {trials.count} of C2", per_s, "trials/s", at_least=8.0),
    ]
    columns = [
        "",
        ">count",
        ">measured",
        ">failed",
        ">wall s",
        ">build ms",
        ">slowest",
        ">run ms",
        ">best GFLOP/s",
    ]
    shown = harness.rows_table(columns, [_cells(row) for row in rows], title=f"C2, {layer.shape}")
    harness.emit(harness.report("throughput", machine, figures, rows), shown, args.output)
    return 0


def _cells(row: Row) -> list[str]:
    return [
        row.name,
        str(row.count),
        str(row.measured) if row.measured else "",
        str(row.failed),
        f"{row.wall_s:.1f}",
        f"{row.median_build_s * 1e3:.1f}",
        f"{row.slowest_build_s * 1e3:.1f}",
        "" if row.median_run_s is None else f"{row.median_run_s * 1e3:.1f}",
        "" if row.best_gflops is None else f"{row.best_gflops:.1f}",
    ]


if __name__ == "__main__":
    sys.exit(harness.run(main))
