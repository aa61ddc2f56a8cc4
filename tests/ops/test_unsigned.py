"""Unsigned integers of all widths: kernels and expressions compute what onnxruntime does."""

from __future__ import annotations

import numpy as np
import pytest
from node_cases import compiled, meaning
from onnx import TensorProto
from onnxruntime_oracle import assert_as_onnxruntime, single

from loopwright.layout import Array

WIDTHS = ["uint8", "uint16", "uint32", "uint64"]
WIDE = ["uint32", "uint64"]


def pair(dtype: str) -> tuple[Array, Array]:
    """Numbers with the ends of the range, and what to divide them by."""
    info, rng = np.iinfo(dtype), np.random.default_rng(0)
    a, b = rng.integers(0, info.max, (2, 37), dtype, endpoint=True)
    a[:4], b[:4] = [info.max, 0, info.max - 1, info.max // 2 + 1], [info.max, 1, 2, 3]
    return a, np.maximum(b, 1).astype(dtype)


@pytest.mark.parametrize("dtype", WIDE)
@pytest.mark.parametrize("op", ["Add", "Sub", "Mul", "Div", "Max", "Min", "Less", "Greater", "Mod"])
def test_arithmetic_wraps_as_in_onnxruntime(op: str, dtype: str) -> None:
    a, b = pair(dtype)
    assert_as_onnxruntime(single(op, [a, b]), {"a": a, "b": b})


@pytest.mark.parametrize("dtype", WIDTHS)
@pytest.mark.parametrize("op", ["add", "sub", "mul", "div", "mod", "max", "min", "less"])
def test_kernels_compute_what_numpy_does(op: str, dtype: str) -> None:
    a, b = pair(dtype)
    by_numpy = {
        "add": np.add, "sub": np.subtract, "mul": np.multiply, "div": np.floor_divide,
        "mod": np.remainder, "max": np.maximum, "min": np.minimum, "less": np.less,
    }  # fmt: skip
    np.testing.assert_array_equal(meaning(op, [a, b]), by_numpy[op](a, b))
    compiled(op, [a, b])


@pytest.mark.parametrize("dtype", WIDTHS)
@pytest.mark.parametrize("to", ["float32", "float64", "int64", "int8", "bool", *WIDTHS])
def test_casts_are_those_of_onnxruntime(dtype: str, to: str) -> None:
    a, _ = pair(dtype)
    number = {"float32": 1, "uint8": 2, "int8": 3, "uint16": 4, "int64": 7, "bool": 9,
              "float64": 11, "uint32": 12, "uint64": 13}[to]  # fmt: skip
    assert_as_onnxruntime(single("Cast", [a], to=number), {"a": a})
    compiled("cast", [a], to=to)


@pytest.mark.parametrize("dtype", WIDTHS)
def test_floats_become_unsigned(dtype: str) -> None:
    x = np.array([0.0, 0.9, 1.5, 100.7, 255.0], np.float32)
    number = {"uint8": TensorProto.UINT8, "uint16": TensorProto.UINT16,
              "uint32": TensorProto.UINT32, "uint64": TensorProto.UINT64}[dtype]  # fmt: skip
    assert_as_onnxruntime(single("Cast", [x], to=number), {"a": x})
    compiled("cast", [x], to=dtype)


@pytest.mark.parametrize("dtype", WIDE)
@pytest.mark.parametrize("op", ["ReduceSum", "ReduceMax", "ReduceMin"])
def test_reductions_keep_all_bits(op: str, dtype: str) -> None:
    a, _ = pair(dtype)
    ours = {"ReduceSum": "reduce_sum", "ReduceMax": "reduce_max", "ReduceMin": "reduce_min"}[op]
    by_numpy = {"ReduceSum": np.sum, "ReduceMax": np.max, "ReduceMin": np.min}[op]
    np.testing.assert_array_equal(
        meaning(ours, [a], axes=(0,), keepdims=0), by_numpy(a).astype(dtype)
    )
    compiled(ours, [a], axes=(0,), keepdims=0)
