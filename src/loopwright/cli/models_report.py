"""Comparisons of whole models as a table and as JSON."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table

from loopwright.cli.common import show_ns, table
from loopwright.cli.report import Json
from loopwright.report.compare import OURS, ModelComparison, show_ratio


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
