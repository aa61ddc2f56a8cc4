"""Convolutions in groups that do not fill vectors, beside what onnxruntime makes of them."""

from __future__ import annotations

import numpy as np
import onnxruntime
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper
from running import check_interpreted, compiled, differences, random_inputs

from loopwright.layout import Array
from loopwright.learn.features import features_of, featurize
from loopwright.ops.registry import build
from loopwright.runtime.cpu.kernel import CpuDevice
from loopwright.runtime.cpu.loader import runnable_keys
from loopwright.target.parse import parse
from loopwright.target.presets import PRESETS
from loopwright.templates.apply import good_config, scheduled
from loopwright.templates.cpu import conv2d_columns, conv2d_grouped
from loopwright.templates.registry import template_for
from loopwright.templates.task import Task, make
from loopwright.templates.template import Template
from operators import Attrs

QUICK = settings(max_examples=30, deadline=None, suppress_health_check=[*HealthCheck])
TARGETS = tuple(name for name in PRESETS if parse(name).key in runnable_keys())
RESNEXT: Attrs = {
    "data": (1, 32, 6, 7),
    "weight": (32, 4, 3, 3),
    "padding": (1, 1, 1, 1),
    "groups": 8,
    "bias": True,
    "epilogue": "add",
    "relu": True,
}
TEMPLATES = (conv2d_grouped.TEMPLATE, conv2d_columns.TEMPLATE)
SHUFFLENET: Attrs = {"data": (1, 24, 4, 4), "weight": (60, 8, 1, 1), "groups": 3}


def task(attrs: Attrs, target: str, template: Template = conv2d_grouped.TEMPLATE) -> Task:
    """The task of a convolution with one of the templates of groups."""
    return make(build("conv2d", **attrs), template, parse(target), operator="conv2d")


def reference(arrays: tuple[Array, ...], attrs: Attrs) -> Array:
    """What onnxruntime computes of data, weight, and perhaps bias and summand."""
    names = ["data", "weight", *(["bias"] if attrs.get("bias") else [])]
    nodes = [
        helper.make_node(
            "Conv",
            names,
            ["out0"],
            group=attrs["groups"],
            strides=attrs.get("strides", (1, 1)),
            pads=attrs.get("padding", (0, 0, 0, 0)),
            dilations=attrs.get("dilation", (1, 1)),
        )
    ]
    if attrs.get("epilogue"):
        names = [*names, "added"]
        nodes.append(helper.make_node("Add", ["out0", "added"], ["out1"]))
    if attrs.get("relu"):
        nodes.append(helper.make_node("Relu", [nodes[-1].output[0]], ["out2"]))
    fed = dict(zip(names, arrays, strict=True))
    kind = TensorProto.FLOAT
    inputs = [helper.make_tensor_value_info(n, kind, a.shape) for n, a in fed.items()]
    output = helper.make_tensor_value_info(nodes[-1].output[0], kind, None)
    graph = helper.make_graph(nodes, "grouped", inputs, [output])
    opsets = [helper.make_opsetid("", 17)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=8)
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    return np.asarray(session.run(None, fed)[0])


def check(of: Task, attrs: Attrs, cpu: CpuDevice, n: int, seed: int) -> None:
    """Assert that the default and `n` random configs compute what onnxruntime does."""
    inputs = random_inputs(of.workload, seed)
    expected = reference(inputs, attrs)
    points = of.space.sample(np.random.default_rng(seed), n)
    for config in (good_config(of), *map(of.space.decode, points)):
        assert of.space.contains(config)
        actual = compiled(scheduled(of, config), inputs, cpu, of.target)
        assert differences(of.workload, actual, [expected]) == [], f"{of.name}\n{config}"


@QUICK
@given(
    groups=st.integers(2, 7),
    inputs=st.integers(1, 9),
    outputs=st.sampled_from((4, 8, 12, 20, 24, 1, 2, 3, 5, 11)),
    kernel=st.tuples(st.integers(1, 3), st.integers(1, 5)),
    strides=st.tuples(st.integers(1, 2), st.integers(1, 3)),
    dilation=st.tuples(st.integers(1, 2), st.integers(1, 2)),
    padding=st.tuples(*[st.integers(0, 2)] * 4),
    size=st.tuples(st.integers(1, 9), st.integers(1, 17)),
    ending=st.tuples(st.booleans(), st.sampled_from(("", "add")), st.booleans()),
    target=st.sampled_from(TARGETS),
    seed=st.integers(0, 99),
)
def test_any_groups_are_those_of_onnxruntime(
    cpu: CpuDevice,
    groups: int,
    inputs: int,
    outputs: int,
    kernel: tuple[int, int],
    strides: tuple[int, int],
    dilation: tuple[int, int],
    padding: tuple[int, int, int, int],
    size: tuple[int, int],
    ending: tuple[bool, str, bool],
    target: str,
    seed: int,
) -> None:
    spans = [d * (k - 1) + 1 for k, d in zip(kernel, dilation, strict=True)]
    top, left, bottom, right = padding
    assume(size[0] + top + bottom >= spans[0] and size[1] + left + right >= spans[1])
    bias, epilogue, relu = ending
    attrs: Attrs = {
        "data": (1, groups * inputs, *size),
        "weight": (groups * outputs, inputs, *kernel),
        "strides": strides,
        "dilation": dilation,
        "padding": padding,
        "groups": groups,
        "bias": bias,
        "epilogue": epilogue,
        "relu": relu,
    }
    for template in TEMPLATES if outputs % 4 == 0 else TEMPLATES[1:]:
        check(task(attrs, target, template), attrs, cpu, 1, seed)


@pytest.mark.parametrize(
    ("attrs", "template"),
    [(SHUFFLENET, TEMPLATES[0]), (RESNEXT, TEMPLATES[1])],
    ids=["grouped", "columns"],
)
def test_fifty_configs_compute_the_same(cpu: CpuDevice, attrs: Attrs, template: Template) -> None:
    check(task(attrs, TARGETS[0], template), attrs, cpu, 50, 1)


@QUICK
@given(
    channels=st.integers(1, 6),
    multiplier=st.integers(2, 5),
    stride=st.integers(1, 3),
    padding=st.integers(0, 2),
    width=st.integers(3, 19),
    bias=st.booleans(),
)
def test_several_kernels_a_channel_are_those_of_onnxruntime(
    cpu: CpuDevice,
    channels: int,
    multiplier: int,
    stride: int,
    padding: int,
    width: int,
    *,
    bias: bool,
) -> None:
    attrs: Attrs = {
        "data": (1, channels, 5, width),
        "weight": (channels * multiplier, 1, 3, 3),
        "strides": (1, stride),
        "padding": (padding,) * 4,
        "bias": bias,
    }
    made = build("depthwise_conv2d", **attrs)
    of = make(made, conv2d_columns.TEMPLATE, parse(TARGETS[0]), operator="depthwise_conv2d")
    check(of, {**attrs, "groups": channels}, cpu, 1, 0)


def test_every_access_is_within_bounds() -> None:
    of = task(RESNEXT, "x86-64-sse4")
    for point in of.space.sample(np.random.default_rng(3), 3):
        check_interpreted(scheduled(of, of.space.decode(point)), flat=True)


def test_lanes_of_a_vector_read_the_same_input_channels() -> None:
    for target in sorted(name for name in PRESETS if parse(name).kind == "cpu"):
        of = task(RESNEXT, target)
        assert 4 % good_config(of).integer("lanes") == 0


def test_a_batch_has_the_features_of_its_configs() -> None:
    of = task(RESNEXT, "x86-64-avx2")
    points = of.space.sample(np.random.default_rng(2), 16)
    alone = np.concatenate([features_of(of, of.space.decode(p)) for p in points])
    np.testing.assert_allclose(featurize(of, points), alone, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    ("channels", "groups", "kernel", "chosen"),
    [
        (32, 8, 3, "cpu.conv2d_grouped"),
        (32, 2, 3, "cpu.conv2d_direct"),
        (32, 1, 3, "cpu.conv2d_direct"),
        (12, 4, 3, "cpu.conv2d_columns"),
        (60, 3, 1, "cpu.conv2d_columns"),
    ],
)
def test_the_group_decides_on_the_template(
    channels: int, groups: int, kernel: int, chosen: str
) -> None:
    weight = (channels, channels // groups, kernel, kernel)
    made = build("conv2d", data=(1, channels, 6, 6), weight=weight, groups=groups)
    assert template_for("conv2d", made, parse("x86-64-avx512")).name == chosen
