from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from loopwright.errors import ShapeError, UnsupportedError
from loopwright.ir.dtype import F32, F64, I8
from loopwright.ir.expr import Call, Fn, Load, Reduce
from loopwright.ir.printer import show
from loopwright.te import language as te
from loopwright.te.tensor import Compute, Tensor

A = te.placeholder((4, 6), name="A")
B = te.placeholder((6,), "int32", name="B")
FLAGS = te.placeholder((6,), "bool", name="flags")
K = te.reduce_axis(6, name="k")


def test_a_placeholder_is_an_input_of_its_shape() -> None:
    assert (A.shape, A.dtype, A.ndim, A.axis, A.inputs) == ((4, 6), F32, 2, (), ())
    assert te.placeholder((np.int64(3),), name="N").shape == (3,)


def test_axes_are_named_after_the_tensor_and_the_parameters() -> None:
    c = te.compute((4, 6), lambda y, x: A[y, x] * 2.0, name="C")
    assert [v.name for v in c.axis] == ["C.y", "C.x"]
    assert [v.name for v in te.compute((4, 6), lambda *i: A[i], name="D").axis] == ["D.i0", "D.i1"]


def test_a_reduction_has_reduce_axes() -> None:
    c = te.compute((4,), lambda y: te.sum(A[y, K], axis=K), name="C")
    assert c.reduce_axis == (K,)
    assert isinstance(c.op, Compute)
    assert isinstance(c.op.body, Reduce)
    assert show(c.op.body) == "sum(A[C.y, k] for k in 0..6)"


def test_inputs_are_named_once_in_the_order_they_are_met() -> None:
    c = te.compute((4, 6), lambda y, x: A[y, x] + te.cast("float32", B[x]) + A[0, x], name="C")
    assert [t.name for t in c.inputs] == ["A", "B"]


def test_a_body_may_be_a_number() -> None:
    assert te.compute((3,), lambda _: 1.5, name="C").dtype == F32


def test_a_tensor_shows_its_name_dtype_and_shape() -> None:
    assert repr(te.compute((4,), lambda i: A[i, 0], name="C")) == "Tensor(C: float32[4])"


def test_reads_that_a_condition_guards_may_be_out_of_bounds() -> None:
    c = te.compute((9,), lambda i: te.if_then_else(i < 4, A[i, 5], 0.0), name="C")
    assert c.shape == (9,)


def test_reads_up_to_the_edges_are_in_bounds() -> None:
    c = te.compute((2, 3), lambda y, x: A[y * 3, 5 - x * 2] + A[3 - y, x + 3], name="C")
    assert c.shape == (2, 3)


def test_indices_of_narrow_integers_are_widened() -> None:
    i8 = te.placeholder((3,), "int8", name="I")
    c = te.compute((3,), lambda i: A[0, i8[i]], name="C")
    assert isinstance(c.op, Compute)
    assert isinstance(c.op.body, Load)
    assert c.op.body.indices[1].dtype.bits == 64


@pytest.mark.parametrize("shape", [(0,), (4, -1), (2.0,), ("n",), (None,), (True,)])
def test_a_shape_that_is_not_of_positive_integers_is_refused(shape: tuple[object, ...]) -> None:
    with pytest.raises(ShapeError, match=r"T: the shape .* .dynamic shapes are not supported"):
        te.placeholder(shape, name="T")
    with pytest.raises(ShapeError, match="T: the shape"):
        te.compute(shape, lambda *_: 0.0, name="T")


def test_an_unknown_dtype_is_refused() -> None:
    with pytest.raises(UnsupportedError, match="'complex64' is not supported; use one of float16"):
        te.placeholder((3,), "complex64")


@pytest.mark.parametrize("domain", [0, -3, (1, 4), (0, 0), (0, 1, 2), 2.5, "4", (0, 2.5)])
def test_a_reduce_axis_runs_from_0_to_at_least_1(domain: object) -> None:
    with pytest.raises(ShapeError, match=r"reduce_axis r: the domain .* is not \(0, n\)"):
        te.reduce_axis(domain, name="r")


def test_a_reduce_axis_is_given_by_its_extent_or_its_domain() -> None:
    assert (
        te.reduce_axis(4).extent
        == te.reduce_axis((0, 4)).extent
        == te.reduce_axis(np.int64(4)).extent
    )


INT8 = te.placeholder((6,), "int8", name="I")


@pytest.mark.parametrize(
    ("shape", "fn", "reason"),
    [
        ((4, 6), lambda y: A[y, 0], r"C: the shape \(4, 6\) has 2 dimensions, fn takes 1"),
        ((4,), lambda y: A[y], r"A has 2 dimensions \(4, 6\), read with 1 indices"),
        ((4,), lambda y: A[y, 0.5], "A: index 1 is float32, not an integer"),
        ((4,), lambda y: A[y, 0] if y < 2 else 0.0, "no truth value while it is being built"),
        ((4,), lambda _: None, "None .* cannot be part of a tensor expression"),
        ((4,), lambda y: A[y, 0] + B[y], "float32 [+] int32: the dtypes differ"),
        ((4,), lambda y: 1.0 + te.sum(A[y, K], axis=K), "C: a reduction must be the whole body"),
        ((4,), lambda y: te.sum(te.max(A[y, K], axis=K), axis=K), "a reduction must be the whole"),
        ((4,), lambda y: te.sum(A[y, K], axis=(K, K)), "C: two axes are called k"),
        ((4,), lambda y: A[y, K], "C: the body reads k, which is not one of its axes"),
        ((4,), lambda y: A[y, 0] // 2.0, "C: FLOORDIV of float32 in"),
        ((4,), lambda y: FLAGS[y] + FLAGS[y], "C: ADD of bool in"),
        ((6,), lambda x: INT8[x] + 300, "C: int8 constant 300 in"),
        ((6,), lambda x: B[x] * 0.5, "the number 0.5 does not fit dtype int32"),
        ((5,), lambda y: A[y, 0], r"A\[C.y, 0\] reads 0..4 of dimension 0, which has 4 elements"),
        (
            (4,),
            lambda y: A[y, 6],
            "reads 6..6 of dimension 1, which has 6 elements; guard the read",
        ),
        ((4,), lambda y: A[y - 1, 0], "reads -1..2 of dimension 0"),
        ((4,), lambda y: A[3 - 2 * y, 0], "reads -3..3 of dimension 0"),
        ((4,), lambda y: te.sum(A[y, K + 1], axis=K), "reads 1..6 of dimension 1"),
        ((4,), lambda y: te.if_then_else(A[y, 9] > 0, A[y, 9], 1.0), "reads 9..9 of dimension 1"),
    ],
)
def test_a_body_without_meaning_is_refused(
    shape: tuple[int, ...], fn: Callable[..., object], reason: str
) -> None:
    with pytest.raises(ShapeError, match=reason) as caught:
        te.compute(shape, fn, name="C")
    assert "\n" not in str(caught.value)


def test_a_reduce_axis_may_not_have_the_name_of_an_axis() -> None:
    clash = te.reduce_axis(6, name="C.y")
    with pytest.raises(ShapeError, match=r"two axes are called C.y"):
        te.compute((4,), lambda y: te.sum(A[y, clash], axis=clash), name="C")


def test_a_tensor_may_not_read_one_of_its_name() -> None:
    with pytest.raises(ShapeError, match="A reads a tensor of the same name"):
        te.compute((4,), lambda y: A[y, 0], name="A")


# --- the functions ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["exp", "log", "sqrt", "rsqrt", "sin", "cos", "tanh", "erf", "floor", "ceil", "round"]
)
def test_intrinsics_take_floats(name: str) -> None:
    made = getattr(te, name)(A[0, 0])
    assert isinstance(made, Call)
    assert made.fn is Fn(name)
    with pytest.raises(ShapeError, match=f"te.{name} takes a float, got int32; cast it first"):
        getattr(te, name)(B[0])


def test_abs_takes_any_number() -> None:
    assert te.abs(B[0]).dtype == B.dtype
    with pytest.raises(ShapeError, match=r"te.abs takes a float, got bool"):
        te.abs(FLAGS[0])


def test_power_takes_floats_of_one_dtype() -> None:
    assert show(te.power(A[0, 0], 2)) == "pow(A[0, 0], 2.0)"
    assert show(te.power(2, A[0, 0])) == "pow(2.0, A[0, 0])"
    double = te.placeholder((3,), "float64", name="double")
    for base, exponent in ((B[0], 2), (A[0, 0], B[0]), (A[0, 0], double[0])):
        with pytest.raises(ShapeError, match=r"te.power takes floats of one dtype, got"):
            te.power(base, exponent)


def test_sigmoid_keeps_the_dtype() -> None:
    assert te.sigmoid(te.placeholder((1,), "float64", name="d")[0]).dtype == F64


def test_conditions_are_bools() -> None:
    first, second = FLAGS[0], FLAGS[1]
    assert show(te.all(first, second)) == "flags[0] and flags[1]"
    assert show(te.any(first, second)) == "flags[0] or flags[1]"
    assert (show(te.all()), show(te.any())) == ("True", "False")
    for fn in (te.all, te.any):
        with pytest.raises(ShapeError, match="a condition is int32, not bool"):
            fn(B[0] < 1, B[0])
    with pytest.raises(ShapeError, match="the condition is int32, not bool"):
        te.if_then_else(B[0], 1, 2)


def test_the_sides_of_a_choice_have_one_dtype() -> None:
    assert te.if_then_else(FLAGS[0], 0, INT8[0]).dtype == I8
    assert te.if_then_else(FLAGS[0], INT8[0], 0).dtype == I8
    with pytest.raises(ShapeError, match=r"te.if_then_else: the sides are float32 and int32"):
        te.if_then_else(FLAGS[0], A[0, 0], B[0])


@pytest.mark.parametrize("axis", [(), A.axis, te.compute((3,), lambda i: A[i, 0], "C").axis])
def test_a_reduction_folds_over_reduce_axes_only(axis: tuple[object, ...]) -> None:
    with pytest.raises(ShapeError, match=r"te.sum: axis must be one or more te.reduce_axis"):
        te.sum(A[0, 0], axis=axis)


def test_float_min_is_minus_infinity_of_a_float() -> None:
    assert te.float_min("float64").value == -np.inf
    with pytest.raises(ShapeError, match=r"te.float_min: int32 is not a float"):
        te.float_min("int32")


def test_the_language_exports_what_it_names() -> None:
    assert [name for name in te.__all__ if not hasattr(te, name)] == []
    assert te.Tensor is Tensor
