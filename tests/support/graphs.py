"""Small graphs: built by hand, and drawn at random."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from hypothesis import strategies as st

from loopwright.graph.ir import Graph, Node, Value, build
from loopwright.ir import dtype as dt
from loopwright.layout import Array
from loopwright.ops.attributes import NodeAttr


@dataclass
class Sketch:
    """A graph in the making; values are named by the node that makes them."""

    inputs: dict[str, Value] = field(default_factory=dict)
    nodes: list[Node] = field(default_factory=list)
    constants: dict[str, Array] = field(default_factory=dict)
    seed: int = 0

    def input(self, *shape: int, dtype: str = "float32") -> str:
        name = f"x{len(self.inputs)}"
        self.inputs[name] = Value(shape, dt.parse(dtype))
        return name

    def weight(self, *shape: int) -> str:
        name = f"w{len(self.constants)}"
        rng = np.random.default_rng([self.seed, len(self.constants)])
        self.constants[name] = rng.uniform(-1, 1, shape).astype(np.float32)
        return name

    def node(self, op: str, *inputs: str, **attrs: NodeAttr) -> str:
        name = f"{op}{len(self.nodes)}"
        self.nodes.append(Node(op, name, inputs, (f"{name}.y",), attrs))
        return f"{name}.y"

    def conv(
        self, x: str, channels: int, kernel: int = 3, stride: int = 1, **more: NodeAttr
    ) -> str:
        inputs = self.shape(x)[1]
        groups = more.get("groups", 1)
        depth = inputs // groups if isinstance(groups, int) else inputs
        pad = kernel // 2
        return self.node(
            "conv",
            x,
            self.weight(channels, depth, kernel, kernel),
            self.weight(channels),
            **{"strides": (stride, stride), "pads": (pad,) * 4, **more},
        )

    def shape(self, name: str) -> tuple[int, ...]:
        return self.graph(name).values[name].shape

    def graph(self, *outputs: str) -> Graph:
        return build("sketch", self.inputs, self.nodes, outputs, self.constants)


def example(graph: Graph, seed: int = 0) -> dict[str, Array]:
    rng = np.random.default_rng(seed)
    found: dict[str, Array] = {}
    for name in graph.inputs:
        value = graph.values[name]
        found[name] = rng.uniform(-1, 1, value.shape).astype(value.dtype.numpy)
    return found


@st.composite
def networks(draw: st.DrawFn) -> Graph:
    """Convolutional networks of a few nodes: branches, sums, concatenations, pools, a product."""
    sketch = Sketch(seed=draw(st.integers(0, 99)))
    size = draw(st.integers(5, 9))
    values = [sketch.input(1, draw(st.sampled_from([3, 8, 16])), size, size)]
    for _ in range(draw(st.integers(2, 6))):
        x = draw(st.sampled_from(values[-2:]))
        kind = draw(
            st.sampled_from(["conv", "conv", "depthwise", "relu", "add", "concat", "pool", "scale"])
        )
        shape = sketch.shape(x)
        if kind == "conv":
            kernel = draw(st.sampled_from([1, 3]))
            values.append(sketch.conv(x, draw(st.sampled_from([8, 12, 16])), kernel))
        elif kind == "depthwise":
            values.append(sketch.conv(x, shape[1], groups=shape[1]))
        elif kind == "relu":
            values.append(sketch.node("relu", x))
        elif kind == "scale":
            values.append(sketch.node("mul", x, sketch.weight(1, shape[1], 1, 1)))
        elif kind == "pool":
            attrs: dict[str, NodeAttr] = {"kernel": (3, 3), "strides": (1, 1), "pads": (1,) * 4}
            values.append(
                sketch.node(draw(st.sampled_from(["max_pool", "average_pool"])), x, **attrs)
            )
        else:
            y = draw(st.sampled_from([v for v in values if sketch.shape(v)[2:] == shape[2:]]))
            if kind == "concat":
                values.append(sketch.node("concat", x, y, axis=1))
            elif sketch.shape(y) == shape:
                values.append(sketch.node("add", x, y))
    outputs = [values[-1]] if len(values) > 1 else [sketch.node("relu", values[0])]
    if draw(st.booleans()):
        flat = sketch.node("reduce_mean", outputs[0], axes=(2, 3), keepdims=0)
        weight = sketch.weight(10, sketch.shape(flat)[1])
        outputs.append(sketch.node("gemm", flat, weight, trans_b=1))
    return sketch.graph(*outputs)
