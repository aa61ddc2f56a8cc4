from __future__ import annotations

import math
from collections.abc import Callable

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loopwright.errors import ShapeError
from loopwright.ir.expr import Expr, ReduceAxis
from loopwright.layout import Array
from loopwright.te import functions as te
from loopwright.te.contract import contract
from loopwright.te.reference import Tolerance, check, compare, evaluate, tolerance
from loopwright.te.tensor import Tensor, compute, placeholder, reduce_axis
from loopwright.te.workload import Workload, workload


def inputs(task: Workload, seed: int = 0) -> list[Array]:
    rng = np.random.default_rng(seed)
    return [
        rng.uniform(-1, 1, t.shape).astype(t.dtype.numpy)
        if t.dtype.is_float
        else rng.integers(0 if t.dtype.is_bool else -4, 2, t.shape).astype(t.dtype.numpy)
        for t in task.inputs
    ]


def test_stages_are_evaluated_in_order() -> None:
    a = placeholder((4, 6), name="a")
    k = reduce_axis(6, "k")
    total = compute((4,), lambda y: te.sum(a[y, k], axis=k), name="total")
    share = compute((4, 6), lambda y, x: a[y, x] / total[y], name="share")
    task = workload(share)
    (data,) = inputs(task)
    wanted = data / data.sum(axis=1, keepdims=True)
    for precise in (True, False):
        (found,) = evaluate(task, [data], precise=precise)
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, wanted, rtol=1e-5)


def test_inputs_go_by_name_or_by_order_and_are_checked() -> None:
    a, b = placeholder((3,), name="a"), placeholder((3,), name="b")
    task = workload(compute((3,), lambda i: a[i] - b[i], name="c"), name="minus")
    x, y = np.arange(3, dtype=np.float32), np.ones(3, np.float32)
    assert evaluate(task, {"b": y, "a": x})[0].tolist() == [-1, 0, 1]
    assert evaluate(task, [x, y])[0].tolist() == [-1, 0, 1]
    with pytest.raises(ShapeError, match=r"minus: takes \['a', 'b'\], got 1 arrays"):
        evaluate(task, [x])
    with pytest.raises(ShapeError, match=r"a is float32\[3\], got float64\[3\]"):
        evaluate(task, [x.astype(np.float64), y])
    with pytest.raises(ShapeError, match=r"got float32\[2\]"):
        evaluate(task, [x[:2], y])


def test_a_guarded_read_may_be_out_of_bounds_and_another_may_not() -> None:
    a = placeholder((4,), name="a")
    padded = compute((6,), lambda i: te.if_then_else(te.all(i >= 1, i < 5), a[i - 1], 0.0), "pad")
    data = np.array([1, 2, 3, 4], np.float32)
    assert evaluate(workload(padded), [data])[0].tolist() == [0, 1, 2, 3, 4, 0]
    loose = compute((6,), lambda i: te.if_then_else(i >= 1, a[i - 1], 0.0), "loose")
    with pytest.raises(ShapeError, match=r"loose reads a\[loose.i - 1\] at \[4\], outside \[4\]"):
        evaluate(workload(loose), [data])


@pytest.mark.parametrize("name", ["float32", "float64", "float16", "bfloat16"])
def test_sums_of_products_are_matrix_products_in_every_float(name: str) -> None:
    a, b = placeholder((5, 300), name, "a"), placeholder((300, 7), name, "b")
    k = reduce_axis(300, "k")
    kept = "float64" if name == "float64" else "float32"
    product = compute(
        (5, 7),
        lambda y, x: te.sum(a[y, k].astype(kept) * b[k, x].astype(kept), axis=k),
        name="c",
    )
    task = workload(product)
    left, right = inputs(task)
    wanted = left.astype(np.float64) @ right.astype(np.float64)
    (found,) = evaluate(task, [left, right])
    np.testing.assert_array_equal(found, wanted.astype(found.dtype))
    (quick,) = evaluate(task, [left, right], precise=False)
    assert compare(task, quick, found) is None


def test_small_integers_add_up_exactly_and_wrap() -> None:
    a, b = placeholder((3, 2000), "int8", "a"), placeholder((2000,), "int8", "b")
    k = reduce_axis(2000, "k")
    for dtype in ("int32", "int16"):
        product = _int_product(a, b, k, dtype)
        task = workload(product)
        left = np.full((3, 2000), 127, np.int8)
        right = np.full(2000, -128, np.int8)
        exact = np.full(3, -127 * 128 * 2000, np.int64).astype(dtype)
        np.testing.assert_array_equal(evaluate(task, [left, right])[0], exact)
        assert contract(product, {"a": left, "b": right}, precise=True) is not None


def _int_product(a: Tensor, b: Tensor, k: ReduceAxis, dtype: str) -> Tensor:
    return compute((3,), lambda y: te.sum(a[y, k].astype(dtype) * b[k].astype(dtype), axis=k), "c")


@settings(max_examples=40, deadline=None)
@given(
    st.tuples(st.integers(1, 2), st.integers(1, 4), st.integers(5, 9), st.integers(5, 9)),
    st.sampled_from([1, 2, 4]),
    st.tuples(st.integers(1, 3), st.integers(1, 3)),
    st.tuples(st.integers(1, 2), st.integers(1, 2)),
    st.tuples(st.integers(1, 2), st.integers(1, 2)),
    st.sampled_from(["plain", "groups"]),
)
def test_the_fast_way_agrees_with_evaluating_point_by_point(
    shape: tuple[int, int, int, int],
    multiplier: int,
    kernel: tuple[int, int],
    strides: tuple[int, int],
    dilation: tuple[int, int],
    form: str,
) -> None:
    n, c, h, w = shape
    out_h = (h - dilation[0] * (kernel[0] - 1) - 1) // strides[0] + 1
    out_w = (w - dilation[1] * (kernel[1] - 1) - 1) // strides[1] + 1
    data = placeholder(shape, name="data")
    depth = c if form == "plain" else 1
    weight = placeholder((c * multiplier, depth, *kernel), name="weight")
    ic, kh, kw = (
        reduce_axis(depth, "ic"),
        reduce_axis(kernel[0], "kh"),
        reduce_axis(kernel[1], "kw"),
    )

    def convolution(*, in_one_piece: bool) -> Tensor:
        def body(n: Expr, o: Expr, y: Expr, x: Expr) -> Expr:
            row, column = y * strides[0] + kh * dilation[0], x * strides[1] + kw * dilation[1]
            value = data[n, ic if form == "plain" else o // multiplier, row, column]
            value = value if in_one_piece else value + 1e-30  # a sum is not a read
            return te.sum(value * weight[o, ic, kh, kw], axis=(ic, kh, kw))

        return compute((n, c * multiplier, out_h, out_w), body, name="conv")

    fast = workload(convolution(in_one_piece=True))
    slow = workload(convolution(in_one_piece=False))
    arrays = inputs(fast)
    named = {"data": arrays[0], "weight": arrays[1]}
    assert contract(fast.outputs[0], named, precise=True) is not None
    assert contract(slow.outputs[0], named, precise=True) is None
    np.testing.assert_allclose(
        evaluate(fast, arrays)[0], evaluate(slow, arrays)[0], rtol=1e-6, atol=1e-7
    )


def test_reductions_larger_than_a_block_are_put_together() -> None:
    a = placeholder((3, 700_000), "float32", "a")
    k = reduce_axis(700_000, "k")
    (data,) = inputs(workload(compute((3,), lambda y: te.max(a[y, k], axis=k), "m")))
    for reduction, wanted in [
        (te.max, data.max(axis=1)),
        (te.min, data.min(axis=1)),
        (te.sum, data.astype(np.float64).sum(axis=1)),
    ]:
        task = workload(_folded(a, k, reduction))
        np.testing.assert_allclose(evaluate(task, [data])[0], wanted, rtol=1e-7)


def _folded(a: Tensor, k: ReduceAxis, reduction: Callable[..., Expr]) -> Tensor:
    return compute((3,), lambda y: reduction(a[y, k], axis=k), "r")


def test_functions_and_casts_are_those_of_numpy() -> None:
    a = placeholder((9,), name="a")
    data = np.linspace(-3, 3, 9, dtype=np.float32)
    cases = [
        (lambda i: te.erf(a[i]), np.array([math.erf(v) for v in data])),
        (lambda i: te.exp(a[i]) + te.tanh(a[i]), np.exp(data) + np.tanh(data)),
        (lambda i: te.round(a[i]), np.rint(data)),
        (lambda i: a[i].astype("int32"), np.trunc(data)),
        (lambda i: te.maximum(a[i], 0.0), np.maximum(data, 0)),
        (lambda i: (a[i] > 0.5).astype("float32"), (data > 0.5)),
    ]
    for body, wanted in cases:
        (found,) = evaluate(workload(compute((9,), body, "c")), [data])
        np.testing.assert_allclose(found, wanted.astype(found.dtype), rtol=1e-6, atol=1e-7)


def test_half_floats_round_after_each_operation_unless_precise() -> None:
    a = placeholder((1,), "float16", "a")
    task = workload(compute((1,), lambda i: (a[i] + 1.0) - 1.0, "c"))
    tiny = np.array([2.0**-13], np.float16)
    assert evaluate(task, [tiny], precise=False)[0].tolist() == [0]
    assert evaluate(task, [tiny])[0].tolist() == [2.0**-13]


# --- tolerance ----------------------------------------------------------------------------------


def product(depth: int, dtype: str = "float32") -> Workload:
    a, b = placeholder((64, depth), dtype, "a"), placeholder((64, depth), dtype, "b")
    k = reduce_axis(depth, "k")
    kept = "float64" if dtype == "float64" else "float32"
    total = compute(
        (64, 64),
        lambda y, x: te.sum(a[y, k].astype(kept) * b[x, k].astype(kept), axis=k),
        name="c",
    )
    out = compute((64, 64), lambda y, x: total[y, x].astype(dtype), name="out")
    return workload(total if kept == dtype else out)


def in_order(left: Array, right: Array) -> Array:
    """left @ right.T added up one term after the other in float32: the worst order there is."""
    total = np.zeros((left.shape[0], right.shape[0]), np.float32)
    for k in range(left.shape[1]):
        total += left[:, k, None].astype(np.float32) * right[None, :, k].astype(np.float32)
    return total


@pytest.mark.parametrize("depth", [1, 16, 300, 4608])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_rounding_alone_passes_and_a_lost_term_does_not(depth: int, dtype: str) -> None:
    task = product(depth, dtype)
    left, right = inputs(task, depth)
    (expected,) = evaluate(task, [left, right])
    total = in_order(left, right)
    assert compare(task, total.astype(expected.dtype), expected) is None
    lost = total - left[:, -1:].astype(np.float32) * right[:, -1].astype(np.float32)
    reason = compare(task, lost.astype(expected.dtype), expected)
    assert reason is not None
    assert "elements are wrong" in reason


def test_tolerance_grows_with_the_reduction_and_the_roundoff() -> None:
    short, long = tolerance(product(16)).relative, tolerance(product(4096)).relative
    assert 4 < long / short < 16
    assert tolerance(product(16, "float64")).relative < 1e-6 * short
    assert 2.0**-9 < tolerance(product(16, "bfloat16")).relative < 2.0**-5


def test_the_worst_element_is_named() -> None:
    wanted = np.ones((3, 4), np.float32)
    got = wanted.copy()
    got[1, 2], got[2, 3] = 1.5, 3.0
    reason = check(got, wanted, Tolerance(1e-6))
    assert reason is not None
    assert reason.startswith("element [2, 3] is 3 instead of 1, off by 2 ")
    assert reason.endswith("2 of 12 elements are wrong")


def test_nan_and_infinity_must_meet_their_like() -> None:
    wanted = np.array([np.nan, np.inf, 1], np.float32)
    assert check(wanted.copy(), wanted, Tolerance(1e-6)) is None
    for bad in ([0, np.inf, 1], [np.nan, -np.inf, 1], [np.nan, 1e30, 1], [np.nan, np.inf, np.nan]):
        assert check(np.array(bad, np.float32), wanted, Tolerance(1e-6)) is not None


def test_integers_are_exact_and_dtypes_must_agree() -> None:
    wanted = np.array([1, 2, 3], np.int32)
    assert check(wanted.copy(), wanted, Tolerance(0.5)) is None
    assert check(wanted + 1, wanted, Tolerance(0.5)) is not None
    assert check(wanted.astype(np.int64), wanted, Tolerance(0.5)) == "int64[3] instead of int32[3]"
    assert check(wanted[:2], wanted, Tolerance(0.5)) == "int32[2] instead of int32[3]"


def test_bfloat16_and_bool_may_come_as_they_are_stored() -> None:
    wanted = np.array([1.5, -2], ml_dtypes.bfloat16)
    assert check(wanted.view(np.uint16), wanted, Tolerance(0.01)) is None
    flags = np.array([True, False])
    assert check(flags.view(np.uint8), flags, Tolerance(0.0)) is None
    assert check(flags.view(np.uint8) ^ 1, flags, Tolerance(0.0)) is not None
