"""Epilogues: what their text means, checked against NumPy."""

from __future__ import annotations

import math

import numpy as np
import pytest

from loopwright.errors import ShapeError
from loopwright.layout import Array
from loopwright.ops.epilogue import Epilogue, extras, parse, text_of
from loopwright.ops.opdef import StepOperand
from loopwright.ops.registry import build
from loopwright.te.reference import compare, evaluate


def sigmoid(x: Array) -> Array:
    return 1 / (1 + np.exp(-x))


def softplus(x: Array) -> Array:
    return np.logaddexp(x, 0)


def erf(x: Array) -> Array:
    return np.vectorize(math.erf)(x)


MEANING = {
    "relu": lambda x: np.maximum(x, 0),
    "clip(0,6)": lambda x: np.clip(x, 0, 6),
    "clip(-inf,0.5)": lambda x: np.minimum(x, 0.5),
    "clip(-0.5,inf)": lambda x: np.maximum(x, -0.5),
    "leaky_relu(0.1)": lambda x: np.where(x > 0, x, 0.1 * x),
    "leaky_relu(-2)": lambda x: np.where(x > 0, x, -2 * x),
    "elu(1.5)": lambda x: np.where(x > 0, x, 1.5 * (np.exp(x) - 1)),
    "sigmoid": sigmoid,
    "hard_sigmoid(0.2,0.5)": lambda x: np.clip(0.2 * x + 0.5, 0, 1),
    "silu": lambda x: x * sigmoid(x),
    "hard_swish": lambda x: x * np.clip(x / 6 + 0.5, 0, 1),
    "tanh": np.tanh,
    "erf": erf,
    "gelu": lambda x: 0.5 * x * (1 + erf(x / math.sqrt(2))),
    "gelu_tanh": lambda x: 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))),
    "softplus": softplus,
    "mish": lambda x: x * np.tanh(softplus(x)),
    "mulc(0.125)": lambda x: 0.125 * x,
    "addc(-3)": lambda x: x - 3,
}
DENSE = {"data": (5, 6), "weight": (7, 6)}


@pytest.mark.parametrize("text", MEANING)
def test_a_step_means_what_its_name_says(text: str) -> None:
    rng = np.random.default_rng(0)
    task = build("dense", **DENSE, dtype="float64", epilogue=text)
    arrays = [rng.uniform(-3, 3, t.shape) for t in task.inputs]
    wanted = MEANING[text](arrays[0] @ arrays[1].T)
    (found,) = evaluate(task, arrays)
    np.testing.assert_allclose(found, wanted, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("text", [t for t in MEANING if t[0] in "sgmeth"])
def test_far_from_zero_nothing_overflows(text: str) -> None:
    task = build("dense", data=(4, 1), weight=(1, 1), epilogue=text)
    x = np.array([[-1e4], [-88.0], [88.0], [1e4]], np.float32)
    (found,) = evaluate(task, [x, np.ones((1, 1), np.float32)])
    with np.errstate(over="ignore"):
        wanted = MEANING[text](x.astype(np.float64))
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("operator", "shapes", "channel"),
    [
        ("conv2d", {"data": (2, 3, 5, 5), "weight": (4, 3, 3, 3), "padding": (1, 1, 1, 1)}, 1),
        ("depthwise_conv2d", {"data": (2, 4, 5, 5), "weight": (4, 1, 3, 3)}, 1),
        ("dense", {"data": (3, 6), "weight": (5, 6)}, 1),
        ("matmul", {"a": (3, 6), "b": (6, 5), "constant_b": True}, 1),
        ("batch_matmul", {"a": (2, 3, 6), "b": (2, 6, 5)}, 2),
    ],
)
def test_inputs_come_in_the_order_of_the_steps(
    operator: str, shapes: dict[str, object], channel: int
) -> None:
    steps = "scale,add,prelu,mul,scale,relu,prelu,shift,addc(1),shift"
    task = build(operator, **shapes, bias=True, relu=True, epilogue=steps)
    plain = build(operator, **shapes)
    names = ["bias", "scale", "residual", "slope", "residual1", "scale1", "slope1"]
    names += ["shift", "shift1"]
    assert [t.name for t in task.inputs[2:]] == names
    assert task.constants - {"weight", "B"} == {n for n in names if n[:3] != "res"}
    rng = np.random.default_rng(1)
    arrays = [rng.uniform(-1, 1, t.shape).astype(np.float32) for t in task.inputs]
    (x,) = evaluate(plain, arrays[:2])
    along = [1] * x.ndim
    along[channel] = -1
    bias, scale, residual, slope, other, scale1, _, shift, shift1 = (
        a.reshape(along) if a.ndim == 1 else a for a in arrays[2:]
    )
    x = (x + bias) * scale + residual
    x = np.where(x > 0, x, x * slope) * other * scale1
    wanted = np.maximum(np.maximum(x, 0) + shift + 1 + shift1, 0)
    assert compare(task, wanted, evaluate(task, arrays)[0]) is None


def test_an_epilogue_is_one_output_stage() -> None:
    task = build("dense", **DENSE, bias=True, epilogue="add,gelu,mul,mish", relu=True)
    assert [s.name for s in task.stages] == ["dense", "out"]


def test_without_an_epilogue_the_workload_is_the_same() -> None:
    assert build("dense", **DENSE, relu=True).key == build("dense", **DENSE, epilogue="relu").key
    assert build("dense", **DENSE).key == build("dense", **DENSE, epilogue=" ").key


def test_an_epilogue_is_computed_in_the_accumulator() -> None:
    task = build("dense", **DENSE, dtype="float16", epilogue="mulc(100),mulc(1000),mulc(0.00001)")
    rng = np.random.default_rng(2)
    arrays = [rng.uniform(-1, 1, t.shape).astype(np.float16) for t in task.inputs]
    (found,) = evaluate(task, arrays)
    wide = arrays[0].astype(np.float32) @ arrays[1].astype(np.float32).T
    np.testing.assert_allclose(found.astype(np.float32), wide, rtol=2e-3, atol=2e-3)


def test_text_and_steps_agree() -> None:
    text = "add,clip(0.0,6.0),leaky_relu(0.1),scale,mulc(1e-07),clip(-inf,inf),gelu_tanh,gelu"
    assert text_of(parse(text)) == text
    assert parse(" clip( 0 , 6.0 ) , add ") == (
        Epilogue("clip", (("max", 6.0), ("min", 0.0))),
        Epilogue("add", operand=StepOperand.TENSOR),
    )
    assert [e and e.name for e in extras(parse("relu,mul,add"))] == [None, "residual", "residual1"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("rleu", "unknown step 'rleu'; the steps are add, shift, mul"),
        ("relu,", "cannot read ''"),
        ("relu add", "cannot read 'relu add'"),
        ("clip(0,6", r"cannot read 'clip\(0,6'"),
        ("clip(0)", "clip takes 2 numbers, got 1"),
        ("relu(1)", "relu takes 0 numbers, got 1"),
        ("add(2)", "add takes 0 numbers, got 1"),
        ("mulc(x)", r"\(x\) of mulc is not a list of numbers"),
    ],
)
def test_a_step_that_cannot_be_read_is_refused(text: str, words: str) -> None:
    with pytest.raises(ShapeError, match=words):
        build("dense", **DENSE, epilogue=text)
