from __future__ import annotations

import math

import numpy as np
import pytest
from node_cases import agree, compiled, floats, meaning, reference

from loopwright.errors import ShapeError
from loopwright.layout import Array
from loopwright.ops.attributes import NodeAttr

ANY = ["exp", "floor", "ceil", "round", "sin", "cos", "tan", "tanh", "erf", "sigmoid", "relu"]
ANY += ["softplus", "softsign", "hard_swish", "mish", "neg", "abs", "sign", "identity"]
POSITIVE = ["log", "sqrt", "reciprocal"]
WITH_ATTRS: list[tuple[str, dict[str, NodeAttr], str, dict[str, object]]] = [
    ("leaky_relu", {"alpha": 0.1}, "LeakyRelu", {"alpha": 0.1}),
    ("elu", {"alpha": 0.7}, "Elu", {"alpha": 0.7}),
    ("selu", {"alpha": 1.6, "gamma": 1.05}, "Selu", {"alpha": 1.6, "gamma": 1.05}),
    ("celu", {"alpha": 0.6}, "Celu", {"alpha": 0.6}),
    ("hard_sigmoid", {"alpha": 0.3, "beta": 0.4}, "HardSigmoid", {"alpha": 0.3, "beta": 0.4}),
    ("thresholded_relu", {"alpha": 0.3}, "ThresholdedRelu", {"alpha": 0.3}),
    ("gelu", {"approximate": "none"}, "Gelu", {"approximate": "none"}),
    ("gelu", {"approximate": "tanh"}, "Gelu", {"approximate": "tanh"}),
]
INFINITE = np.array([0.0, -0.0, 1.5, -2.5, math.inf, -math.inf, math.nan, 3.5], np.float32)


def onnx_name(op: str) -> str:
    return "".join(part.capitalize() for part in op.split("_"))


@pytest.mark.parametrize("shape", [(), (1,), (3, 17)], ids=str)
@pytest.mark.parametrize("op", ANY + POSITIVE)
def test_functions_are_those_of_onnx(op: str, shape: tuple[int, ...]) -> None:
    x = 2 * floats(*shape)
    x = np.abs(x) + np.float32(0.25) if op in POSITIVE else x
    x = np.asarray(x)
    expected = reference(onnx_name(op), [x], runtime=op == "softsign")
    agree(op, meaning(op, [x]), expected)


@pytest.mark.parametrize(("op", "attrs", "op_type", "onnx_attrs"), WITH_ATTRS)
def test_activations_are_those_of_onnx(
    op: str, attrs: dict[str, NodeAttr], op_type: str, onnx_attrs: dict[str, object]
) -> None:
    x = 2 * floats(4, 9)
    agree(op, meaning(op, [x], **attrs), reference(op_type, [x], **onnx_attrs))


def test_silu_is_x_times_its_sigmoid() -> None:
    x = 3 * floats(40)
    agree("silu", meaning("silu", [x]), (x / (1 + np.exp(-x))).astype(np.float32))


@pytest.mark.parametrize("op", ["is_nan", "is_inf", "sign", "floor", "abs"])
def test_numbers_without_a_value_are_handled_as_in_onnx(op: str) -> None:
    name = {"is_nan": "IsNaN", "is_inf": "IsInf"}.get(op, onnx_name(op))
    agree(op, meaning(op, [INFINITE]), reference(name, [INFINITE]))
    compiled(op, [np.tile(INFINITE, 5)])


def test_large_numbers_do_not_overflow_softplus() -> None:
    x = np.array([-200.0, -20.0, 0.0, 20.0, 200.0], np.float32)
    expected = np.logaddexp(0.0, x.astype(np.float64)).astype(np.float32)
    agree("softplus", meaning("softplus", [x]), expected)


@pytest.mark.parametrize("dtype", ["int64", "int8"])
@pytest.mark.parametrize("op", ["neg", "abs", "sign", "relu", "identity"])
def test_functions_of_integers_keep_their_dtype(op: str, dtype: str) -> None:
    x = np.arange(-20, 20).astype(dtype)
    exact = {"neg": -x, "abs": abs(x), "sign": np.sign(x), "relu": np.maximum(x, 0)}
    agree(op, meaning(op, [x]), exact.get(op, x).astype(dtype))
    compiled(op, [x])


def test_not_flips_truth() -> None:
    x = floats(3, 7) > 0
    agree("not", meaning("not", [x]), ~x)
    compiled("not", [x])


@pytest.mark.parametrize(
    ("attrs", "dtype", "low", "high"),
    [
        ({"min": -0.5, "max": 0.5}, "float32", -0.5, 0.5),
        ({"min": 0.0}, "float32", 0.0, None),
        ({"max": 6.0}, "float16", None, 6.0),
        ({}, "float32", None, None),
        ({"min": -2.0, "max": math.inf}, "int64", -2, None),
        ({"min": -300.0, "max": 3.0}, "int8", None, 3),
    ],
)
def test_clip_bounds_what_it_has_bounds_for(
    attrs: dict[str, NodeAttr], dtype: str, low: float | None, high: float | None
) -> None:
    x = (10 * floats(50)).astype(dtype)
    agree("clip", meaning("clip", [x], **attrs), np.clip(x, low, high).astype(dtype))
    compiled("clip", [x], **attrs)


@pytest.mark.parametrize("to", ["float32", "float64", "float16", "int64", "int32", "uint8", "bool"])
@pytest.mark.parametrize("dtype", ["float32", "float16", "int64", "int8", "bool"])
def test_casts_truncate_and_compare_with_zero(dtype: str, to: str) -> None:
    rng = np.random.default_rng(3)
    x = rng.choice([0.0, 0.25, 1.0, 1.75, 2.5, 100.0], 40)
    x = (x > 1 if dtype == "bool" else x).astype(dtype)
    agree("cast", meaning("cast", [x], to=to), x.astype(to))
    compiled("cast", [x], to=to)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
@pytest.mark.parametrize("op", ["gelu", "relu", "exp"])
def test_kernels_of_other_floats_round_once(op: str, dtype: str) -> None:
    compiled(op, [floats(40, dtype=dtype)])


@pytest.mark.parametrize("op", [*ANY, "silu"])
def test_kernels_compute_functions(op: str) -> None:
    compiled(op, [floats(3, 21)])


@pytest.mark.parametrize(("op", "attrs"), [(op, attrs) for op, attrs, _, _ in WITH_ATTRS])
def test_kernels_compute_activations(op: str, attrs: dict[str, NodeAttr]) -> None:
    compiled(op, [floats(3, 21)], **attrs)


@pytest.mark.parametrize("op", ["sigmoid", "gelu", "softplus", "tan"])
def test_functions_of_floats_refuse_integers(op: str) -> None:
    with pytest.raises(ShapeError, match=rf"{op} of int64\[3\]: .*cast it first"):
        meaning(op, [np.arange(3)])


def test_an_unknown_approximation_is_refused() -> None:
    x: Array = floats(3)
    with pytest.raises(ShapeError, match="none or tanh"):
        meaning("gelu", [x], approximate="fast")
