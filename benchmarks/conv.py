"""The convolutions of ResNet-18, tuned, beside onnxruntime and PyTorch.

    python benchmarks/conv.py [--threads 2] [--trials 128] [--layers C2,C6]
                              [--records sqlite:///r.db] [-o json]

Direct convolution, float32, batch 1. Each layer is tuned first; records are kept, so that the
second time only the comparison runs. See `operators.py` for what is timed and how.
"""

from __future__ import annotations

import sys

import harness
import operators
import resnet18
from harness import Figure, figure
from loopwright.peers.compare import geometric_mean
from loopwright.peers.wire import OpSpec
from operators import Case, OperatorRow

NEAR_PEAK = ("C2", "C3", "C6", "C9")
"""The layers that must reach 90% of the FMA peak on one thread."""


def cases(layers: str, threads: int) -> list[Case]:
    """The layers that `layers` names, as tasks for `threads` threads."""
    found = []
    for layer in resnet18.select(layers):
        task = layer.task(threads)
        spec = OpSpec(task.operator, dict(task.attrs))
        found.append(Case(layer.name, layer.shape, task, spec))
    return found


def figures(rows: list[OperatorRow], threads: int) -> list[Figure]:
    """What must be reached: on one thread near the peak, and on any before the peers."""
    found = []
    if threads == 1:
        found += [
            figure(f"{row.name}, share of the FMA peak", row.share, at_least=0.9)
            for row in rows
            if row.name in NEAR_PEAK
        ]
        found += [
            figure(f"{row.name}, share of FMAs fed from the L1 cache", row.fed_share)
            for row in rows
            if row.name in NEAR_PEAK and row.fed_share is not None
        ]
        mean = geometric_mean(row.ratio for row in rows if row.ratio is not None)
        if mean is not None:
            found.append(figure("geometric mean against the best peer", mean, "x", at_least=1.0))
            least = min(row.ratio for row in rows if row.ratio is not None)
            found.append(figure("least against the best peer", least, "x", at_least=0.9))
    for name in dict.fromkeys(peer.peer for row in rows for peer in row.peers):
        found += _against(rows, name, threads)
    plain = geometric_mean(row.plain_ratio for row in rows if row.plain_ratio is not None)
    if plain is not None:
        found.append(figure("on plain arrays at both ends, against the best peer", plain, "x"))
    found.append(figure("largest spread of ours", max(row.spread for row in rows)))
    return found


def _against(rows: list[OperatorRow], engine: str, threads: int) -> list[Figure]:
    """Geometric means against one peer: its kernels where it tells them, and its calls."""
    pairs = [(peer, row.ns) for row in rows for peer in row.peers if peer.peer == engine]
    calls = geometric_mean(peer.ns / ours for peer, ours in pairs)
    best = geometric_mean(peer.best_ns / ours for peer, ours in pairs)
    if calls is None or best is None:
        return []
    goal = 1.0 if engine == "onnxruntime" and threads > 1 else None
    found = [figure(f"geometric mean against {engine}", best, "x", at_least=goal)]
    if any(peer.kernel_ns is not None for peer, _ in pairs):
        found.append(figure(f"geometric mean against calls of {engine}", calls, "x"))
    return found


def main(argv: list[str]) -> int:
    """Tune, time, print; exit code 0."""
    parser = harness.parser(__doc__)
    operators.add_options(parser)
    parser.add_argument("--layers", default="all", help="layers, such as C2,C6")
    args = parser.parse_args(argv)
    options = operators.options(args)
    machine = harness.describe()
    rows = operators.tune_and_measure(cases(args.layers, args.threads), options)
    name = f"conv-{args.threads}"
    found = harness.report(name, machine, figures(rows, args.threads), rows)
    harness.emit(found, operators.table(rows, options, "Convolutions of ResNet-18"), args.output)
    return 0


if __name__ == "__main__":
    sys.exit(harness.run(main))
