from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from node_cases import agree, compiled, floats, meaning, reference

from loopwright.errors import ShapeError
from loopwright.ops.attributes import NodeAttr

ONNX = {
    "reduce_sum": "ReduceSum",
    "reduce_mean": "ReduceMean",
    "reduce_max": "ReduceMax",
    "reduce_min": "ReduceMin",
    "reduce_prod": "ReduceProd",
    "reduce_l1": "ReduceL1",
    "reduce_l2": "ReduceL2",
    "reduce_sum_square": "ReduceSumSquare",
    "reduce_log_sum": "ReduceLogSum",
    "reduce_log_sum_exp": "ReduceLogSumExp",
}


@settings(max_examples=80, deadline=None)
@given(
    op=st.sampled_from(sorted(ONNX)),
    shape=st.lists(st.integers(1, 5), min_size=1, max_size=4),
    keepdims=st.integers(0, 1),
    data=st.data(),
)
def test_reductions_are_those_of_onnx(
    op: str, shape: list[int], keepdims: int, data: st.DataObject
) -> None:
    axes = data.draw(st.lists(st.integers(0, len(shape) - 1), unique=True, min_size=1))
    x = np.abs(floats(*shape)) + np.float32(0.1)
    expected = reference(ONNX[op], [x, np.array(axes)], opset=18, keepdims=keepdims)
    agree(op, meaning(op, [x], axes=tuple(axes), keepdims=keepdims), expected, 1e-4)


@pytest.mark.parametrize("op", ONNX)
def test_no_axes_leave_elements_apart(op: str) -> None:
    x = np.abs(floats(3, 4)) + np.float32(0.1)
    rules = {"reduce_log_sum": np.log, "reduce_sum_square": np.square}
    expected = rules.get(op, np.positive)(x)
    agree(op, meaning(op, [x], axes=()), np.asarray(expected))


@pytest.mark.parametrize("op", ONNX)
def test_kernels_reduce(op: str) -> None:
    compiled(op, [np.abs(floats(2, 5, 3, 9)) + np.float32(0.1)], axes=(2, 3))


@pytest.mark.parametrize("attrs", [{"keepdims": 0}, {"axes": (1,)}], ids=str)
@pytest.mark.parametrize("op", ["reduce_sum", "reduce_mean", "reduce_log_sum_exp"])
def test_kernels_reduce_other_dimensions(op: str, attrs: dict[str, NodeAttr]) -> None:
    compiled(op, [np.abs(floats(2, 5, 3, 9)) + np.float32(0.1)], **attrs)


@pytest.mark.parametrize("dtype", ["int64", "int32", "float16", "float64"])
@pytest.mark.parametrize("op", ["reduce_sum", "reduce_max", "reduce_min", "reduce_mean"])
def test_other_dtypes_are_reduced(op: str, dtype: str) -> None:
    x = (9 * floats(4, 21)).astype(dtype)
    found = meaning(op, [x], axes=(1,))
    expected = {
        "reduce_sum": x.sum(1, keepdims=True),
        "reduce_max": x.max(1, keepdims=True),
        "reduce_min": x.min(1, keepdims=True),
        "reduce_mean": x.astype(np.float64).mean(1, keepdims=True),
    }[op]
    agree(op, found, expected.astype(dtype), 1e-2)
    compiled(op, [x], axes=(1,))


def test_logarithms_of_sums_do_not_overflow() -> None:
    x = np.array([[1000.0, 1000.0], [-1000.0, -1001.0], [-np.inf, -np.inf], [np.inf, 0.0]])
    found = meaning("reduce_log_sum_exp", [x], axes=(1,), keepdims=0)
    np.testing.assert_allclose(found, np.logaddexp(x[:, 0], x[:, 1]))


@pytest.mark.parametrize("last", [0, 1])
@pytest.mark.parametrize("keepdims", [0, 1])
@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("op", ["argmax", "argmin"])
def test_places_of_extrema_are_those_of_onnx(op: str, axis: int, keepdims: int, last: int) -> None:
    x = np.random.default_rng(0).integers(-2, 3, (4, 9, 5)).astype(np.float32)
    attrs = {"axis": axis, "keepdims": keepdims}
    name = "ArgMax" if op == "argmax" else "ArgMin"
    expected = reference(name, [x], select_last_index=last, **attrs)
    agree(op, meaning(op, [x], select_last=last, **attrs), expected)
    if keepdims != last:
        compiled(op, [x], select_last=last, **attrs)


@pytest.mark.parametrize("axes", [(2,), (0, -3)])
def test_axes_that_are_not_there_are_refused(axes: tuple[int, ...]) -> None:
    with pytest.raises(ShapeError, match="are not dimensions of 2"):
        meaning("reduce_sum", [floats(2, 3)], axes=axes)
