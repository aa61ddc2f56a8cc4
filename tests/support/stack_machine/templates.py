"""The row of the table of templates: what to try for a matrix product on a stack machine."""

from __future__ import annotations

import loopwright as lw


def space(workload: lw.Workload, _: lw.Target) -> lw.Space:
    """The sum can be cut in two, one part of it unrolled, and the loops around it exchanged."""
    k = workload.outputs[0].reduce_axis[-1].extent
    return lw.Space(
        (
            lw.Split("k", k, policy="factors"),
            lw.Choice("unrolled", (False, True)),
            lw.Choice("order", ("rows", "columns")),
        )
    )


def schedule(s: lw.Schedule, config: lw.Configuration) -> None:
    """Apply the knobs."""
    (c,) = s.workload.outputs
    stage = s[c]
    rows, columns, k = stage.loops
    outer, inner = stage.split(k, config.sizes("k")[1])
    first, second = (rows, columns) if config.text("order") == "rows" else (columns, rows)
    stage.reorder(first, second, outer, inner)
    if config.flag("unrolled"):
        stage.unroll(inner)


MATMUL = lw.Template("stack.matmul", 1, space, schedule)
TEMPLATES = {"matmul": (MATMUL,)}
