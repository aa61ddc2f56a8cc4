"""Products with padding are skipped: the same sums of fewer products, nothing read outside."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from running import check_compiled, check_interpreted, compiled

from loopwright.ir import walk
from loopwright.ir.expr import Expr, Select
from loopwright.ir.stmt import If
from loopwright.lower.pipeline import apply_passes, lower
from loopwright.lower.skips import skip_zero_products
from loopwright.runtime.cpu.kernel import CpuDevice
from loopwright.sched.schedule import Schedule
from loopwright.te import language as te
from loopwright.te.workload import Workload

QUICK = settings(deadline=None, suppress_health_check=[*HealthCheck])
ROWS, COLUMNS, LANES = 6, 9, 8


def padded(
    taps: int = 3, pad: int = 1, stride: int = 1, dilation: int = 1, dtype: str = "float32"
) -> Workload:
    """C[y, x, o] = sum of A[y + r, x + c] W[r, c, o] with A padded, as one stage."""
    a = te.placeholder((ROWS, COLUMNS), dtype, name="A")
    w = te.placeholder((taps, taps, LANES), dtype, name="W")
    r, c = te.reduce_axis(taps, name="r"), te.reduce_axis(taps, name="c")
    kept = "float32" if dtype.endswith("16") else dtype

    def body(y: Expr, x: Expr, o: Expr) -> Expr:
        v, u = y * stride + r * dilation - pad, x * stride + c * dilation - pad
        inside = te.all(v >= 0, v < ROWS, u >= 0, u < COLUMNS)
        value = te.if_then_else(inside, a[v, u], 0.0 if a.dtype.is_float else 0)
        return te.sum(value.astype(kept) * w[r, c, o].astype(kept), axis=(r, c))

    span = dilation * (taps - 1) + 1
    height, width = ((e + 2 * pad - span) // stride + 1 for e in (ROWS, COLUMNS))
    return te.workload(te.compute((height, width, LANES), body, name="C"), name="padded")


def tiled(of: Workload, width: int, *, height: int = 1, unroll: bool = True) -> Schedule:
    """Tiles of `height` rows and `width` columns of vectors, inside of r and c."""
    s = Schedule(of)
    stage = s["C"]
    y, x, o = stage.loops[:3]
    yo, yi = stage.split(y, height)
    xo, xi = stage.split(x, width)
    stage.reorder(yo, xo, "r", "c", yi, xi, o)
    for loop in (yi, xi, "c") if unroll else (yi, xi):
        stage.unroll(loop)
    stage.vectorize(o)
    return s


def reached(pad: int, y: int, x: int, r: int, c: int) -> bool:
    """Whether the output at y, x reads a datum through the tap r, c, not padding."""
    return 0 <= y + r - pad < ROWS and 0 <= x + c - pad < COLUMNS


def test_rows_are_tested_once_and_columns_around_their_part_of_the_tile(
    golden: Callable[[str, str], None],
) -> None:
    schedule = tiled(padded(), 5)
    golden("skip_padding", str(skip_zero_products(lower(schedule))))


def test_nothing_is_copied() -> None:
    before = lower(tiled(padded(), 5))
    after = skip_zero_products(before)
    assert len(walk.stores(after.body)) == len(walk.stores(before.body))
    assert not any(isinstance(node, Select) for node in walk.visit(after.body))


def test_other_kernels_are_left_as_they_are() -> None:
    a, b = te.placeholder((10, 7), name="A"), te.placeholder((7, 21), name="B")
    k = te.reduce_axis(7, name="k")
    product = te.compute((10, 21), lambda y, x: te.sum(a[y, k] * b[k, x], axis=k), name="C")
    schedule = Schedule(te.workload(product, name="product"))
    y, x, _ = schedule["C"].loops
    _, inner = schedule["C"].split(x, 8)
    schedule["C"].vectorize(inner)
    schedule["C"].unroll(y)
    kernel = lower(schedule)
    assert skip_zero_products(kernel) is kernel


def test_a_condition_that_differs_by_lane_stays_a_choice(cpu: CpuDevice) -> None:
    schedule = Schedule(padded())
    stage = schedule["C"]
    y, x, o = stage.loops[:3]
    _, inner = stage.split(x, 4)
    stage.reorder(o, y, "r", "c", inner)
    stage.vectorize(inner)
    kernel = skip_zero_products(lower(schedule))
    assert any(isinstance(node, Select) for node in walk.visit(kernel.body))
    check_compiled(schedule, cpu)
    check_interpreted(schedule, flat=True)


def test_a_zero_that_is_not_padding_of_a_product_is_added(cpu: CpuDevice) -> None:
    """A sum of chosen values has no product to skip: cutting loops serves it better."""
    a = te.placeholder((COLUMNS,), name="A")
    k = te.reduce_axis(3, name="k")

    def body(x: Expr) -> Expr:
        at = x + k - 1
        return te.sum(te.if_then_else(te.all(at >= 0, at < COLUMNS), a[at], 0.0), axis=k)

    schedule = Schedule(te.workload(te.compute((COLUMNS,), body, name="C"), name="window"))
    schedule["C"].unroll(schedule["C"].loops[0])
    kernel = lower(schedule)
    assert skip_zero_products(kernel) is kernel
    check_compiled(schedule, cpu)


def test_only_a_zero_may_be_skipped(cpu: CpuDevice) -> None:
    a, w = te.placeholder((COLUMNS,), name="A"), te.placeholder((3, LANES), name="W")
    k = te.reduce_axis(3, name="k")

    def body(x: Expr, o: Expr) -> Expr:
        at = x + k - 1
        value = te.if_then_else(te.all(at >= 0, at < COLUMNS), a[at], 2.0)
        return te.sum(value * w[k, o], axis=k)

    schedule = Schedule(te.workload(te.compute((COLUMNS, LANES), body, name="C"), name="edge"))
    x, o, _ = schedule["C"].loops
    schedule["C"].reorder("k", x, o)
    schedule["C"].unroll(x)
    schedule["C"].vectorize(o)
    kernel = lower(schedule)
    assert skip_zero_products(kernel) is kernel
    check_compiled(schedule, cpu)


@pytest.mark.parametrize(("taps", "pad"), [(3, 1), (3, 2), (2, 1)])
@pytest.mark.parametrize(("height", "unroll"), [(1, True), (2, False)])
def test_a_tap_counts_just_where_it_reads_data(
    cpu: CpuDevice, taps: int, pad: int, height: int, unroll: bool
) -> None:
    """A NaN in one tap's weights reaches every output that reads data through it, no other."""
    schedule = tiled(padded(taps, pad), 4, height=height, unroll=unroll)
    rng = np.random.default_rng(0)
    data = rng.uniform(1.0, 2.0, (ROWS, COLUMNS)).astype(np.float32)
    for r, c in np.ndindex(taps, taps):
        weight = rng.uniform(1.0, 2.0, (taps, taps, LANES)).astype(np.float32)
        weight[r, c] = np.nan
        (out,) = compiled(schedule, (data, weight), cpu)
        expected = [reached(pad, y, x, r, c) for y, x in np.ndindex(out.shape[:2])]
        np.testing.assert_array_equal(np.isnan(out[:, :, 0]).ravel(), expected)


@settings(QUICK, max_examples=40)
@given(
    taps=st.integers(1, 4),
    pad=st.integers(0, 4),
    stride=st.integers(1, 3),
    dilation=st.integers(1, 2),
    tile=st.tuples(st.integers(1, 4), st.integers(1, 8)),
    unroll=st.booleans(),
    dtype=st.sampled_from(["float32", "float64", "bfloat16", "int32"]),
)
def test_any_padding_is_skipped_to_the_same_sums(
    cpu: CpuDevice,
    taps: int,
    pad: int,
    stride: int,
    dilation: int,
    tile: tuple[int, int],
    unroll: bool,
    dtype: str,
) -> None:
    assume(dilation * (taps - 1) < ROWS + 2 * pad)
    workload = padded(taps, pad, stride, dilation, dtype)
    schedule = tiled(workload, tile[1], height=tile[0], unroll=unroll)
    check_compiled(schedule, cpu)
    check_interpreted(schedule, flat=True)


def test_a_test_is_not_made_in_the_loops_that_it_does_not_need() -> None:
    kernel = apply_passes(lower(tiled(padded(), 5)), "cpu")
    tests = [node for node in walk.visit_stmts(kernel.body) if isinstance(node, If)]
    rows = [t for t in tests if walk.loops(t.then)]
    assert rows, "the test of a row is around the columns of the tile"
    names = {v.name for test in rows[:1] for v in walk.free_vars(test.cond)}
    assert not any(name.startswith("x") for name in names)
