"""Inverse functions, near 0 and at the ends of their ranges; bits. Oracles: NumPy, onnxruntime."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from node_cases import compiled, meaning
from onnx import helper
from onnxruntime_oracle import assert_as_onnxruntime, model, node, single, value

from loopwright.errors import UnsupportedError
from loopwright.frontends.onnx.importer import import_onnx_model
from loopwright.graph.evaluate import evaluate

FUNCTIONS = {
    "asin": np.arcsin,
    "acos": np.arccos,
    "atan": np.arctan,
    "asinh": np.arcsinh,
    "acosh": np.arccosh,
    "atanh": np.arctanh,
}
EDGES = [0.0, -0.0, 1.0, -1.0, 1.5, -1.5, 0.4142, 1e-20, 1e-4, 1e30, np.inf, -np.inf, np.nan]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("op", FUNCTIONS)
def test_inverse_functions_are_exact_to_some_last_places(op: str, dtype: str) -> None:
    rng = np.random.default_rng(0)
    drawn = [rng.uniform(-1, 1, 400), rng.standard_normal(400) * 10.0 ** rng.integers(-12, 13, 400)]
    x = np.concatenate([np.array(EDGES), 1 - 10.0 ** -np.arange(8), *drawn]).astype(dtype)
    with np.errstate(all="ignore"):
        expected = FUNCTIONS[op](x.astype(np.float64))
    found = meaning(op, [x])
    assert found.dtype == dtype
    np.testing.assert_allclose(found, expected, rtol=8 * np.finfo(dtype).eps, atol=1e-37)
    there = ~np.isnan(expected)
    np.testing.assert_array_equal(np.signbit(found[there]), np.signbit(expected[there]))


@pytest.mark.parametrize("op", FUNCTIONS)
def test_kernels_compute_inverse_functions(op: str) -> None:
    x = np.concatenate([np.linspace(-1, 1, 50), EDGES]).astype(np.float32)
    compiled(op, [x])
    name = op.capitalize()
    assert_as_onnxruntime(single(name, [x]), {"a": x})


INTEGERS = ["uint8", "int8", "int16", "int32", "int64"]


@pytest.mark.parametrize("dtype", INTEGERS)
@pytest.mark.parametrize("op", ["BitwiseAnd", "BitwiseOr", "BitwiseXor"])
def test_bits_are_combined(op: str, dtype: str) -> None:
    info, rng = np.iinfo(dtype), np.random.default_rng(0)
    a, b = rng.integers(info.min, info.max, (2, 40), dtype, endpoint=True)
    a[:4], b[:4] = [info.min, info.max, info.min, 0], [info.min, info.max, info.max, info.min]
    assert_as_onnxruntime(single(op, [a, b]), {"a": a, "b": b})


@pytest.mark.parametrize("dtype", ["uint8", "int32", "int64"])
def test_kernels_combine_bits(dtype: str) -> None:
    info, rng = np.iinfo(dtype), np.random.default_rng(0)
    compiled("bitwise_and", list(rng.integers(info.min, info.max, (2, 40), dtype, endpoint=True)))


@pytest.mark.parametrize("dtype", INTEGERS)
def test_bits_are_turned(dtype: str) -> None:
    info = np.iinfo(dtype)
    x = np.array([info.min, info.max, 0, 1, 77], dtype)
    assert_as_onnxruntime(single("BitwiseNot", [x]), {"a": x})


@given(st.lists(st.integers(0, 9), min_size=3, max_size=3), st.sampled_from(["LEFT", "RIGHT"]))
@example([0, 7, 8], "LEFT")
@example([0, 7, 8], "RIGHT")
def test_bits_are_shifted_by_what_is_known(bits: list[int], direction: str) -> None:
    x = np.array([[255, 170, 1], [128, 3, 0]], np.uint8)
    shift = node("BitShift", ["x", "n"], ["y"], direction=direction, name="s")
    kind = helper.np_dtype_to_tensor_dtype(x.dtype)
    amount = np.array(bits, np.uint8)
    made = model([shift], [value("x", x.shape, kind)], [value("y", None, kind)], n=amount)
    (found,) = evaluate(import_onnx_model(made), {"x": x})
    wanted = x.astype(np.int64) << amount if direction == "LEFT" else x >> amount
    np.testing.assert_array_equal(found, wanted.astype(np.uint8))


def test_a_shift_by_what_is_given_is_refused() -> None:
    x = np.ones(3, np.uint8)
    with pytest.raises(UnsupportedError, match=r"BitShift.*: the number of bits"):
        import_onnx_model(single("BitShift", [x, x], direction="LEFT"))


@pytest.mark.parametrize("op", ["Gelu", "BiasGelu", "FastGelu", "QuickGelu"])
def test_gelus_of_onnxruntime(op: str) -> None:
    x = np.random.default_rng(0).standard_normal((3, 8)).astype(np.float32) * 3
    arrays = [x] if op in ("Gelu", "QuickGelu") else [x, x[0] / 2]
    made = single(op, arrays, domain="com.microsoft")
    given = dict(zip("ab", arrays, strict=False))
    assert_as_onnxruntime(made, given, rtol=1e-5, atol=1e-5)
