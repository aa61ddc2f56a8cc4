"""The result table: our programs beside the peers, as text and as JSON."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal, TypeAlias

from rich.table import Table

from loopwright.cli.common import describe, show_ns, table
from loopwright.peers.compare import KERNEL, PLAIN, geometric_mean

if TYPE_CHECKING:
    from loopwright.cli.bench import Row

Json: TypeAlias = "dict[str, Json] | list[Json] | str | float | int | None"


def as_table(label: str, threads: int, rows: Sequence[Row]) -> Table:
    """One line a task; ratios above 1 mean that ours is faster than a whole call of the peer."""
    peers = sorted({name for row in rows for name in row.comparison.peers})
    columns = ["", "task", ">kernel", ">GFLOP/s", ">plain"]
    for peer in peers:
        columns += [f">{peer}", ">GFLOP/s", ">ratio"]
    lines = []
    for row in rows:
        comparison = row.comparison
        kernel = comparison.ours[KERNEL]
        cells = [
            f"{row.part.count} x",
            describe(row.part.task.operator, row.part.task.attrs),
            show_ns(kernel.median_ns),
            f"{comparison.gflops(kernel):.1f}",
            show_ns(comparison.ours[PLAIN].median_ns) if PLAIN in comparison.ours else "",
        ]
        for peer in peers:
            cells += _peer_cells(row, peer)
        lines.append(cells)
    made = table(columns, lines, title=f"{label}, {threads} thread{'s' if threads > 1 else ''}")
    if peers:
        made.add_section()
        made.add_row(*_totals(rows, peers))
    return made


def _peer_cells(row: Row, peer: str) -> list[str]:
    timing, ratio = row.comparison.peers.get(peer), row.comparison.ratio_to(peer)
    if timing is None or ratio is None:
        return ["-", "-", "-"]
    return [show_ns(timing.median_ns), f"{row.comparison.gflops(timing):.1f}", f"{ratio:.2f}"]


def _totals(rows: Sequence[Row], peers: Sequence[str]) -> list[str]:
    """The last line: all operators as often as the model computes them, geometric mean ratios."""
    cells = ["", "all, as often as computed; geometric mean"]
    cells += [show_ns(_sum(rows, "ours", KERNEL)), "", show_ns(_sum(rows, "ours", PLAIN))]
    for peer in peers:
        mean = _mean_ratio(rows, peer)
        cells += [show_ns(_sum(rows, "peers", peer)), "", "-" if mean is None else f"{mean:.2f}"]
    return cells


def _sum(rows: Sequence[Row], kind: Literal["ours", "peers"], name: str) -> float:
    """Nanoseconds of all rows, each as often as the model computes it; NaN if one has no time."""
    total = 0.0
    for row in rows:
        timing = getattr(row.comparison, kind).get(name)
        total += math.nan if timing is None else timing.median_ns * row.part.count
    return total


def _mean_ratio(rows: Sequence[Row], peer: str) -> float | None:
    return geometric_mean(r for row in rows if (r := row.comparison.ratio_to(peer)) is not None)


def as_json(label: str, threads: int, rows: Sequence[Row], missing: Sequence[str]) -> Json:
    """The same figures as one JSON object; times are medians in nanoseconds."""
    peers = sorted({name for row in rows for name in row.comparison.peers})
    return {
        "model": label,
        "threads": threads,
        "ops": [_row_json(row) for row in rows],
        "missing": list(missing),
        "total_ns": {
            "kernel": _sum(rows, "ours", KERNEL),
            "plain": _sum(rows, "ours", PLAIN),
            **{peer: _number(_sum(rows, "peers", peer)) for peer in peers},
        },
        "geometric_mean_ratio": {peer: _mean_ratio(rows, peer) for peer in peers},
    }


def _row_json(row: Row) -> Json:
    comparison = row.comparison
    timings = {
        **comparison.ours,
        **comparison.peers,
        **{f"{name} kernel": timing for name, timing in comparison.peer_kernels.items()},
    }
    attrs: Json = {k: [*v] if isinstance(v, tuple) else v for k, v in row.part.task.attrs}
    return {
        "operator": row.part.task.operator,
        "attrs": attrs,
        "count": row.part.count,
        "flops": comparison.flops,
        "config": row.config,
        "ns": {name: timing.median_ns for name, timing in timings.items()},
        "spread": {name: timing.spread for name, timing in timings.items()},
        "gflops": {name: comparison.gflops(timing) for name, timing in timings.items()},
        "ratio": {name: comparison.ratio_to(name) for name in comparison.peers},
        "forms": dict(comparison.forms),
    }


def _number(value: float) -> float | None:
    """`value`, or None where it is not a number."""
    return None if math.isnan(value) else value
