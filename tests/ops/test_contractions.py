from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from node_cases import agree, compiled, floats, meaning, reference, workload_of

from loopwright.errors import ShapeError
from loopwright.layout import Array
from loopwright.ops import registry as operators
from loopwright.ops.attributes import NodeAttr

Attrs = Mapping[str, NodeAttr]
ONNX_NAMES = {"groups": "group", "trans_a": "transA", "trans_b": "transB"}

CONVS: Mapping[str, tuple[tuple[int, ...], tuple[int, ...], Attrs]] = {
    "2-d": ((1, 3, 9, 9), (8, 3, 3, 3), {"pads": (1, 1, 1, 1), "strides": (2, 2)}),
    "asymmetric": ((2, 3, 7, 9), (4, 3, 3, 2), {"pads": (0, 1, 2, 0)}),
    "dilated": ((1, 4, 9, 9), (5, 4, 3, 3), {"dilations": (2, 3), "pads": (2, 3, 2, 3)}),
    "groups": ((1, 6, 7, 7), (4, 3, 3, 3), {"groups": 2}),
    "depthwise": ((1, 8, 7, 7), (8, 1, 3, 3), {"groups": 8, "pads": (1, 1, 1, 1)}),
    "depthwise, more kernels": ((1, 4, 7, 7), (8, 1, 3, 3), {"groups": 4}),
    "1-d": ((1, 4, 12), (6, 2, 3), {"groups": 2, "dilations": (2,), "pads": (1, 2)}),
    "3-d": ((1, 2, 5, 6, 7), (3, 2, 2, 3, 2), {"pads": (1, 0, 1, 0, 1, 0)}),
}
TRANSPOSED: Mapping[str, tuple[tuple[int, ...], tuple[int, ...], Attrs]] = {
    "plain": ((1, 3, 5, 6), (3, 4, 3, 3), {}),
    "twice the size": (
        (1, 3, 5, 5),
        (3, 4, 4, 4),
        {"strides": (2, 2), "pads": (1, 1, 1, 1)},
    ),
    "phases of different lengths": (
        (2, 3, 5, 5),
        (3, 2, 3, 3),
        {"strides": (2, 2), "pads": (1, 1, 1, 1), "output_padding": (1, 1)},
    ),
    "kernel less than stride": ((1, 2, 4, 4), (2, 3, 2, 1), {"strides": (3, 2)}),
    "groups": (
        (1, 4, 5, 5),
        (4, 2, 3, 3),
        {"strides": (2, 3), "groups": 2, "dilations": (2, 1), "output_padding": (1, 0)},
    ),
    "1-d": ((1, 2, 7), (2, 3, 5), {"strides": (3,), "pads": (4, 1), "dilations": (2,)}),
    "3-d": ((1, 2, 3, 3, 3), (2, 2, 2, 2, 2), {"strides": (2, 1, 2)}),
}


def onnx_attrs(attrs: Attrs) -> dict[str, object]:
    return {ONNX_NAMES.get(n, n): list(v) if isinstance(v, tuple) else v for n, v in attrs.items()}


@pytest.mark.parametrize("with_bias", [False, True])
@pytest.mark.parametrize("case", CONVS)
def test_convolutions_are_those_of_onnx(case: str, with_bias: bool) -> None:
    data, weight, attrs = CONVS[case]
    arrays = [floats(*data), floats(*weight, seed=1)]
    arrays += [floats(weight[0], seed=2)] if with_bias else []
    expected = reference("Conv", arrays, runtime=True, **onnx_attrs(attrs))
    agree("conv", meaning("conv", arrays, **attrs), expected, 1e-4)


@pytest.mark.parametrize("case", CONVS)
def test_kernels_convolve(case: str) -> None:
    data, weight, attrs = CONVS[case]
    arrays = [floats(*data), floats(*weight, seed=1), floats(weight[0], seed=2)]
    compiled("conv", arrays, **attrs)


def test_a_convolution_has_the_stages_that_templates_know() -> None:
    arrays = [floats(1, 3, 9, 9), floats(8, 3, 3, 3), floats(8)]
    made = workload_of("conv", arrays, pads=(1, 1, 1, 1))
    known = operators.build(
        "conv2d", data=(1, 3, 9, 9), weight=(8, 3, 3, 3), padding=(1, 1, 1, 1), bias=True
    )
    kinds = [(t.shape, [a.extent for a in t.reduce_axis], len(t.inputs)) for t in made.stages]
    assert kinds == [
        (t.shape, [a.extent for a in t.reduce_axis], len(t.inputs)) for t in known.stages
    ]
    assert [t.name for t in made.stages] == ["out.pad", "out.conv", "out"]


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
def test_other_floats_are_convolved(dtype: str) -> None:
    arrays = [floats(1, 3, 6, 6, dtype=dtype), floats(4, 3, 3, 3, dtype=dtype)]
    assert meaning("conv", arrays).dtype == arrays[0].dtype
    compiled("conv", arrays)


@pytest.mark.parametrize("case", TRANSPOSED)
def test_transposed_convolutions_are_those_of_onnx(case: str) -> None:
    data, weight, attrs = TRANSPOSED[case]
    groups = attrs.get("groups", 1)
    assert isinstance(groups, int)
    bias = floats(weight[1] * groups, seed=2)
    arrays = [floats(*data), floats(*weight, seed=1), bias]
    expected = reference("ConvTranspose", arrays, runtime=True, **onnx_attrs(attrs))
    agree("conv_transpose", meaning("conv_transpose", arrays, **attrs), expected, 1e-4)
    compiled("conv_transpose", arrays, **attrs)


@settings(max_examples=40, deadline=None)
@given(
    extent=st.integers(1, 6),
    kernel=st.integers(1, 5),
    stride=st.integers(1, 4),
    dilation=st.integers(1, 3),
    before=st.integers(0, 3),
    after=st.integers(0, 3),
    extra=st.integers(0, 2),
)
def test_transposed_convolutions_of_any_window(
    extent: int, kernel: int, stride: int, dilation: int, before: int, after: int, extra: int
) -> None:
    out = (extent - 1) * stride + dilation * (kernel - 1) + 1 - before - after + extra
    if out < 1 or extra >= max(stride, dilation):
        return
    data, weight = floats(1, 2, extent), floats(2, 1, kernel, seed=1)
    whole = np.zeros((1, 1, (extent - 1) * stride + dilation * (kernel - 1) + 1 + extra))
    for i in range(extent):
        for k in range(kernel):
            whole[0, 0, i * stride + k * dilation] += data[0, :, i] @ weight[:, 0, k]
    expected = whole[..., before : before + out].astype(np.float32)
    attrs: dict[str, NodeAttr] = {
        "strides": (stride,),
        "dilations": (dilation,),
        "pads": (before, after),
        "output_padding": (extra,),
    }
    agree("conv_transpose", meaning("conv_transpose", [data, weight], **attrs), expected, 1e-4)


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ((5, 7), (7, 9)),
        ((2, 1, 5, 7), (3, 7, 9)),
        ((7,), (3, 7, 9)),
        ((3, 5, 7), (7,)),
        ((7,), (7,)),
        ((2, 5, 7), (7, 1)),
    ],
    ids=str,
)
def test_products_are_those_of_numpy(a: tuple[int, ...], b: tuple[int, ...]) -> None:
    arrays = [floats(*a), floats(*b, seed=1)]
    agree("matmul", meaning("matmul", arrays), np.asarray(np.matmul(*arrays)), 1e-4)
    compiled("matmul", arrays)


@pytest.mark.parametrize("dtype", ["float16", "int32"])
def test_products_of_other_dtypes(dtype: str) -> None:
    arrays = [(3 * floats(4, 6)).astype(dtype), (3 * floats(6, 8, seed=1)).astype(dtype)]
    agree("matmul", meaning("matmul", arrays), np.matmul(*arrays), 1e-2)
    compiled("matmul", arrays)


@pytest.mark.parametrize("c", [None, (9,), (5, 1), (5, 9), ()], ids=str)
@pytest.mark.parametrize(
    "attrs",
    [{}, {"trans_b": 1}, {"trans_a": 1, "alpha": 0.5, "beta": 0.25}, {"beta": 0.0}],
    ids=str,
)
def test_general_products_are_those_of_onnx(attrs: Attrs, c: tuple[int, ...] | None) -> None:
    a = floats(*((7, 5) if attrs.get("trans_a") else (5, 7)))
    b = floats(*((9, 7) if attrs.get("trans_b") else (7, 9)), seed=1)
    arrays: list[Array] = [a, b] if c is None else [a, b, np.asarray(floats(*c, seed=2))]
    expected = reference("Gemm", arrays, runtime=True, **onnx_attrs(attrs))
    agree("gemm", meaning("gemm", arrays, **attrs), expected, 1e-4)


@pytest.mark.parametrize("attrs", [{}, {"trans_b": 1}, {"trans_a": 1, "alpha": 0.5}], ids=str)
def test_kernels_compute_general_products(attrs: Attrs) -> None:
    a = floats(*((7, 5) if attrs.get("trans_a") else (5, 7)))
    b = floats(*((9, 7) if attrs.get("trans_b") else (7, 9)), seed=1)
    compiled("gemm", [a, b, floats(9)], **attrs)


@pytest.mark.parametrize(
    ("op", "shapes", "attrs", "message"),
    [
        ("conv", [(1, 3, 5, 5), (4, 2, 3, 3)], {}, r"the weight must be \(o \* 1, 3"),
        ("conv", [(1, 3, 5, 5), (4, 3, 3, 3)], {"groups": 2}, "2 groups do not divide 3"),
        ("conv", [(1, 3, 2, 2), (4, 3, 3, 3)], {}, "does not fit"),
        ("conv", [(1, 3, 5, 5), (4, 3, 3, 3)], {"strides": (1,)}, "need 2 numbers"),
        ("conv", [(1, 3, 5, 5), (4, 3, 3, 3)], {"pads": (1, 1)}, "needs 4 numbers"),
        ("conv", [(1, 3, 5, 5), (4, 3, 3, 3), (3,)], {}, "bias"),
        ("conv", [(1, 3), (4, 3)], {}, "1 to 3 spatial"),
        ("conv_transpose", [(1, 3, 5), (2, 3, 3)], {}, "3 input channels"),
        ("conv_transpose", [(1, 3, 1), (3, 3, 1)], {"pads": (1, 1)}, "leave nothing"),
        ("matmul", [(3, 4), (5, 6)], {}, "last dimension"),
        ("matmul", [(2, 3, 4), (3, 4, 6)], {}, "do not broadcast"),
        ("gemm", [(3, 4), (5, 6)], {}, "a sums over 4 elements, b over 5"),
        ("gemm", [(3, 4), (4, 6), (3,)], {}, "do not broadcast"),
        ("gemm", [(3, 4, 5), (5, 6)], {}, "must be matrices"),
    ],
)
def test_contractions_that_do_not_fit_are_refused(
    op: str, shapes: list[tuple[int, ...]], attrs: Attrs, message: str
) -> None:
    with pytest.raises(ShapeError, match=message):
        meaning(op, [floats(*shape) for shape in shapes], **attrs)
