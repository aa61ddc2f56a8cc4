from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from graphs import Sketch, example
from hypothesis import example as always
from hypothesis import given, settings
from hypothesis import strategies as st

from loopwright.graph.evaluate import evaluate
from loopwright.graph.ir import Graph, verify
from loopwright.graph.passes.affine import fold_affine
from loopwright.graph.passes.cleanup import (
    fold_constants,
    merge_common,
    merge_moves,
    merge_pads,
    plain_arithmetic,
    remove_copies,
)
from loopwright.graph.passes.patterns import find_activations, find_layer_norms
from loopwright.graph.passes.pipeline import PASSES, simplify


def number(sketch: Sketch, value: float) -> str:
    return array(sketch, np.array(value, np.float32))


def array(sketch: Sketch, value: np.ndarray) -> str:
    name = sketch.weight(1)
    sketch.constants[name] = value.astype(np.float32)
    return name


def ops(graph: Graph) -> list[str]:
    return [node.op for node in graph.nodes]


def assert_same(before: Graph, after: Graph) -> None:
    verify(after)
    assert after.outputs == before.outputs
    inputs = example(before)
    for a, b in zip(evaluate(before, inputs), evaluate(after, inputs), strict=True):
        np.testing.assert_allclose(b, a, rtol=1e-4, atol=1e-5)


UNARY = ("relu", "tanh", "sigmoid", "abs", "identity")
KINDS = (
    *UNARY, "conv", "conv_transpose", "batch_norm", "scale", "shift", "minus", "share", "half",
    "pad", "turn", "turn", "reshape", "reshape", "gate", "add", "twice", "constant",
)  # fmt: skip


@st.composite
def graphs(draw: st.DrawFn) -> Graph:
    """Chains of images with what passes look for, and several outputs."""
    sketch = Sketch(seed=draw(st.integers(0, 99)))
    values = [sketch.input(1, 3, 4, 4)]
    for _ in range(draw(st.integers(1, 8))):
        x = draw(st.sampled_from(values[-3:]))
        values.append(_next(draw, sketch, x, draw(st.sampled_from(KINDS))))
    more = draw(st.lists(st.sampled_from(values[1:]), max_size=2))
    return sketch.graph(*dict.fromkeys([values[-1], *more]))


def _next(draw: st.DrawFn, sketch: Sketch, x: str, kind: str) -> str:
    shape = sketch.shape(x)
    channels = shape[1]
    if len(shape) != 4 or shape[2] * shape[3] > 100:
        return sketch.node("relu", x)
    match kind:
        case "conv":
            return sketch.conv(x, 4, draw(st.sampled_from([1, 3])))
        case "conv_transpose":
            weight = sketch.weight(channels, 2, 2, 2)
            return sketch.node("conv_transpose", x, weight, strides=(2, 2))
        case "batch_norm":
            names = [sketch.weight(channels) for _ in range(4)]
            sketch.constants[names[3]] = np.abs(sketch.constants[names[3]]) + 0.5
            return sketch.node("batch_norm", x, *names, epsilon=1e-3)
        case "scale" | "shift" | "minus" | "share":
            each = draw(st.sampled_from([(), (1,), (channels, 1, 1), (1, channels, 1, 1), shape]))
            op = {"scale": "mul", "shift": "add", "minus": "sub", "share": "div"}[kind]
            value = array(sketch, np.random.default_rng(len(sketch.nodes)).uniform(0.5, 2, each))
            turned = op in ("mul", "add", "sub") and draw(st.booleans())
            return sketch.node(op, *((value, x) if turned else (x, value)))
        case "half":
            return sketch.node("div", x, number(sketch, 2.0))
        case _:
            return _moved(draw, sketch, x, kind)


def _moved(draw: st.DrawFn, sketch: Sketch, x: str, kind: str) -> str:
    shape = sketch.shape(x)
    match kind:
        case "pad":
            pads = draw(st.sampled_from([(0, 0, 1, 0, 0, 0, 1, 2), (0,) * 8, (0, 1) + (0,) * 6]))
            return sketch.node("pad", x, pads=pads, mode="constant", value=0.0)
        case "turn":
            perm = draw(st.sampled_from([(0, 1, 3, 2), (1, 0, 2, 3), (0, 1, 2, 3)]))
            return sketch.node("transpose", x, perm=perm)
        case "reshape":
            wanted = draw(st.sampled_from([shape, (1, shape[0] * shape[1], shape[3], shape[2])]))
            return sketch.node("reshape", x, shape=wanted)
        case "gate":
            return sketch.node("mul", x, sketch.node("sigmoid", x))
        case "add":
            return sketch.node("add", sketch.node("tanh", x), sketch.node("tanh", x))
        case "twice":
            return sketch.node("add", x, x)
        case "constant":
            shift = sketch.node("exp", sketch.node("neg", array(sketch, np.ones(shape[2:]))))
            return sketch.node("mul", x, shift)
        case _:
            return sketch.node(kind, x)


@given(graphs())
@settings(max_examples=25, deadline=None)
def test_every_pass_keeps_the_meaning(graph: Graph) -> None:
    for step in PASSES:
        after = step(graph)
        assert_same(graph, after)
        graph = after


def turned_twice() -> Graph:
    """Transposes that move a dimension of one element, as reshapes do, there and back."""
    sketch = Sketch()
    x = sketch.node("transpose", sketch.input(1, 3, 4, 4), perm=(1, 0, 2, 3))
    return sketch.graph(sketch.node("transpose", x, perm=(1, 0, 2, 3)))


@always(turned_twice())
@given(graphs())
@settings(max_examples=12, deadline=None)
def test_simplifying_again_changes_nothing(graph: Graph) -> None:
    once = simplify(graph)
    assert str(simplify(once)) == str(once)


def test_what_depends_on_no_input_is_computed() -> None:
    sketch = Sketch()
    w = sketch.node("transpose", sketch.weight(2, 3), perm=(1, 0))
    graph = sketch.graph(sketch.node("matmul", sketch.input(4, 3), w))
    after = fold_constants(graph)
    assert ops(after) == ["matmul"]
    assert_same(graph, after)


def test_a_constant_that_would_be_large_is_left_to_be_computed() -> None:
    sketch = Sketch()
    w = sketch.node("expand", sketch.weight(1), shape=(1 << 20,))
    graph = sketch.graph(sketch.node("add", sketch.input(1 << 20), w))
    assert fold_constants(graph) is graph


def test_copies_go_and_outputs_keep_their_names() -> None:
    sketch = Sketch()
    x = sketch.input(2, 3)
    y = sketch.node("identity", sketch.node("relu", x))
    z = sketch.node("reshape", sketch.node("cast", y, to="float32"), shape=(2, 3))
    graph = sketch.graph(z, sketch.node("identity", x))
    after = remove_copies(graph)
    assert ops(after) == ["relu", "identity"]
    assert_same(graph, after)


def test_moves_of_moves_are_one_and_moves_of_single_rows_are_views() -> None:
    sketch = Sketch()
    x = sketch.node("transpose", sketch.input(2, 3, 4), perm=(2, 0, 1))
    x = sketch.node("transpose", x, perm=(1, 2, 0))
    y = sketch.node(
        "reshape", sketch.node("reshape", sketch.input(4, 6), shape=(24,)), shape=(8, 3)
    )
    z = sketch.node("transpose", sketch.input(1, 5, 1), perm=(1, 2, 0))
    graph = sketch.graph(x, y, z)
    after = merge_moves(graph)
    assert ops(after) == ["reshape", "reshape", "reshape"]
    assert_same(graph, after)


def test_nodes_that_compute_the_same_are_one() -> None:
    sketch = Sketch()
    x = sketch.input(2, 3)
    halves = [sketch.node("mul", x, number(sketch, 0.5)) for _ in range(2)]
    graph = sketch.graph(sketch.node("add", *(sketch.node("tanh", h) for h in halves)))
    after = merge_common(graph)
    assert ops(after) == ["mul", "tanh", "add"]
    assert_same(graph, after)


@pytest.mark.parametrize(
    ("divisor", "op"), [(8.0, "mul"), (0.25, "mul"), (3.0, "div"), (0.0, "div")]
)
def test_only_exact_divisions_become_products(divisor: float, op: str) -> None:
    sketch = Sketch()
    graph = sketch.graph(sketch.node("div", sketch.input(5), number(sketch, divisor)))
    assert ops(plain_arithmetic(graph)) == [op]


def test_zeros_around_an_image_are_pads_of_the_convolution() -> None:
    sketch = Sketch()
    x = sketch.node(
        "pad", sketch.input(1, 3, 5, 5), pads=(0, 0, 1, 0, 0, 0, 2, 1), mode="constant", value=0.0
    )
    graph = sketch.graph(sketch.conv(x, 4))
    after = merge_pads(graph)
    assert ops(after) == ["conv"]
    assert after.nodes[0].attrs["pads"] == (2, 1, 3, 2)
    assert_same(graph, after)


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("op", ["conv", "conv_transpose"])
def test_scales_and_shifts_of_channels_go_into_grouped_weights(op: str, groups: int) -> None:
    sketch = Sketch()
    shape = (6, 4 // groups, 3, 3) if op == "conv" else (4, 6 // groups, 3, 3)
    y = sketch.node(op, sketch.input(1, 4, 5, 5), sketch.weight(*shape), groups=groups)
    y = sketch.node("mul", y, sketch.weight(6, 1, 1))
    y = sketch.node("sub", y, sketch.weight(1, 6, 1, 1))
    graph = sketch.graph(sketch.node("div", y, number(sketch, 3.0)))
    after = fold_affine(graph)
    assert ops(after) == [op]
    assert_same(graph, after)


def test_scales_and_shifts_of_columns_go_into_a_product() -> None:
    for trans_b in (0, 1):
        sketch = Sketch()
        weight = sketch.weight(*((5, 3) if trans_b else (3, 5)))
        y = sketch.node("gemm", sketch.input(2, 3), weight, sketch.weight(5), trans_b=trans_b)
        y = sketch.node("add", sketch.node("mul", y, sketch.weight(5)), sketch.weight(1, 5))
        graph = sketch.graph(y)
        after = fold_affine(graph)
        assert ops(after) == ["gemm"]
        assert_same(graph, after)


@pytest.mark.parametrize("shape", [(5, 5), (1, 4, 5, 1), (2, 1, 1, 1), (1, 1, 4, 1, 1)])
def test_what_is_not_a_scale_of_channels_stays(shape: tuple[int, ...]) -> None:
    sketch = Sketch()
    y = sketch.conv(sketch.input(2, 3, 5, 5), 4)
    graph = sketch.graph(sketch.node("mul", y, sketch.weight(*shape)))
    assert fold_affine(graph) is graph


def test_a_weight_that_would_overflow_stays() -> None:
    sketch = Sketch()
    y = sketch.conv(sketch.input(1, 3, 5, 5), 4)
    y = sketch.node("mul", y, number(sketch, 3e38))
    y = sketch.node("mul", y, number(sketch, 3e38))
    assert ops(fold_affine(sketch.graph(y)))[-1] == "mul"


def test_the_tanh_form_of_gelu_is_named() -> None:
    def cubed(sketch: Sketch, x: str) -> str:
        cube = sketch.node("pow", x, number(sketch, 3.0))
        return sketch.node("add", x, sketch.node("mul", number(sketch, 0.044715), cube))

    def factored(sketch: Sketch, x: str) -> str:
        square = sketch.node("mul", sketch.node("mul", x, number(sketch, 0.044715)), x)
        return sketch.node("mul", x, sketch.node("add", number(sketch, 1.0), square))

    forms: tuple[Callable[[Sketch, str], str], ...] = (cubed, factored)
    for form in forms:
        sketch = Sketch()
        x = sketch.input(3, 4)
        inner = sketch.node("mul", form(sketch, x), number(sketch, 0.7978845608))
        gate = sketch.node("add", sketch.node("tanh", inner), number(sketch, 1.0))
        graph = sketch.graph(sketch.node("mul", sketch.node("mul", x, number(sketch, 0.5)), gate))
        after = find_activations(graph)
        assert [(n.op, n.attrs) for n in after.nodes] == [("gelu", {"approximate": "tanh"})]
        assert_same(graph, after)


def test_hard_swish_written_with_a_clip_is_named() -> None:
    sketch = Sketch()
    x = sketch.input(3, 4)
    gate = sketch.node("clip", sketch.node("add", x, number(sketch, 3.0)), min=0.0, max=6.0)
    graph = sketch.graph(sketch.node("div", sketch.node("mul", x, gate), number(sketch, 6.0)))
    after = find_activations(graph)
    assert ops(after) == ["hard_swish"]
    assert_same(graph, after)


@pytest.mark.parametrize("squares", ["pow", "mul"])
def test_a_layer_norm_that_is_spelled_out_is_named(squares: str) -> None:
    sketch = Sketch()
    x = sketch.input(2, 3, 8)
    off = sketch.node("sub", x, sketch.node("reduce_mean", x, axes=(2,), keepdims=1))
    other = number(sketch, 2.0) if squares == "pow" else off
    variance = sketch.node("reduce_mean", sketch.node(squares, off, other), axes=(2,), keepdims=1)
    root = sketch.node("sqrt", sketch.node("add", variance, number(sketch, 1e-5)))
    y = sketch.node("mul", sketch.weight(8), sketch.node("div", off, root))
    graph = sketch.graph(sketch.node("add", y, sketch.weight(8)))
    after = find_layer_norms(graph)
    assert ops(after) == ["layer_norm"]
    assert after.nodes[0].attrs["axis"] == 2
    assert_same(graph, after)
