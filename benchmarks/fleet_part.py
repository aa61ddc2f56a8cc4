"""One part of what `fleet.py` prints, and how such a part is run alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import harness
from harness import Figure


@dataclass(frozen=True, slots=True)
class Row:
    """One measurement of what `name` says, beside the figures; `value` in `unit`."""

    name: str
    value: float
    unit: str = ""


@dataclass(frozen=True, slots=True)
class Part:
    """What one of `fleet_*.py` found: figures, most with a goal, and what explains them."""

    figures: tuple[Figure, ...]
    rows: tuple[Row, ...] = field(default_factory=tuple)
    notes: tuple[str, ...] = field(default_factory=tuple)


@dataclass(frozen=True, slots=True)
class Beside:
    """A figure of a part, and in words what apache-tvm does; empty where it has nothing like it."""

    part: str
    figure: Figure
    tvm: str


def run_alone(
    name: str, doc: str | None, measure: Callable[[bool], Part], arguments: Sequence[str]
) -> int:
    """Run the command of one part: `--quick`, `-o json`. The exit code is 0."""
    options = harness.parser(doc)
    options.add_argument("--quick", action="store_true", help="less of everything")
    given = options.parse_args(arguments)
    machine = harness.describe()
    found = measure(given.quick)
    cells = [[row.name, f"{harness.show(row.value)} {row.unit}".strip()] for row in found.rows]
    shown = harness.rows_table(["", ">"], cells)
    harness.emit(harness.report(name, machine, found.figures, found.rows), shown, given.output)
    for note in found.notes:
        harness.progress(note)
    return 0
