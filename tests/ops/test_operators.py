from __future__ import annotations

import numpy as np
import onnxruntime
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from loopwright.errors import LoopwrightError, ShapeError, UnsupportedError
from loopwright.layout import Array
from loopwright.ops.registry import FORMS, attributes, build
from loopwright.te.reference import compare, evaluate
from loopwright.te.workload import Workload


def inputs(task: Workload, seed: int = 0) -> list[Array]:
    rng = np.random.default_rng(seed)
    return [rng.uniform(-1, 1, t.shape).astype(t.dtype.numpy) for t in task.inputs]


def onnxruntime_conv(arrays: list[Array], attrs: dict[str, object]) -> Array:
    """What onnxruntime makes of data, weight and perhaps bias."""
    names = ["data", "weight", "bias"][: len(arrays)]
    shapes = [
        helper.make_tensor_value_info(n, TensorProto.FLOAT, a.shape)
        for n, a in zip(names, arrays, strict=True)
    ]
    node = helper.make_node("Conv", names, ["out"], **attrs)
    result = helper.make_tensor_value_info("out", TensorProto.FLOAT, None)
    model = helper.make_model(
        helper.make_graph([node], "conv", shapes, [result]),
        opset_imports=[helper.make_opsetid("", 17)],
        ir_version=9,
    )
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    (found,) = session.run(None, dict(zip(names, arrays, strict=True)))
    return np.asarray(found)


pairs = st.tuples(st.integers(1, 2), st.integers(1, 2))


@settings(max_examples=40, deadline=None)
@given(
    operator=st.sampled_from(["conv2d", "depthwise_conv2d"]),
    batch=st.integers(1, 2),
    groups=st.integers(1, 3),
    channels=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    size=st.tuples(st.integers(1, 7), st.integers(1, 7)),
    kernel=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    strides=pairs,
    dilation=pairs,
    padding=st.tuples(*[st.integers(0, 2)] * 4),
    bias=st.booleans(),
    relu=st.booleans(),
)
def test_convolutions_are_those_of_onnxruntime(
    operator: str,
    batch: int,
    groups: int,
    channels: tuple[int, int],
    size: tuple[int, int],
    kernel: tuple[int, int],
    strides: tuple[int, int],
    dilation: tuple[int, int],
    padding: tuple[int, int, int, int],
    bias: bool,
    relu: bool,
) -> None:
    for extent, taps, gap, before, after in zip(
        size, kernel, dilation, padding[:2], padding[2:], strict=True
    ):
        assume(extent + before + after > gap * (taps - 1))
    depth = channels[0] if operator == "conv2d" else 1
    attrs = {
        "data": (batch, depth * groups, *size),
        "weight": (channels[1] * groups, depth, *kernel),
        "strides": strides,
        "padding": padding,
        "dilation": dilation,
        "bias": bias,
        "relu": relu,
    }
    task = build(operator, **attrs, **({"groups": groups} if operator == "conv2d" else {}))
    arrays = inputs(task)
    wanted = onnxruntime_conv(
        arrays,
        {"group": groups, "strides": strides, "dilations": dilation, "pads": padding},
    )
    (found,) = evaluate(task, arrays)
    assert compare(task, np.maximum(wanted, 0) if relu else wanted, found) is None


@pytest.mark.parametrize("flip_a", [False, True])
@pytest.mark.parametrize("flip_b", [False, True])
@pytest.mark.parametrize("batch", [(), (3,)])
def test_products_are_those_of_numpy(batch: tuple[int, ...], flip_a: bool, flip_b: bool) -> None:
    task = build(
        "batch_matmul" if batch else "matmul",
        a=(*batch, 5, 4) if flip_a else (*batch, 4, 5),
        b=(*batch, 6, 5) if flip_b else (*batch, 5, 6),
        transpose_a=flip_a,
        transpose_b=flip_b,
    )
    a, b = inputs(task)
    left = np.swapaxes(a, -1, -2) if flip_a else a
    right = np.swapaxes(b, -1, -2) if flip_b else b
    assert compare(task, left @ right, evaluate(task, [a, b])[0]) is None


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("relu", [False, True])
def test_dense_is_a_product_with_the_weight_transposed(bias: bool, relu: bool) -> None:
    task = build("dense", data=(3, 8), weight=(5, 8), bias=bias, relu=relu)
    arrays = inputs(task)
    wanted = arrays[0] @ arrays[1].T + (arrays[2] if bias else 0)
    (found,) = evaluate(task, arrays)
    assert compare(task, np.maximum(wanted, 0) if relu else wanted, found) is None


@pytest.mark.parametrize("dtype", ["float64", "float16", "bfloat16"])
def test_every_float_dtype_is_summed_in_its_accumulator(dtype: str) -> None:
    task = build("dense", data=(3, 400), weight=(5, 400), dtype=dtype, bias=True)
    arrays = inputs(task)
    wide = [a.astype(np.float64) for a in arrays]
    wanted = (wide[0] @ wide[1].T + wide[2]).astype(arrays[0].dtype)
    (found,) = evaluate(task, arrays)
    assert found.dtype == wanted.dtype
    assert compare(task, wanted, found) is None


def test_only_stages_that_are_needed_are_there() -> None:
    shapes = {"data": (1, 4, 8, 8), "weight": (4, 4, 3, 3)}
    plain = build("conv2d", **shapes)
    assert [s.name for s in plain.stages] == ["conv"]
    whole = build("conv2d", **shapes, padding=(1, 1, 1, 1), bias=True, relu=True)
    assert [s.name for s in whole.stages] == ["data.pad", "conv", "out"]
    assert whole.constants == {"weight", "bias"}
    assert [t.name for t in whole.args] == ["data", "weight", "bias", "out"]


def test_padding_is_top_left_bottom_right() -> None:
    task = build("conv2d", data=(1, 1, 2, 2), weight=(1, 1, 1, 1), padding=(1, 0, 2, 3))
    data = np.ones((1, 1, 2, 2), np.float32)
    (found,) = evaluate(task, [data, np.ones((1, 1, 1, 1), np.float32)])
    wanted = np.zeros((5, 5), np.float32)
    wanted[1:3, 0:2] = 1
    np.testing.assert_array_equal(found[0, 0], wanted)


def test_defaults_are_filled_in_and_lists_become_tuples() -> None:
    found = dict(attributes("conv2d", data=[1, 3, 8, 8], weight=[4, 3, 3, 3]))
    assert found["data"] == (1, 3, 8, 8)
    assert found["strides"] == found["dilation"] == (1, 1)
    assert found["padding"] == (0, 0, 0, 0)
    assert (found["groups"], found["bias"], found["dtype"]) == (1, False, "float32")


CONV = {"data": (1, 4, 8, 8), "weight": (4, 4, 3, 3)}


@pytest.mark.parametrize(
    ("operator", "attrs", "kind", "words"),
    [
        ("conv9d", {}, UnsupportedError, "unknown operator 'conv9d'; use one of conv2d, "),
        ("conv2d", {"data": (1, 4, 8, 8)}, ShapeError, "conv2d: weight is missing"),
        ("conv2d", {**CONV, "pad": 1}, ShapeError, "unknown attribute 'pad'; it takes data, "),
        ("conv2d", {**CONV, "strides": (0, 1)}, ShapeError, r"strides=\(0, 1\) has an entry less"),
        ("conv2d", {**CONV, "strides": 2}, ShapeError, "strides=2 is not a tuple of integers"),
        ("conv2d", {**CONV, "padding": (1, 1)}, ShapeError, r"padding=\(1, 1\) needs 4 entries"),
        ("conv2d", {**CONV, "padding": (-1, 0, 0, 0)}, ShapeError, "an entry less than 0"),
        ("conv2d", {**CONV, "weight": (4, 3, 3, 3)}, ShapeError, "conv2d: data .* expects 3"),
        ("conv2d", {**CONV, "groups": 3}, ShapeError, "groups=3 does not divide 4"),
        ("conv2d", {**CONV, "dilation": (4, 4)}, ShapeError, "does not fit data 8x8"),
        ("conv2d", {**CONV, "relu": 1}, ShapeError, "relu=1 is not of type bool"),
        ("conv2d", {**CONV, "data": (1, 4, -8, 8)}, ShapeError, "an entry less than 1"),
        ("conv2d", {**CONV, "dtype": "int8"}, UnsupportedError, "dtype int8 is not supported"),
        ("conv2d", {**CONV, "dtype": "f32"}, UnsupportedError, "dtype 'f32' is not supported"),
        ("depthwise_conv2d", CONV, ShapeError, r"must be \(k\*4, 1, kh, kw\)"),
        ("dense", {"data": (3, 4), "weight": (5, 6)}, ShapeError, "has 4 columns, weight"),
        ("matmul", {"a": (3, 4), "b": (5, 6)}, ShapeError, "sums over 4"),
        ("batch_matmul", {"a": (2, 3, 4), "b": (3, 4, 5)}, ShapeError, "different batch extents"),
    ],
)
def test_bad_attributes_are_refused_in_one_line(
    operator: str, attrs: dict[str, object], kind: type[LoopwrightError], words: str
) -> None:
    with pytest.raises(kind, match=words) as caught:
        build(operator, **attrs)
    assert "\n" not in str(caught.value)


def test_every_operator_says_what_it_is() -> None:
    for name, op in FORMS.items():
        assert name == op.name
        assert op.summary
        assert {"dtype"} <= {a.name for a in op.attrs}
