"""Regions of indices that are divided: exact where the loops were split by the divisor."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from running import check_interpreted

from loopwright.ir.expr import Op, Var
from loopwright.ir.linear import Linear
from loopwright.sched.extent import Size
from loopwright.sched.index import index_form
from loopwright.sched.nest import nest
from loopwright.sched.schedule import Schedule, create_schedule
from loopwright.te import language as te

LAW = settings(max_examples=60, deadline=None, suppress_health_check=[*HealthCheck])


def tiled(extent: int, m: int) -> Schedule:
    """out[y] reads mid[y // m, y % m]; mid is elementwise in src."""
    rows = -(-extent // m)
    src = te.placeholder((rows, m), name="src")
    mid = te.compute((rows, m), lambda t, p: src[t, p] * 2.0, name="mid")
    out = te.compute((extent,), lambda y: mid[y // m, y % m] + 1.0, name="out")
    return create_schedule(te.workload(out, name="tiled"))


def attached(s: Schedule, m: int | Size, rows: int | Size) -> Schedule:
    """`s` with y split by `m`, then by `rows`, and mid computed at the outermost loop."""
    t, _ = s["out"].split("out.y", m)
    to, _ = s["out"].split(t, rows)
    s["mid"].compute_at("out", to)
    return s


def test_a_quotient_moves_as_the_loop_over_tiles() -> None:
    found = nest(attached(tiled(24, 4), 4, 3)).stage("mid")
    assert found.shape == (3, 4)
    (outer,) = (t for t in found.axis("mid.t").terms if t.loop[0] == "out")
    assert (outer.coeff, outer.div, outer.mod) == (3, 1, 0)


def test_a_remainder_stays_where_the_tile_stands_still() -> None:
    s = tiled(24, 4)
    _, yi = s["out"].split("out.y", 4)
    s["mid"].compute_at("out", yi)
    found = nest(s).stage("mid")
    assert found.shape == (1, 1)
    check_interpreted(s)


def test_a_split_across_tiles_needs_all_of_them() -> None:
    assert nest(attached(tiled(24, 4), 6, 1)).stage("mid").shape == (6, 4)
    assert nest(attached(tiled(24, 4), 2, 3)).stage("mid").shape == (6, 4)


def test_a_reader_that_runs_through_its_part_needs_just_that_however_it_is_split() -> None:
    """The products of a block read it through a fused loop that is cut unevenly."""
    src = te.placeholder((6, 4), name="src")
    mid = te.compute((6, 4), lambda y, x: src[y, x] * 2.0, name="mid")
    near = te.compute((6, 4), lambda y, x: mid[y, x] + 1.0, name="near")
    out = te.compute((6, 4), lambda y, x: near[y, x] * 3.0, name="out")
    s = create_schedule(te.workload(out, name="fused"))
    yo, _ = s["out"].split("out.y", 2)
    s["near"].compute_at("out", yo)
    s["near"].split(s["near"].fuse("near.y", "near.x"), 3)
    s["mid"].compute_at("out", yo)
    assert nest(s).stage("mid").shape == (2, 4)
    check_interpreted(s)


def test_forms_of_indices() -> None:
    y, x = Var("y"), Var("x")
    form = index_form((y * 2 + x + 3) // 4)
    assert form is not None
    assert form.total == Linear({"y": 2, "x": 1}, 3)
    assert (form.op, form.divisor) == (Op.FLOORDIV, 4)
    plain = index_form(y + 1)
    assert plain is not None
    assert plain.op is None
    assert index_form(y - x) is None
    assert index_form(y // 2 + x) is None


@LAW
@given(
    extent=st.integers(1, 40),
    m=st.integers(1, 6),
    inner=st.integers(1, 12),
    rows=st.integers(1, 5),
)
def test_any_split_of_a_tiled_axis_computes_the_same(
    extent: int, m: int, inner: int, rows: int
) -> None:
    s = attached(tiled(extent, m), inner, rows)
    tiles, columns = nest(s).stage("mid").shape
    block = min(inner * rows, extent)
    needed = max(
        len({y // m for y in range(start, min(start + block, extent))})
        for start in range(0, extent, inner * rows)
    )
    assert needed <= tiles <= -(-extent // m)
    assert min(block, m) <= columns <= m
    if inner == m:
        assert tiles == needed
    check_interpreted(s)


@pytest.mark.parametrize("m", [2, 3, 4])
def test_a_batch_has_the_regions_of_its_configs(m: int) -> None:
    pairs = [(inner, rows) for inner in (1, 2, 3, 4, 6, 8) for rows in (1, 2, 5)]
    inner, rows = np.array(pairs).T
    together = nest(attached(tiled(29, m), Size(inner), Size(rows))).stage("mid")
    for place, (i, r) in enumerate(pairs):
        alone = nest(attached(tiled(29, m), i, r)).stage("mid")
        assert [int(np.broadcast_to(e, len(pairs))[place]) for e in together.shape] == [
            int(e) for e in alone.shape
        ]
