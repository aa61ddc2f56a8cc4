"""Whether tuning on a fleet finds what tuning here finds: C2 of ResNet-18, as many trials each.

    python benchmarks/fleet_tune.py [--quick] [-o json]

First on this machine alone, then through a tracker and two agents in processes of their own, each
of which has a core. Both use the same seed; which trials they make differs, as a policy learns from
what has come back by then. Both bests are then timed here, in turns, by the runner of this machine.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from pathlib import Path

import harness
import resnet18
from fleet_part import Part, Row, run_alone
from fleet_roles import real_fleet
from harness import figure
from loopwright.api.tune import tune
from loopwright.build.compile import compile_config
from loopwright.errors import InternalError
from loopwright.fleet.local import LocalRunner
from loopwright.measure.request import MeasureRequest
from loopwright.outcome import Timed, cores_for
from loopwright.space.config import Config
from loopwright.templates.task import Task

GOAL_BEST = 0.97


def tuned(task: Task, trials: int, seed: int) -> tuple[Config, Config, float, float]:
    """The best configs found here and on two agents, and trials a second of each."""
    with tempfile.TemporaryDirectory(prefix="lw-") as name:
        folder = Path(name)
        begin = time.perf_counter()
        here = tune(task, trials, records=f"sqlite:///{folder}/here.db", seed=seed).best
        spent = time.perf_counter() - begin
        with real_fleet(folder, cores_for(2)) as (fleet, _):
            begin = time.perf_counter()
            url = f"sqlite:///{folder}/fleet.db"
            there = tune(task, trials, records=url, seed=seed, fleet=fleet).best
            spent_there = time.perf_counter() - begin
    if here is None or there is None:
        raise InternalError("no trial of C2 worked")
    return here.config, there.config, trials / spent, trials / spent_there


def timed_us(task: Task, configs: tuple[Config, ...], rounds: int) -> list[float]:
    """Microseconds of each of `configs`, timed here in turns: the medians."""
    seen: list[list[float]] = [[] for _ in configs]
    with LocalRunner(compile_config) as runner:
        for _ in range(rounds):
            for config, times in zip(configs, seen, strict=True):
                outcome = runner.submit(MeasureRequest(task, config)).result()
                if not isinstance(outcome, Timed):
                    raise InternalError(f"the best of C2 does not run: {outcome}")
                times.append(outcome.best_ns / 1e3)
    return [statistics.median(times) for times in seen]


def measure(quick: bool) -> Part:  # noqa: FBT001  # as all parts of fleet.py
    """Tune C2 twice."""
    trials = 64 if quick else 256
    (layer,) = resnet18.select("C2")
    task = layer.task()
    harness.progress(f"C2 is tuned here and on two agents, {trials} trials each")
    here, there, rate, rate_there = tuned(task, trials, 0)
    here_us, there_us = timed_us(task, (here, there), 5)
    figures = (
        figure("best on two agents, of the best here", here_us / there_us, at_least=GOAL_BEST),
    )
    rows = (
        Row(f"best of {trials} trials here", here_us, "us"),
        Row(f"best of {trials} trials on two agents", there_us, "us"),
        Row("trials a second here", rate, "1/s"),
        Row("trials a second on two agents", rate_there, "1/s"),
    )
    return Part(figures, rows)


if __name__ == "__main__":
    sys.exit(harness.run(lambda words: run_alone("fleet_tune", __doc__, measure, words)))
