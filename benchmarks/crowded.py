"""Two threads beside a busy process: never much slower than one thread.

    python benchmarks/crowded.py [--models mobilenet_v2,MODEL] [--neighbours 1] [-o json]

float32, batch 1. Each model runs on one thread and on two, in turns, beside processes that spin; a
figure is the median over the turns of the mean time of a call, as a share of the time on one
thread. MODEL is the name of a bundled model or an ONNX file.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

import loopwright as lw
from harness import until_we_end
from loopwright.runtime.cpu.model import Model

GOAL = 1.1
"""The most that two threads may take, as a share of one thread's time."""
TURN_S = 0.3


@contextmanager
def neighbours(count: int) -> Iterator[None]:
    """Processes that spin."""
    command = until_we_end(sys.executable, "-c", "while True: pass")
    started = [subprocess.Popen(command) for _ in range(count)]
    try:
        yield
    finally:
        for process in started:
            process.kill()
            process.wait()


def mean_ms(model: Model, inputs: dict[str, np.ndarray]) -> float:
    """The mean time of a call over one turn."""
    calls, start = 0, time.perf_counter()
    while time.perf_counter() - start < TURN_S or not calls:
        model.run(inputs)
        calls += 1
    return (time.perf_counter() - start) / calls * 1e3


def measure(name: str, count: int, turns: int) -> dict[str, float]:
    """Median times in ms on one and two threads, and their ratio by turn."""
    rng = np.random.default_rng(0)
    with lw.compile(name, threads=1) as one, lw.compile(name, threads=2) as two:
        inputs = {p.name: rng.standard_normal(p.shape).astype(p.dtype) for p in one.inputs}
        with neighbours(count):
            rows = [(mean_ms(one, inputs), mean_ms(two, inputs)) for _ in range(turns)]
    return {
        "one_ms": statistics.median(row[0] for row in rows),
        "two_ms": statistics.median(row[1] for row in rows),
        "ratio": statistics.median(two / one for one, two in rows),
    }


def main() -> int:
    """Print a row for each model; 1 if one is over the goal."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--models", default="mobilenet_v2,dqn,resnet18")
    parser.add_argument("--neighbours", type=int, default=1)
    parser.add_argument("--turns", type=int, default=11)
    parser.add_argument("-o", "--output", choices=("table", "json"), default="table")
    options = parser.parse_args()
    rows = {
        name: measure(name, options.neighbours, options.turns) for name in options.models.split(",")
    }
    if options.output == "json":
        print(json.dumps(rows, indent=1))
    for name, row in rows.items() if options.output == "table" else ():
        print(
            f"{name:16} beside {options.neighbours}: one thread {row['one_ms']:8.2f} ms, two "
            f"{row['two_ms']:8.2f} ms, ratio {row['ratio']:.2f} (goal <= {GOAL})"
        )
    return int(any(row["ratio"] > GOAL for row in rows.values()))


if __name__ == "__main__":
    sys.exit(main())
