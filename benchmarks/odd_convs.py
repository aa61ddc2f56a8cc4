"""Convolutions that few kernels are written for, and models of them, beside the peers.

    python benchmarks/odd_convs.py [--only gw8,resnext50] [--threads 1] [--time-budget 30s]
                                   [--compare onnxruntime,openvino] [--records sqlite:///r.db]
                                   [-o json]

Grouped convolutions whose groups are no multiple of a vector, uneven depthwise ones, few input
channels on a large map, three dimensions. Each is an ONNX model of one node, with plain arrays at
both ends for everybody; float32, batch 1. Every engine runs in a process of its own, on the same
cores, in turns; a time is the median of `--rounds` turns. Ours takes the programs on record, those
that come with the package included; with --time-budget each is tuned first.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

from rich.table import Table

import harness
from harness import Figure, figure
from loopwright.cli.common import parse_duration
from loopwright.deploy.optimize import optimize
from loopwright.errors import ConfigError
from loopwright.peers.compare import geometric_mean
from loopwright.peers.peer import MODEL_PEERS
from loopwright.report.compare import OURS, compare_model
from odd_models import MODELS, NetBuilder

LEAST, LEAST_MODEL = 0.7, 0.9
MAX_ERROR = 1e-4


@dataclass(frozen=True, slots=True)
class OddConv:
    """A convolution that keeps the size of its maps, up to the stride."""

    data: tuple[int, ...]
    weight: tuple[int, ...]
    stride: int = 1
    groups: int = 1

    def save(self, path: Path) -> Path:
        """Write it as a model; the path."""
        net = NetBuilder(self.data)
        made = net.conv("input", self.weight, stride=self.stride, groups=self.groups)
        return net.save(made, path)


CONVS = {
    "1x1g3-in": OddConv((1, 240, 28, 28), (60, 80, 1, 1), groups=3),
    "1x1g3-out": OddConv((1, 60, 28, 28), (240, 20, 1, 1), groups=3),
    "1x1g3-14": OddConv((1, 480, 14, 14), (120, 160, 1, 1), groups=3),
    "1x1g3-7": OddConv((1, 240, 7, 7), (960, 80, 1, 1), groups=3),
    "gw4": OddConv((1, 128, 56, 56), (128, 4, 3, 3), groups=32),
    "gw8-s2": OddConv((1, 256, 56, 56), (256, 8, 3, 3), stride=2, groups=32),
    "gw8": OddConv((1, 104, 28, 28), (104, 8, 3, 3), groups=13),
    "gw8-7": OddConv((1, 440, 7, 7), (440, 8, 3, 3), groups=55),
    "gw24": OddConv((1, 168, 28, 28), (168, 24, 3, 3), groups=7),
    "gw24-s2": OddConv((1, 72, 56, 56), (72, 24, 3, 3), stride=2, groups=3),
    "depthwise5x5-s2": OddConv((1, 100, 28, 28), (100, 1, 5, 5), stride=2, groups=100),
    "multiplier2": OddConv((1, 32, 56, 56), (64, 1, 3, 3), groups=32),
    "3to16-s2": OddConv((1, 3, 480, 640), (16, 3, 3, 3), stride=2),
    "conv3d": OddConv((1, 16, 16, 56, 56), (32, 16, 3, 3, 3)),
}
"""The convolutions, by name."""


@dataclass(frozen=True, slots=True)
class OddRow:
    """A convolution or a model. Times are medians in ns by engine."""

    name: str
    is_model: bool
    ns: dict[str, float]
    spread: float
    ratio: float | None
    error: float | None


@dataclass(frozen=True, slots=True)
class Setup:
    """How ours are made and all are timed; `seconds` of tuning before, 0 for none."""

    threads: int
    engines: tuple[str, ...]
    seconds: float
    records: str | None
    rounds: int


def measure(name: str, setup: Setup) -> OddRow:
    """Write the model, make ours of it, and time it beside the peers."""
    folder = harness.out_folder("odd")
    source = folder / f"{name}.onnx"
    source = CONVS[name].save(source) if name in CONVS else MODELS[name](source)
    path = folder / f"{name}-{setup.threads}.lw"
    optimize(
        str(source), path, threads=setup.threads, time_budget=setup.seconds, records=setup.records
    )
    found = compare_model(path, str(source), setup.engines, setup.threads, setup.rounds)
    for why in found.refused.values():
        harness.progress(f"{name}: left out: {why}")
    times = {engine: timing.median_ns for engine, timing in found.timings.items()}
    shown = "-" if found.ratio is None else f"{found.ratio:.2f}"
    harness.progress(f"{name}: {shown} of the fastest peer")
    spread = found.timings[OURS].spread
    return OddRow(name, name in MODELS, times, spread, found.ratio, found.error)


def figures(rows: list[OddRow]) -> list[Figure]:
    """The goals: the least ratio and the mean of the convolutions, and each model's."""
    ratios = {row.name: row.ratio for row in rows if row.ratio is not None and not row.is_model}
    found = []
    mean = geometric_mean(ratios.values())
    if mean is not None:
        least = min(ratios, key=lambda name: ratios[name])
        found = [
            figure("convolutions, geometric mean", mean, "x", at_least=1.0),
            figure(f"convolutions, least ({least})", ratios[least], "x", at_least=LEAST),
        ]
    found += [
        figure(row.name, row.ratio, "x", at_least=LEAST_MODEL)
        for row in rows
        if row.is_model and row.ratio is not None
    ]
    errors = [row.error for row in rows if row.error is not None]
    if errors:
        found.append(figure("largest error", max(errors), "of scale", at_most=MAX_ERROR))
    return found


def table(rows: list[OddRow], threads: int) -> Table:
    """A line for each convolution and model."""
    peers = list(dict.fromkeys(name for row in rows for name in row.ns if name != OURS))
    columns = ["", ">ours ms", *(f">{name} ms" for name in peers), ">ratio", ">spread", ">error"]
    lines = []
    for row in rows:
        cells = [row.name, f"{row.ns[OURS] / 1e6:.3f}"]
        cells += [f"{row.ns[name] / 1e6:.3f}" if name in row.ns else "-" for name in peers]
        cells.append("-" if row.ratio is None else f"{row.ratio:.2f}")
        cells += [f"{row.spread:.1%}", "-" if row.error is None else f"{row.error:.0e}"]
        lines.append(cells)
    title = f"Odd convolutions, {threads} thread{'s' if threads > 1 else ''}"
    return harness.rows_table(columns, lines, title=title)


def select(text: str) -> tuple[str, ...]:
    """The convolutions and models that `text` (`gw8,resnext50`) names; all of them for none.

    Raises: ConfigError for one that is not there.
    """
    names = tuple(dict.fromkeys(filter(None, text.split(","))))
    for name in names:
        if name not in CONVS and name not in MODELS:
            raise ConfigError(f"there is no {name!r}; there are {', '.join([*CONVS, *MODELS])}")
    return names or (*CONVS, *MODELS)


def main(argv: list[str]) -> int:
    """Make, time, print; exit code 0."""
    parser = harness.parser(__doc__)
    parser.add_argument("--only", default="", help="which convolutions and models, by name")
    parser.add_argument("--threads", type=int, default=1, help="of every engine")
    parser.add_argument("--time-budget", default="", help="how long to tune each first, as 60s")
    parser.add_argument("--compare", default="onnxruntime,openvino", help="the peers")
    parser.add_argument("--records", default="", help="where records are, besides the package's")
    parser.add_argument("--rounds", type=int, default=15, help="turns of each engine")
    args = parser.parse_args(argv)
    names = select(args.only)
    engines = harness.installed(args.compare, MODEL_PEERS)
    seconds = parse_duration(args.time_budget) if args.time_budget else 0.0
    machine = harness.describe()
    setup = Setup(args.threads, engines, seconds, args.records or None, args.rounds)
    rows = [measure(name, setup) for name in names]
    found = harness.report(f"odd_convs-{args.threads}", machine, figures(rows), rows)
    harness.emit(found, table(rows, args.threads), args.output)
    return 0


if __name__ == "__main__":
    sys.exit(harness.run(main))
