"""The bundled models, tuned, beside onnxruntime and OpenVINO.

    python benchmarks/models.py [--models resnet18,dqn] [--threads 1,2] [--time-budget 60s]
                                [--compare onnxruntime,openvino] [--records sqlite:///r.db]
                                [--save] [-o json]

float32, batch 1, seeded weights. Each model is made of the best programs on record, those that come
with the package included; with --time-budget it is tuned first. Every engine runs in a process of
its own, on the same cores, in turns; a time is the median of `--rounds` turns. The error is the
largest difference of our outputs from onnxruntime's, as a share of their scale. Memory is the most
that the process of an engine had after loading the model and running it once, its library
included.
"""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass

from rich.table import Table

import harness
from harness import Figure, figure
from loopwright.cli.common import parse_duration
from loopwright.deploy.optimize import optimize
from loopwright.errors import ConfigError
from loopwright.frontends.onnx.bundled import bundled
from loopwright.outcome import cores_for
from loopwright.peers.peer import MODEL_PEERS
from loopwright.report.compare import OURS, ModelComparison, compare_model

GOALS = {
    "resnet18": 1.5,
    "vgg19": 2.0,
    "resnet50": 1.2,
    "inception_v3": 1.1,
    "densenet121": 1.1,
    "mobilenet_v1": 1.0,
    "mobilenet_v2": 1.0,
    "dqn": 0.9,
    "dcgan": 0.9,
    "lstm_lm": 0.9,
    "bert_base": 0.9,
}
"""How many times as fast as the faster of the peers each model must be."""
MAX_ERROR = 1e-4
RATIO_NAME = ", against the faster peer"


@dataclass(frozen=True, slots=True)
class ModelRow:
    """One model. Times are medians in ns by engine; `peak_bytes` and `load_s` likewise."""

    name: str
    threads: int
    ns: dict[str, float]
    spread: float
    ratio: float | None
    error: float | None
    kernels: dict[str, int]
    peak_bytes: dict[str, int]
    load_s: dict[str, float]
    speedup: float

    @property
    def goal(self) -> float:
        """What the ratio must reach."""
        return GOALS.get(self.name, 1.0)


@dataclass(frozen=True, slots=True)
class Setup:
    """How models are made and timed; `seconds` of tuning for each before, 0 for none."""

    threads: int
    engines: tuple[str, ...]
    seconds: float
    records: str | None
    rounds: int


def measure(name: str, setup: Setup) -> ModelRow:
    """Make a model, write it, and time it beside the peers."""
    path = harness.out_folder("models") / f"{name}-{setup.threads}.lw"
    harness.progress(f"{name}, {setup.threads} threads: making")
    made = optimize(
        name, path, threads=setup.threads, time_budget=setup.seconds, records=setup.records
    )
    harness.progress(f"{name}, {setup.threads} threads: timing")
    found = compare_model(path, name, setup.engines, setup.threads, setup.rounds)
    for why in found.refused.values():
        harness.progress(f"{name}: left out: {why}")
    return _row(found, dict(made.origins), made.checked.speedup)


def _row(found: ModelComparison, kernels: dict[str, int], speedup: float) -> ModelRow:
    return ModelRow(
        name=found.name,
        threads=found.threads,
        ns={name: timing.median_ns for name, timing in found.timings.items()},
        spread=found.timings[OURS].spread,
        ratio=found.ratio,
        error=found.error,
        kernels=kernels,
        peak_bytes={name: ready.peak_bytes for name, ready in found.ready.items()},
        load_s={name: ready.load_s for name, ready in found.ready.items()},
        speedup=speedup,
    )


def figures(rows: list[ModelRow]) -> list[Figure]:
    """The goals: ratios, errors, memory, and loading ResNet-18."""
    found = [
        figure(f"{row.name}{RATIO_NAME}", row.ratio, "x", at_least=row.goal)
        for row in rows
        if row.ratio is not None
    ]
    errors = [row.error for row in rows if row.error is not None]
    if errors:
        found.append(figure("largest error", max(errors), "of scale", at_most=MAX_ERROR))
    shares = [
        row.peak_bytes[OURS] / row.peak_bytes["onnxruntime"]
        for row in rows
        if row.peak_bytes.get("onnxruntime")
    ]
    if shares:
        found.append(
            figure("peak memory against onnxruntime, largest", max(shares), "x", at_most=1.0)
        )
    loads = [row.load_s[OURS] * 1e3 for row in rows if row.name == "resnet18"]
    found += [figure("loading resnet18", load, "ms", at_most=200.0) for load in loads]
    return found


def table(rows: list[ModelRow]) -> Table:
    """A line for each model."""
    peers = list(dict.fromkeys(name for row in rows for name in row.ns if name != OURS))
    columns = ["model", ">threads", ">ours ms", *(f">{name} ms" for name in peers)]
    columns += [">ratio", ">goal", ">error", ">memory MB, each", ">load ms, each"]
    lines = []
    for row in rows:
        cells = [row.name, str(row.threads), f"{row.ns[OURS] / 1e6:.2f}"]
        cells += [f"{row.ns[name] / 1e6:.2f}" if name in row.ns else "-" for name in peers]
        cells += [
            "-" if row.ratio is None else f"{row.ratio:.2f}",
            f"{row.goal:.1f}",
            "-" if row.error is None else f"{row.error:.0e}",
            " / ".join(f"{n / 1e6:.0f}" for n in row.peak_bytes.values()),
            " / ".join(f"{s * 1e3:.0f}" for s in row.load_s.values()),
        ]
        lines.append(cells)
    return harness.rows_table(columns, lines, title="Whole models")


def select(text: str) -> tuple[str, ...]:
    """The models that `text` (`resnet18,dqn`) names.

    Raises: ConfigError for one that does not come with the package.
    """
    names = tuple(dict.fromkeys(filter(None, text.split(","))))
    for name in names:
        if name not in bundled():
            raise ConfigError(f"there is no model {name!r}; there are {', '.join(bundled())}")
    return names


def thread_counts(text: str, output: str) -> tuple[int, ...]:
    """The numbers of threads that `text` (`1,2`) names.

    Raises: ConfigError for what is no such list, for more threads than cores, and for several
        where one JSON object is asked for.
    """
    if not re.fullmatch(r"[1-9]\d*(,[1-9]\d*)*", text):
        raise ConfigError(f"--threads {text!r} is not a list of numbers, as 1,2")
    counts = tuple(dict.fromkeys(int(part) for part in text.split(",")))
    if output == "json" and len(counts) > 1:
        raise ConfigError(f"--threads {text} makes several reports, -o json prints one; add --save")
    for count in counts:
        cores_for(count)
    return counts


def main(argv: list[str]) -> int:
    """Make, time, print; exit code 0."""
    parser = harness.parser(__doc__)
    parser.add_argument("--models", default=",".join(GOALS), help="which, by name")
    parser.add_argument(
        "--threads", default="1", help="of every engine; one report for each of 1,2"
    )
    parser.add_argument("--time-budget", default="", help="how long to tune each first, as 60s")
    parser.add_argument("--compare", default="onnxruntime,openvino", help="the peers")
    parser.add_argument("--records", default="", help="where records are, besides the package's")
    parser.add_argument("--rounds", type=int, default=15, help="turns of each engine")
    parser.add_argument(
        "--save", action="store_true", help="write benchmarks/results/models-N.json"
    )
    args = parser.parse_args(argv)
    names, counts = select(args.models), thread_counts(args.threads, args.output)
    engines = harness.installed(args.compare, MODEL_PEERS)
    seconds = parse_duration(args.time_budget) if args.time_budget else 0.0
    for threads in counts:
        machine = harness.describe()
        setup = Setup(threads, engines, seconds, args.records or None, args.rounds)
        rows = [measure(name, setup) for name in names]
        found = harness.report(f"models-{threads}", machine, figures(rows), rows)
        if args.save:
            harness.progress(f"wrote {harness.save(found)}")
        harness.emit(found, table(rows), args.output)
    return 0


if __name__ == "__main__":
    sys.exit(harness.run(main))
