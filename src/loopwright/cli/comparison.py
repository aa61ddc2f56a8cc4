"""Our programs and models against those of other libraries, as tables and as JSON."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from rich.table import Table

from loopwright.cli.common import Json, describe, show_ns, table
from loopwright.deploy.model import ModelTask
from loopwright.peers.compare import KERNEL, PLAIN, Comparison, geometric_mean
from loopwright.report.compare import OURS, ModelComparison, show_ratio


@dataclass(frozen=True, slots=True)
class Row:
    """One task of a model: how often it is computed, our config, and how it did."""

    part: ModelTask
    config: str
    comparison: Comparison


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


# --- whole models ---


def models_table(rows: Sequence[ModelComparison], title: str = "") -> Table:
    """A line for each model: our time, each peer's, and how many times as fast we are.

    Peak memory and the time to load are ours first, then each peer's.
    """
    peers = list(dict.fromkeys(n for row in rows for n in row.timings if n != OURS))
    columns = ["model", ">threads", ">ours", *(f">{name}" for name in peers)]
    columns += [">ratio", ">error", ">memory", ">load"]
    lines = []
    for row in rows:
        cells = [row.name, str(row.threads), show_ns(row.ours_ns)]
        for name in peers:
            timing = row.timings.get(name)
            cells.append("-" if timing is None else show_ns(timing.median_ns))
        cells += [
            show_ratio(row.ratio),
            "" if row.error is None else f"{row.error:.0e}",
            " / ".join(f"{ready.peak_bytes / 1e6:.0f}" for ready in row.ready.values()) + " MB",
            " / ".join(f"{ready.load_s * 1e3:.0f}" for ready in row.ready.values()) + " ms",
        ]
        lines.append(cells)
    return table(columns, lines, title=title)


def models_json(rows: Sequence[ModelComparison]) -> Json:
    """The same as one JSON object."""
    return {
        "models": [
            {
                "model": row.name,
                "threads": row.threads,
                "ns": {name: timing.median_ns for name, timing in row.timings.items()},
                "best_peer": row.best_peer,
                "ratio": row.ratio,
                "reference": row.reference,
                "error": row.error,
                "peak_bytes": {name: ready.peak_bytes for name, ready in row.ready.items()},
                "load_s": {name: ready.load_s for name, ready in row.ready.items()},
                "engines": {name: ready.form for name, ready in row.ready.items()},
                "refused": dict(row.refused),
            }
            for row in rows
        ]
    }
