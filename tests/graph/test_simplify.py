from __future__ import annotations

import math

import numpy as np
import pytest
from graphs import Sketch, example

from loopwright.graph.evaluate import evaluate
from loopwright.graph.ir import Graph, verify
from loopwright.graph.passes.pipeline import simplify
from loopwright.graph.passes.transposed import transposed_to_plain


def same(before: Graph, after: Graph) -> None:
    """Assert that both graphs are whole and compute the same."""
    verify(after)
    inputs = example(before)
    for a, b in zip(evaluate(before, inputs), evaluate(after, inputs), strict=True):
        np.testing.assert_allclose(b, a, rtol=1e-4, atol=1e-5)


def ops(graph: Graph) -> list[str]:
    return [node.op for node in graph.nodes]


def normed(sketch: Sketch, x: str) -> str:
    channels = sketch.shape(x)[1]
    names = [sketch.weight(channels) for _ in range(4)]
    sketch.constants[names[3]] = np.abs(sketch.constants[names[3]]) + 0.5
    return sketch.node("batch_norm", x, *names, epsilon=1e-3)


def test_a_normalisation_goes_into_the_convolution_before_it() -> None:
    sketch = Sketch()
    graph = sketch.graph(normed(sketch, sketch.conv(sketch.input(1, 3, 5, 5), 4)))
    after = simplify(graph)
    assert ops(after) == ["conv"]
    same(graph, after)


def test_a_normalisation_goes_into_a_transposed_convolution() -> None:
    sketch = Sketch()
    x = sketch.input(1, 3, 4, 4)
    y = sketch.node("conv_transpose", x, sketch.weight(3, 5, 2, 2), strides=(2, 2))
    graph = sketch.graph(normed(sketch, y))
    after = simplify(graph)
    assert not {"batch_norm", "mul"} & set(ops(after))
    same(graph, after)


def test_a_normalisation_of_a_value_that_others_read_becomes_a_scale_and_a_shift() -> None:
    sketch = Sketch()
    y = sketch.conv(sketch.input(1, 3, 5, 5), 4)
    graph = sketch.graph(normed(sketch, y), sketch.node("relu", y))
    after = simplify(graph)
    assert sorted(ops(after)) == ["add", "conv", "mul", "relu"]
    same(graph, after)


@pytest.mark.parametrize("half_first", [False, True])
@pytest.mark.parametrize("divides", [False, True])
def test_a_gelu_that_is_spelled_out_is_named(*, half_first: bool, divides: bool) -> None:
    sketch = Sketch()
    x = sketch.input(3, 7)

    def number(value: float) -> str:
        name = sketch.weight(1)
        sketch.constants[name] = np.array(value, np.float32)
        return name

    root = number(math.sqrt(2) if divides else math.sqrt(0.5))
    erf = sketch.node("erf", sketch.node("div" if divides else "mul", x, root))
    gate = sketch.node("add", erf, number(1.0))
    if half_first:
        y = sketch.node("mul", sketch.node("mul", number(0.5), x), gate)
    else:
        y = sketch.node("mul", sketch.node("mul", x, gate), number(0.5))
    graph = sketch.graph(y)
    after = simplify(graph)
    assert ops(after) == ["gelu"]
    same(graph, after)


def test_what_only_looks_like_an_activation_is_left_alone() -> None:
    sketch = Sketch()
    x, y = sketch.input(2, 3), sketch.input(2, 3)
    graph = sketch.graph(sketch.node("mul", y, sketch.node("sigmoid", x)))
    assert ops(simplify(graph)) == ["sigmoid", "mul"]


def test_silu_hard_swish_and_mish_are_named() -> None:
    sketch = Sketch()
    x = sketch.input(2, 5)
    silu = sketch.node("mul", x, sketch.node("sigmoid", x))
    swish = sketch.node("mul", sketch.node("hard_sigmoid", silu, alpha=1 / 6, beta=0.5), silu)
    mish = sketch.node("mul", swish, sketch.node("tanh", sketch.node("softplus", swish)))
    graph = sketch.graph(mish)
    after = simplify(graph)
    assert ops(after) == ["silu", "hard_swish", "mish"]
    same(graph, after)


@pytest.mark.parametrize(
    ("size", "kernel", "stride", "pad", "plain"),
    [
        (1, 4, 1, 0, "gemm"),
        (4, 4, 2, 1, "conv"),
        (3, 2, 2, 0, "conv"),
        (5, 3, 1, 1, "conv"),
        (4, 3, 2, 1, "conv_transpose"),  # 7 rows, which the stride does not divide
    ],
)
def test_transposed_convolutions_become_plain_ones(
    size: int, kernel: int, stride: int, pad: int, plain: str
) -> None:
    sketch = Sketch()
    y = sketch.node(
        "conv_transpose",
        sketch.input(1, 3, size, size),
        sketch.weight(3, 4, kernel, kernel),
        sketch.weight(4),
        strides=(stride, stride),
        pads=(pad,) * 4,
    )
    graph = sketch.graph(y)
    after = transposed_to_plain(graph)
    assert plain in ops(after)
    assert ("conv_transpose" in ops(after)) is (plain == "conv_transpose")
    same(graph, after)


def test_simplifying_keeps_the_meaning() -> None:
    sketch = Sketch()
    x = sketch.node("relu", normed(sketch, sketch.conv(sketch.input(1, 4, 4, 4), 8)))
    y = sketch.node(
        "conv_transpose", x, sketch.weight(8, 4, 4, 4), strides=(2, 2), pads=(1, 1, 1, 1)
    )
    graph = sketch.graph(sketch.node("tanh", normed(sketch, y)))
    same(graph, simplify(graph))
