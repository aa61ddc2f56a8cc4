"""ONNX models of the convolutions that few kernels are written for, with seeded weights.

Batch norms are folded, as exporters leave them. Sources: ShuffleNet (Zhang et al. 2017, table 1,
3 groups), ResNeXt-50 32x4d (Xie et al. 2017, table 1), RegNetY-400MF (Radosavovic et al. 2020;
widths 48, 104, 208 and 440 in groups of 8, depths 1, 3, 6 and 6).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import helper, numpy_helper

from loopwright.layout import Array

_OPSET, _IR = 17, 8
_IMAGE = (1, 3, 224, 224)
_CLASSES = 1000


class NetBuilder:
    """Nodes of a model with one input; a method adds some and says the name of their output."""

    def __init__(self, shape: Sequence[int], seed: int = 0) -> None:
        self._rng = np.random.default_rng(seed)
        self._nodes: list[onnx.NodeProto] = []
        self._weights: list[onnx.TensorProto] = []
        self._input = helper.make_tensor_value_info("input", onnx.TensorProto.FLOAT, shape)

    def node(self, op: str, inputs: Sequence[str], **attrs: object) -> str:
        """A node with one output."""
        output = f"v{len(self._nodes)}"
        self._nodes.append(helper.make_node(op, list(inputs), [output], **attrs))
        return output

    def constant(self, values: Array) -> str:
        """An initializer."""
        name = f"w{len(self._weights)}"
        self._weights.append(numpy_helper.from_array(values, name))
        return name

    def conv(
        self, x: str, weight: Sequence[int], *, stride: int = 1, groups: int = 1, relu: bool = False
    ) -> str:
        """A convolution with a bias that keeps the size of maps, up to its stride."""
        rank = len(weight) - 2
        scale = math.sqrt(2 / math.prod(weight[1:]))
        kernel = self._rng.standard_normal(weight).astype(np.float32) * np.float32(scale)
        bias = self._rng.standard_normal(weight[0]).astype(np.float32) * np.float32(0.1)
        made = self.node(
            "Conv",
            [x, self.constant(kernel), self.constant(bias)],
            strides=[stride] * rank,
            pads=[k // 2 for k in weight[2:]] * 2,
            group=groups,
        )
        return self.relu(made) if relu else made

    def relu(self, x: str) -> str:
        """max(x, 0)."""
        return self.node("Relu", [x])

    def pool(self, x: str, op: str) -> str:
        """A 3x3 pool of stride 2."""
        return self.node(op, [x], kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])

    def classes(self, x: str, channels: int) -> str:
        """The mean of each map, and a dense layer."""
        flat = self.node("Flatten", [self.node("GlobalAveragePool", [x])])
        weight = self._rng.standard_normal((channels, _CLASSES)).astype(np.float32)
        return self.node("MatMul", [flat, self.constant(weight / np.float32(channels))])

    def save(self, output: str, path: Path) -> Path:
        """Write the model whose output is `output`; the path."""
        made = helper.make_tensor_value_info(output, onnx.TensorProto.FLOAT, None)
        graph = helper.make_graph(self._nodes, path.stem, [self._input], [made], self._weights)
        opsets = [helper.make_opsetid("", _OPSET)]
        model = helper.make_model(graph, opset_imports=opsets, ir_version=_IR)
        onnx.save(onnx.shape_inference.infer_shapes(model), path)
        return path


def shufflenet_v1(path: Path) -> Path:
    """ShuffleNet 1x with 3 groups."""
    net = NetBuilder(_IMAGE)
    x = net.pool(net.conv("input", (24, 3, 3, 3), stride=2, relu=True), "MaxPool")
    channels, size = 24, 56
    for stage, (out, count) in enumerate(((240, 4), (480, 8), (960, 4))):
        for unit in range(count):
            stride = 2 if unit == 0 else 1
            made = out - channels if unit == 0 else out
            first = 1 if stage == 0 and unit == 0 else 3
            y = net.conv(x, (out // 4, channels // first, 1, 1), groups=first, relu=True)
            y = _shuffled(net, y, out // 4, size)
            y = net.conv(y, (out // 4, 1, 3, 3), stride=stride, groups=out // 4)
            y = net.conv(y, (made, out // 12, 1, 1), groups=3)
            size //= stride
            if unit == 0:
                x = net.relu(net.node("Concat", [net.pool(x, "AveragePool"), y], axis=1))
            else:
                x = net.relu(net.node("Add", [x, y]))
            channels = out
    return net.save(net.classes(x, channels), path)


def _shuffled(net: NetBuilder, x: str, channels: int, size: int) -> str:
    """The channels of 3 groups in turns."""
    apart = net.constant(np.array([1, 3, channels // 3, size, size]))
    together = net.constant(np.array([1, channels, size, size]))
    turned = net.node("Transpose", [net.node("Reshape", [x, apart])], perm=[0, 2, 1, 3, 4])
    return net.node("Reshape", [turned, together])


def resnext50(path: Path) -> Path:
    """ResNeXt-50 with 32 groups of 4 channels."""
    net = NetBuilder(_IMAGE)
    x = net.pool(net.conv("input", (64, 3, 7, 7), stride=2, relu=True), "MaxPool")
    channels = 64
    for stage, count in enumerate((3, 4, 6, 3)):
        width = 128 << stage
        for unit in range(count):
            stride = 2 if unit == 0 and stage else 1
            y = net.conv(x, (width, channels, 1, 1), relu=True)
            y = net.conv(y, (width, width // 32, 3, 3), stride=stride, groups=32, relu=True)
            y = net.conv(y, (2 * width, width, 1, 1))
            if unit == 0:
                x = net.conv(x, (2 * width, channels, 1, 1), stride=stride)
            x = net.relu(net.node("Add", [x, y]))
            channels = 2 * width
    return net.save(net.classes(x, channels), path)


def regnet_y_400mf(path: Path) -> Path:
    """A RegNetY of 400 million multiply-adds."""
    net = NetBuilder(_IMAGE)
    x = net.conv("input", (32, 3, 3, 3), stride=2, relu=True)
    channels = 32
    for width, count in ((48, 1), (104, 3), (208, 6), (440, 6)):
        for unit in range(count):
            stride = 2 if unit == 0 else 1
            y = net.conv(x, (width, channels, 1, 1), relu=True)
            y = net.conv(y, (width, 8, 3, 3), stride=stride, groups=width // 8, relu=True)
            y = net.node("Mul", [y, _excited(net, y, width, channels // 4)])
            y = net.conv(y, (width, width, 1, 1))
            if unit == 0:
                x = net.conv(x, (width, channels, 1, 1), stride=stride)
            x = net.relu(net.node("Add", [x, y]))
            channels = width
    return net.save(net.classes(x, channels), path)


def _excited(net: NetBuilder, x: str, channels: int, squeezed: int) -> str:
    """The factor of each channel, by a squeeze and excitation."""
    mean = net.node("GlobalAveragePool", [x])
    inner = net.conv(mean, (squeezed, channels, 1, 1), relu=True)
    return net.node("Sigmoid", [net.conv(inner, (channels, squeezed, 1, 1))])


MODELS: dict[str, Callable[[Path], Path]] = {
    "shufflenet_v1": shufflenet_v1,
    "resnext50": resnext50,
    "regnet_y_400mf": regnet_y_400mf,
}
"""The models by name: each writes itself to a file."""
