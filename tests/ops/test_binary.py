from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import mutually_broadcastable_shapes
from node_cases import agree, compiled, floats, meaning, reference

from loopwright.errors import ShapeError

ARITHMETIC = ["add", "sub", "mul", "div"]
COMPARISONS = ["equal", "less", "less_equal", "greater", "greater_equal"]
ONNX = {"less_equal": "LessOrEqual", "greater_equal": "GreaterOrEqual"}


def onnx_name(op: str) -> str:
    return ONNX.get(op, op.capitalize())


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from([*ARITHMETIC, *COMPARISONS, "min", "max"]),
    mutually_broadcastable_shapes(num_shapes=2, max_dims=4, max_side=4),
)
def test_operands_are_broadcast_as_in_onnx(op: str, shapes: object) -> None:
    first, second = shapes.input_shapes  # type: ignore[attr-defined]  # hypothesis gives a tuple
    a, b = np.asarray(floats(*first)), np.asarray(floats(*second, seed=1))
    agree(op, meaning(op, [a, b]), reference(onnx_name(op), [a, b]))


@pytest.mark.parametrize("dtype", ["int64", "int32", "float64"])
@pytest.mark.parametrize("op", [*ARITHMETIC, *COMPARISONS, "min", "max"])
def test_other_numbers_compute_as_in_onnx(op: str, dtype: str) -> None:
    rng = np.random.default_rng(1)
    a, b = rng.integers(-9, 9, (5, 8)), rng.integers(1, 9, (5, 8)) * rng.choice([-1, 1], (5, 8))
    a, b = a.astype(dtype), b.astype(dtype)
    expected = reference(onnx_name(op), [a, b], runtime=op == "div")
    agree(op, meaning(op, [a, b]), expected)
    if dtype != "int32":
        compiled(op, [a, b])


@pytest.mark.parametrize("op", ["and", "or", "xor"])
def test_logic_is_that_of_onnx(op: str) -> None:
    a, b = floats(4, 9) > 0, floats(9, seed=1) > 0
    agree(op, meaning(op, [a, b]), reference(onnx_name(op), [a, b]))
    compiled(op, [a, b])


@pytest.mark.parametrize(
    ("base", "exponent"),
    [
        (np.abs(floats(5, 9)) + np.float32(0.1), floats(9)),
        (floats(5, 9), np.array(2.0, np.float32)),
        (np.arange(1, 19), np.full(18, 3)),
        (np.arange(1, 19, dtype=np.int32), np.array(2.0, np.float32)),
        (np.abs(floats(8)), np.full(8, 3)),
    ],
    ids=["floats", "square", "integers", "integer base", "integer exponent"],
)
def test_powers_have_the_dtype_of_their_base(base: np.ndarray, exponent: np.ndarray) -> None:
    found = meaning("pow", [base, exponent])
    agree("pow", found, reference("Pow", [base, exponent]))
    compiled("pow", [base, exponent])


@pytest.mark.parametrize("fmod", [0, 1])
@pytest.mark.parametrize("dtype", ["int64", "int32", "int8", "uint8"])
def test_remainders_of_integers_are_those_of_onnx(dtype: str, fmod: int) -> None:
    low = 0 if dtype == "uint8" else -9
    a = np.tile(np.arange(low, 9), 2).astype(dtype)
    b = np.repeat([4, 4 if dtype == "uint8" else -4], len(a) // 2).astype(dtype)
    agree("mod", meaning("mod", [a, b], fmod=fmod), reference("Mod", [a, b], fmod=fmod))
    compiled("mod", [a, b], fmod=fmod)


def test_remainders_of_floats_are_exact() -> None:
    a, b = 50 * floats(200), floats(200, seed=1)
    np.testing.assert_array_equal(meaning("mod", [a, b], fmod=1), np.fmod(a, b))
    np.testing.assert_array_equal(meaning("mod", [a, b]), np.mod(a, b))
    compiled("mod", [a, b], fmod=1)


@pytest.mark.parametrize("fmod", [0, 1])
def test_remainders_of_infinities_and_zeros_are_those_of_numpy(fmod: int) -> None:
    edges = np.array([0.0, 2.5, -2.5, np.inf, -np.inf, np.nan], np.float32)
    a, b = np.repeat(edges, 6), np.tile(edges, 6)
    with np.errstate(invalid="ignore"):
        expected = np.fmod(a, b) if fmod else np.mod(a, b)
    agree("mod", meaning("mod", [a, b], fmod=fmod), expected)
    compiled("mod", [a, b], fmod=fmod)


def test_slopes_are_broadcast_to_the_data() -> None:
    x, slope = floats(2, 5, 3, 3), floats(5, 1, 1, seed=1)
    agree("prelu", meaning("prelu", [x, slope]), reference("PRelu", [x, slope]))
    compiled("prelu", [x, slope])
    with pytest.raises(ShapeError, match="does not broadcast to"):
        meaning("prelu", [slope, x])


@pytest.mark.parametrize("dtype", ["float32", "int64", "bool"])
def test_where_takes_one_of_two(dtype: str) -> None:
    cond = floats(3, 1) > 0
    a, b = (3 * floats(4, 1, 9)).astype(dtype), (3 * floats(9, seed=1)).astype(dtype)
    agree("where", meaning("where", [cond, a, b]), np.where(cond, a, b))
    compiled("where", [cond, a, b])


def test_scalars_compute_as_kernels() -> None:
    compiled("add", [np.array(2.0, np.float32), np.array(3.0, np.float32)])
    compiled("mul", [np.array(2.0, np.float32), floats(3, 9)])


@pytest.mark.parametrize(
    ("op", "a", "b", "message"),
    [
        ("add", floats(3), floats(4), r"add of float32\[3\], float32\[4\]: the shapes .* do not"),
        ("add", floats(3), np.arange(3), "the dtypes differ"),
        ("mod", floats(3), np.arange(3), "differ"),
        ("and", floats(3), floats(3), "not bool"),
        ("where", floats(3), floats(3), "takes 3 inputs, got 2"),
    ],
)
def test_operands_that_do_not_fit_are_refused(
    op: str, a: np.ndarray, b: np.ndarray, message: str
) -> None:
    with pytest.raises(ShapeError, match=message):
        meaning(op, [a, b])
