"""A matrix product of 1024 x 1024 x 1024, tuned, beside onnxruntime and PyTorch.

    python benchmarks/matmul.py [--size 1024] [--trials 128] [--threads 1]
                                [--records sqlite:///r.db] [-o json]

Two rows: both operands change with every call, so that packing them is part of the time; and
the second operand is a weight, packed ahead, as onnxruntime does with constants. See
`operators.py` for what is timed.
"""

from __future__ import annotations

import sys

import harness
import loopwright as lw
import operators
from harness import figure
from loopwright.peers.wire import OpSpec
from operators import Case


def cases(size: int, threads: int) -> list[Case]:
    """The product with and without a constant second operand."""
    shape = (size, size)
    found = []
    for name, constant in (("matmul", False), ("matmul, constant b", True)):
        task = lw.task("matmul", a=shape, b=shape, constant_b=constant, threads=threads)
        spec = OpSpec(task.operator, dict(task.attrs))
        found.append(Case(name, f"{size}x{size}x{size}", task, spec))
    return found


def main(argv: list[str]) -> int:
    """Tune, time, print; exit code 0."""
    parser = harness.parser(__doc__)
    operators.add_options(parser)
    parser.add_argument("--size", type=int, default=1024, help="rows, columns and depth")
    args = parser.parse_args(argv)
    options = operators.options(args)
    machine = harness.describe()
    rows = operators.tune_and_measure(cases(args.size, args.threads), options)
    goal = 0.85 if args.size == 1024 and args.threads == 1 else None
    figures = [
        figure(f"{row.name}, share of the FMA peak", row.share, at_least=goal) for row in rows
    ]
    figures += [
        figure(f"{row.name}, share of FMAs fed from the L1 cache", row.fed_share)
        for row in rows
        if row.fed_share is not None
    ]
    found = harness.report(f"matmul-{args.threads}", machine, figures, rows)
    harness.emit(found, operators.table(rows, options, "Matrix product"), args.output)
    return 0


if __name__ == "__main__":
    sys.exit(harness.run(main))
