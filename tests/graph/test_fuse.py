"""Which convolutions become one kernel."""

from __future__ import annotations

import pytest
from graphs import Sketch

from loopwright.graph.fuse import FusedKernel, fuse
from loopwright.graph.ir import Graph


def kernels(graph: Graph) -> list[tuple[str, tuple[str, ...]]]:
    return [(k.operator, k.nodes) for k in fuse(graph).steps if isinstance(k, FusedKernel)]


def block(channels: int = 16, **pointwise: tuple[int, int]) -> tuple[Sketch, str, str]:
    """A depthwise convolution with an activation, and the 1x1 convolution that reads it."""
    sketch = Sketch()
    x = sketch.input(1, channels, 6, 6)
    depth = sketch.conv(x, channels, groups=channels)
    between = sketch.node("clip", depth, min=0.0, max=6.0)
    return sketch, between, sketch.conv(between, 24, kernel=1, **pointwise)


def test_a_1x1_convolution_is_computed_with_the_depthwise_one_that_it_reads() -> None:
    sketch, _, wide = block()
    other = sketch.conv("x0", 24, kernel=1)
    end = sketch.node("relu", sketch.node("add", wide, other))
    (one, first), (two, second) = kernels(sketch.graph(end))
    assert (one, first) == ("conv2d", ("conv3",))
    assert (two, second) == ("separable_conv2d", ("conv0", "clip1", "conv2", "add4", "relu5"))
    (kernel,) = [k for k in fuse(sketch.graph(end)).kernels if k.operator == two]
    assert dict(kernel.attrs)["depthwise_epilogue"] == "clip(0.0,6.0)"
    assert dict(kernel.attrs)["epilogue"] == "add"
    assert kernel.inputs == ("x0", "w0", "w1", "w2", "w3", "conv3.y")


def test_what_lies_between_is_kept_where_it_is_read_again() -> None:
    sketch, between, wide = block()
    assert [name for name, _ in kernels(sketch.graph(wide, between))] == [
        "depthwise_conv2d",
        "conv2d",
    ]
    again = sketch.node("exp", between)
    assert "separable_conv2d" not in dict(kernels(sketch.graph(wide, again)))


@pytest.mark.parametrize(
    ("channels", "pointwise"), [(16, {"strides": (2, 2)}), (12, {}), (16, {"pads": (1, 1, 1, 1)})]
)
def test_other_convolutions_stay_apart(
    channels: int, pointwise: dict[str, tuple[int, int]]
) -> None:
    sketch, _, wide = block(channels, **pointwise)
    assert [name for name, _ in kernels(sketch.graph(wide))] == ["depthwise_conv2d", "conv2d"]


def test_a_residual_in_front_of_the_1x1_convolution_keeps_them_apart() -> None:
    sketch = Sketch()
    x = sketch.input(1, 16, 6, 6)
    added = sketch.node("add", sketch.conv(x, 16, groups=16), x)
    wide = sketch.conv(added, 24, kernel=1)
    assert [name for name, _ in kernels(sketch.graph(wide))] == ["depthwise_conv2d", "conv2d"]
