from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from node_cases import agree, compiled, floats, meaning, reference

from loopwright.errors import ShapeError
from loopwright.ops.attributes import NodeAttr

ONNX = {"max_pool": "MaxPool", "average_pool": "AveragePool"}


def onnx_attrs(attrs: dict[str, NodeAttr]) -> dict[str, object]:
    made: dict[str, object] = {
        ("kernel_shape" if n == "kernel" else n): list(v) if isinstance(v, tuple) else v
        for n, v in attrs.items()
    }
    return made


@example(  # a dilated window that meets no element
    op="max_pool", extents=(1, 1), kernel=(2, 1), strides=(1, 1), dilations=(2, 1),
    pads=(1, 0, 1, 0), ceil_mode=0, count_include_pad=0,
)  # fmt: skip
@settings(max_examples=60, deadline=None)
@given(
    op=st.sampled_from(["max_pool", "average_pool"]),
    extents=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    kernel=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    strides=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    dilations=st.tuples(st.integers(1, 2), st.integers(1, 2)),
    pads=st.tuples(*[st.integers(0, 3)] * 4),
    ceil_mode=st.integers(0, 1),
    count_include_pad=st.integers(0, 1),
)
def test_pools_are_those_of_onnxruntime(
    op: str,
    extents: tuple[int, int],
    kernel: tuple[int, int],
    strides: tuple[int, int],
    dilations: tuple[int, int],
    pads: tuple[int, int, int, int],
    ceil_mode: int,
    count_include_pad: int,
) -> None:
    if op == "average_pool":
        dilations = 1, 1
    around = [(pads[0], pads[2]), (pads[1], pads[3])]
    for extent, k, d, (before, after) in zip(extents, kernel, dilations, around, strict=True):
        if max(before, after) >= k or extent + before + after < d * (k - 1) + 1:
            return
    attrs: dict[str, NodeAttr] = {
        "kernel": kernel,
        "strides": strides,
        "pads": pads,
        "ceil_mode": ceil_mode,
        "dilations": dilations,
    }
    if op == "average_pool":
        attrs["count_include_pad"] = count_include_pad
    x = floats(1, 2, *extents)
    expected = reference(ONNX[op], [x], runtime=True, **onnx_attrs(attrs))
    if op == "max_pool":  # onnxruntime's least number where ONNX pads with minus infinity
        expected = np.where(expected == np.finfo(np.float32).min, np.float32(-np.inf), expected)
    agree(op, meaning(op, [x], **attrs), expected)


@pytest.mark.parametrize("rank", [1, 3])
@pytest.mark.parametrize("op", ["max_pool", "average_pool"])
def test_pools_of_other_ranks(op: str, rank: int) -> None:
    x = floats(2, 3, *(7, 6, 5)[:rank])
    attrs: dict[str, NodeAttr] = {
        "kernel": (3,) * rank,
        "strides": (2,) * rank,
        "pads": (1,) * 2 * rank,
    }
    agree(op, meaning(op, [x], **attrs), reference(ONNX[op], [x], **onnx_attrs(attrs)))
    compiled(op, [x], **attrs)


CASES: dict[str, dict[str, NodeAttr]] = {
    "padded": {"kernel": (3, 3), "strides": (2, 2), "pads": (1, 1, 1, 1)},
    "plain": {"kernel": (2, 2), "strides": (2, 2)},
    "ceil": {"kernel": (3, 3), "strides": (2, 2), "ceil_mode": 1, "pads": (0, 0, 1, 1)},
    "dilated": {"kernel": (2, 3), "dilations": (2, 3), "pads": (1, 1, 1, 1)},
    "cut off": {"kernel": (2, 2), "strides": (4, 4)},
}


@pytest.mark.parametrize("op", ["max_pool", "average_pool"])
@pytest.mark.parametrize("case", CASES)
def test_kernels_pool(case: str, op: str) -> None:
    compiled(op, [floats(1, 5, 10, 11)], **CASES[case])


@pytest.mark.parametrize("op", ["max_pool", "average_pool"])
def test_kernels_pool_half_precision(op: str) -> None:
    compiled(op, [floats(1, 5, 10, 11, dtype="float16")], **CASES["padded"])


def test_averages_may_count_pads() -> None:
    attrs = {**CASES["ceil"], "count_include_pad": 1}
    compiled("average_pool", [floats(1, 5, 10, 11)], **attrs)


def test_windows_of_pads_alone_are_minus_infinity() -> None:
    x = np.full((1, 1, 2), -5.0, np.float32)
    found = meaning("max_pool", [x], kernel=(1,), pads=(1, 1))
    np.testing.assert_array_equal(found, [[[-np.inf, -5.0, -5.0, -np.inf]]])


def test_integers_are_pooled() -> None:
    x = np.arange(32, dtype=np.int8).reshape(1, 2, 4, 4) - np.int8(20)
    attrs = CASES["padded"]
    agree(
        "max_pool",
        meaning("max_pool", [x], **attrs),
        reference("MaxPool", [x], runtime=True, **onnx_attrs(attrs)),
    )
    compiled("max_pool", [x], **attrs)


@pytest.mark.parametrize(
    ("attrs", "message"),
    [
        ({}, "kernel is None"),
        ({"kernel": (2,)}, "needs data of 3 dimensions"),
        ({"kernel": (9, 9)}, "does not fit"),
        ({"kernel": (2, 2), "strides": (0, 1)}, "at least 1"),
        ({"kernel": (2, 2), "size": 3}, "unknown attribute 'size'"),
    ],
)
def test_pools_that_do_not_fit_are_refused(attrs: dict[str, NodeAttr], message: str) -> None:
    with pytest.raises(ShapeError, match=message):
        meaning("max_pool", [floats(1, 2, 5, 5)], **attrs)
