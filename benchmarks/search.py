"""How many trials each search policy needs, on recorded landscapes, without a device and noise.

    python benchmarks/search.py [--landscapes landscapes] [--only C2,C9] [--seeds 10]
                                [--trials 256] [--first-seed 0] [--plot out/search] [-o json]

For each seed the goal is what random search has found after 512 trials with that seed; a policy's
figure is the median over the seeds of the trials until it is as fast. A run that does not get
there counts as one that would with one trial more than it had.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

import harness
from harness import Figure, figure
from loopwright.api.replay import recorded_task
from loopwright.errors import ConfigError
from loopwright.learn.features import featurize
from loopwright.measure.landscape import Landscape, load
from loopwright.measure.replay import ReplayRunner
from loopwright.outcome import Timed
from loopwright.report.drawn import CurveLine
from loopwright.report.figure import Panel, draw
from loopwright.search.feature_table import FeatureTable
from loopwright.search.policies import make_policy
from loopwright.search.policy import Featurizer, Policy
from loopwright.search.result import Budget, Event, TrialDone
from loopwright.search.tuner import TuneOptions, tune_tasks
from loopwright.templates.task import Task

Floats: TypeAlias = npt.NDArray[np.float64]
POLICIES = ("random", "genetic", "autotvm", "model")
GOAL_TRIALS = 512
_SLOTS = 3  # requests in flight, as with the local runner
_MARKS = (32, 64, 128)


@dataclass(frozen=True, slots=True)
class SearchRow:
    """One policy on one landscape, medians over the seeds.

    `needed` is trials to random's best of 512, `needed_95` trials to 95% of the landscape's best
    speed; `at_32` and so on the share of the best speed that was reached by then.
    """

    landscape: str
    configs: int
    policy: str
    needed: float
    needed_95: float
    reached: int
    at_32: float
    at_64: float
    at_128: float


def curve(
    task: Task, scape: Landscape, policy: str, seed: int, trials: int, features: Featurizer
) -> Floats:
    """The best time after each trial of one run, ns [trials]; constant after the last one."""
    times: list[float] = []

    def note(event: Event) -> None:
        if isinstance(event, TrialDone):
            outcome = event.outcome
            times.append(outcome.best_ns if isinstance(outcome, Timed) else np.inf)

    def made(_: Task, rng: np.random.Generator) -> Policy:
        return make_policy(policy, scape.space, rng, features)

    runner = ReplayRunner(scape, slots=_SLOTS)
    options = TuneOptions(check=False)
    tune_tasks(
        [task], runner, made, budget=Budget(trials), seed=seed, options=options, on_event=note
    )
    best: Floats = np.minimum.accumulate(np.array(times))
    rest = np.full(trials - len(best), best[-1])
    return np.concatenate([best, rest])


def first(curves: Floats, goals: Floats) -> Floats:
    """The trial, from 1, at which each run is as fast as its goal; beyond the last if never."""
    there = curves <= goals[:, None]
    found = there.argmax(axis=1) + 1
    trial: Floats = np.where(there.any(axis=1), found, curves.shape[1] + 1).astype(np.float64)
    return trial


def row(scape: Landscape, policy: str, curves: Floats, goals: Floats) -> SearchRow:
    """The figures of one policy."""
    needed = first(curves, goals)
    close = first(curves, np.full(len(curves), scape.best_ns / 0.95))
    shares = [float(np.median(scape.best_ns / curves[:, mark - 1])) for mark in _MARKS]
    return SearchRow(
        landscape=scape.name,
        configs=len(scape),
        policy=policy,
        needed=float(np.median(needed)),
        needed_95=float(np.median(close)),
        reached=int((needed <= curves.shape[1]).sum()),
        at_32=shares[0],
        at_64=shares[1],
        at_128=shares[2],
    )


def panel(scape: Landscape, task: Task, curves: dict[str, Floats], goals: Floats) -> Panel:
    """The picture of one landscape: medians and quartiles of the best speed so far."""
    lines = []
    for policy, times in curves.items():
        speed = scape.flops / times
        quartiles = np.quantile(speed, [0.25, 0.5, 0.75], axis=0)
        low, mid, high = (tuple(values.tolist()) for values in quartiles)
        lines.append(CurveLine(policy, mid, low, high))
    goal = float(np.median(scape.flops / goals))
    title = f"{scape.name}: {task.operator}, {len(scape)} recorded configs"
    return Panel(title, tuple(lines), ((f"random after {GOAL_TRIALS}", goal),))


def compare(
    scape: Landscape, seeds: Sequence[int], trials: int, tell: Callable[[str], None]
) -> tuple[list[SearchRow], Panel]:
    """The rows of all policies on `scape`, and its picture."""
    task = recorded_task(scape)
    # One table for all runs: what is compared here is trials, not the time of the search.
    features = FeatureTable(scape.space, functools.partial(featurize, task))
    random = [curve(task, scape, "random", seed, GOAL_TRIALS, features) for seed in seeds]
    goals = np.array([times[-1] for times in random])
    curves = {"random": np.stack(random)}
    for policy in POLICIES[1:]:
        tell(f"{scape.name}: {policy}")
        runs = [curve(task, scape, policy, seed, trials, features) for seed in seeds]
        curves[policy] = np.stack(runs)
    rows = [row(scape, policy, times, goals) for policy, times in curves.items()]
    shown = {policy: times[:, :trials] for policy, times in curves.items()}
    return rows, panel(scape, task, shown, goals)


def figures(rows: Sequence[SearchRow]) -> list[Figure]:
    """What must be reached: 128 trials on each landscape, a fifth of AutoTVM's."""
    found = []
    by_policy = {(r.landscape, r.policy): r for r in rows}
    for name in dict.fromkeys(r.landscape for r in rows):
        model = by_policy[name, "model"]
        text = f"{name}, trials of model to the best of random at {GOAL_TRIALS}"
        found.append(figure(text, model.needed, at_most=128))
    for name in dict.fromkeys(r.landscape for r in rows):
        ratio = by_policy[name, "autotvm"].needed_95 / by_policy[name, "model"].needed_95
        text = f"{name}, trials of autotvm over model to 95% of the best"
        found.append(figure(text, ratio, "x", at_least=5.0))
    return found


def shown(rows: Sequence[SearchRow]) -> list[list[str]]:
    """The rows as text."""
    return [
        [
            r.landscape,
            str(r.configs),
            r.policy,
            f"{r.needed:g}",
            str(r.reached),
            f"{r.needed_95:g}",
            *(f"{share:.1%}" for share in (r.at_32, r.at_64, r.at_128)),
        ]
        for r in rows
    ]


def main(argv: list[str]) -> int:
    """Replay, print, draw; exit code 0."""
    parser = harness.parser(__doc__)
    root = Path(__file__).resolve().parent.parent / "landscapes"
    parser.add_argument("--landscapes", type=Path, default=root, help="folder of *.json.gz")
    parser.add_argument("--only", default="", help="names of landscapes, such as C2,C9")
    parser.add_argument("--seeds", type=int, default=10, help="runs of each policy")
    parser.add_argument("--first-seed", type=int, default=0, help="seeds count up from here")
    parser.add_argument("--trials", type=int, default=256, help="trials of each run but random's")
    parser.add_argument("--plot", type=Path, default=None, help="where to draw; .png, .svg added")
    args = parser.parse_args(argv)
    wanted = {name for name in args.only.split(",") if name}
    files = sorted(args.landscapes.glob("*.json.gz"))
    scapes = [scape for scape in map(load, files) if not wanted or scape.name in wanted]
    if not scapes or args.trials < max(_MARKS):
        raise ConfigError(
            f"{len(scapes)} landscapes in {args.landscapes} and {args.trials} trials: it takes one "
            f"landscape (tools/record_landscape.py) and {max(_MARKS)} trials at least"
        )
    seeds = range(args.first_seed, args.first_seed + args.seeds)
    rows: list[SearchRow] = []
    panels: list[Panel] = []
    for scape in scapes:
        some, picture = compare(scape, seeds, args.trials, harness.progress)
        rows += some
        panels.append(picture)
    if args.plot is not None:
        args.plot.parent.mkdir(parents=True, exist_ok=True)
        harness.progress(f"drawn to {' and '.join(draw(panels, args.plot))}")
    found = harness.report("search", harness.describe(), figures(rows), rows)
    columns = ["landscape", ">configs", "policy", ">to random's best", ">runs there"]
    columns += [">to 95%", *(f">at {mark}" for mark in _MARKS)]
    title = f"Trials to the best of random at {GOAL_TRIALS}, medians of {args.seeds} seeds"
    harness.emit(found, harness.rows_table(columns, shown(rows), title=title), args.output)
    return 0


if __name__ == "__main__":
    sys.exit(harness.run(main))
