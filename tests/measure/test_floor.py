"""The least time that a kernel can take is below what any takes, and above nothing."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from loopwright.measure.floor import ROOM, least_steps, steps_a_ns, too_fast
from loopwright.outcome import Failed, FailureKind, FailureStage, Timed
from loopwright.target.presets import PRESETS
from loopwright.te import language as te
from loopwright.te.workload import Workload, workload
from loopwright.templates.derived import TEMPLATE
from loopwright.templates.task import make


def product(m: int, n: int, k: int) -> Workload:
    a, b = te.placeholder((m, k), name="a"), te.placeholder((k, n), name="b")
    r = te.reduce_axis(k, "r")
    c = te.compute((m, n), lambda i, j: te.sum(a[i, r] * b[r, j], r), name="c")
    return workload(c, (a, b, c), name="product")


@given(m=st.integers(1, 50), n=st.integers(1, 50), k=st.integers(2, 50))
def test_a_matrix_product_has_a_step_for_each_product(m: int, n: int, k: int) -> None:
    assert least_steps(product(m, n, k)) == m * n * k


def test_what_a_choice_may_leave_out_does_not_count() -> None:
    x, k = te.placeholder((100,), name="x"), te.reduce_axis(100, "k")
    sums = te.compute((100,), lambda i: te.sum(te.if_then_else(k <= i, x[k], 0.0), k), name="sums")
    assert least_steps(workload(sums, (x, sums), name="cumsum")) == 0


def test_padding_does_not_count() -> None:
    x, k = te.placeholder((10,), name="x"), te.reduce_axis(3, "k")
    wide = te.compute((40,), lambda i: te.if_then_else(i < 10, x[i], 0.0), name="wide")
    y = te.compute((38,), lambda i: te.sum(wide[i + k], k), name="y")
    assert least_steps(workload(y, (x, y), name="padded")) == 38 * 3 // 4


def test_what_need_not_be_repeated_counts_once() -> None:
    x, k = te.placeholder((8,), name="x"), te.reduce_axis(8, "k")
    y = te.compute((5, 7), lambda i, j: te.sum(x[k], k), name="y")  # noqa: ARG005
    assert least_steps(workload(y, (x, y), name="repeated")) == 8


def test_a_time_is_refused_on_one_side_of_the_bound_only() -> None:
    target = PRESETS["x86-64-avx512"]
    task = make(product(64, 64, 64), TEMPLATE, target)
    for threads in (1, 2):
        least = 64**3 / (ROOM * threads * steps_a_ns(target))
        for ns in (least * 0.99, 0.001):
            refused = too_fast(task, Timed((ns,), ns), threads)
            assert isinstance(refused, Failed)
            assert (refused.stage, refused.kind) == (
                FailureStage.RUN,
                FailureKind.IMPOSSIBLE_TIME,
            )
            assert refused.blames_candidate
        assert too_fast(task, Timed((least * 1.01,), least * 1.01), threads) is None


def test_the_fastest_product_that_a_core_can_do_is_far_above_the_bound() -> None:
    target = PRESETS["x86-64-avx512"]  # two units, 16 floats each, 5 GHz: 160 steps a nanosecond
    assert ROOM * steps_a_ns(target) > 40 * 160
