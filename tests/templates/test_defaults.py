"""Configs that are good without tuning: in the space of every workload, right, and not wasteful."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from running import compiled, differences, random_inputs

from loopwright.layout import Layout
from loopwright.ops.registry import build
from loopwright.runtime.cpu.kernel import CpuDevice
from loopwright.space.config import Config
from loopwright.target.parse import parse
from loopwright.target.presets import PRESETS
from loopwright.te.reference import evaluate
from loopwright.templates.apply import scheduled
from loopwright.templates.registry import template_for
from loopwright.templates.task import Task, make
from operators import CASES, OPERATORS, Attrs

extents = st.integers(1, 70)
channels = st.sampled_from([1, 2, 3, 8, 13, 16, 24, 48, 64, 96, 130, 512, 1000, 2048])
targets = st.sampled_from([*PRESETS, "x86-64-avx2 cores=8", "x86-64-avx512 l2=262144 cores=64"])


def task(operator: str, attrs: Attrs, target: str) -> Task:
    workload = build(operator, **attrs)
    return make(
        workload, template_for(operator, workload, parse(target)), parse(target), operator=operator
    )


def default(of: Task) -> Config:
    assert of.template.default is not None
    return of.template.default(of.workload, of.target)


def check_in_space(of: Task) -> None:
    config = default(of)
    point = of.space.encode(config)
    assert of.space.refusal(point) is None, f"{of.name}: {config}"


@settings(max_examples=60, deadline=None)
@given(
    target=targets,
    batch=st.integers(1, 2),
    channels=st.tuples(channels, channels),
    size=st.tuples(extents, extents),
    kernel=st.tuples(st.sampled_from([1, 2, 3, 5, 7]), st.sampled_from([1, 3, 7])),
    stride=st.integers(1, 2),
    padding=st.integers(0, 3),
)
def test_every_convolution_has_a_default_in_its_space(
    target: str,
    batch: int,
    channels: tuple[int, int],
    size: tuple[int, int],
    kernel: tuple[int, int],
    stride: int,
    padding: int,
) -> None:
    assume(all(e + 2 * padding >= k for e, k in zip(size, kernel, strict=True)))
    attrs = {"strides": (stride,) * 2, "padding": (padding,) * 4, "bias": True}
    inputs, outputs = channels
    data = (batch, inputs, *size)
    check_in_space(
        task("conv2d", {"data": data, "weight": (outputs, inputs, *kernel), **attrs}, target)
    )
    weight = (inputs, 1, *kernel)
    check_in_space(task("depthwise_conv2d", {"data": data, "weight": weight, **attrs}, target))
    both = {"depthwise": weight, "weight": (outputs, inputs, 1, 1), **attrs}
    check_in_space(task("separable_conv2d", {"data": data, **both}, target))


@settings(max_examples=50, deadline=None)
@given(
    target=targets,
    batch=st.sampled_from([1, 3, 12]),
    m=st.one_of(st.just(1), extents, channels),
    n=st.one_of(extents, channels),
    k=st.one_of(extents, channels, st.just(25088)),
    flip=st.booleans(),
)
def test_every_product_has_a_default_in_its_space(
    target: str, batch: int, m: int, n: int, k: int, flip: bool
) -> None:
    check_in_space(task("dense", {"data": (m, k), "weight": (n, k), "bias": True}, target))
    b = (batch, n, k) if flip else (batch, k, n)
    check_in_space(task("batch_matmul", {"a": (batch, m, k), "b": b, "transpose_b": flip}, target))


@pytest.mark.parametrize("target", ["x86-64-avx2", "x86-64-sse4"])
@pytest.mark.parametrize(("operator", "shape"), CASES)
def test_a_default_computes_the_operator(
    operator: str, shape: str, target: str, cpu: CpuDevice
) -> None:
    of = task(operator, OPERATORS[operator][shape], target)
    inputs = random_inputs(of.workload)
    found = compiled(scheduled(of, default(of)), inputs, cpu, of.target)
    assert differences(of.workload, found, evaluate(of.workload, inputs)) == []


@pytest.mark.parametrize(
    ("target", "size", "least"),
    [("x86-64-avx2", 56, 8), ("x86-64-avx512", 56, 12), ("x86-64-avx2", 7, 8)],
)
def test_a_default_fills_the_registers_but_does_not_spill(
    target: str, size: int, least: int
) -> None:
    attrs = {"data": (1, 64, size, size), "weight": (64, 64, 3, 3), "padding": (1, 1, 1, 1)}
    of = task("conv2d", attrs, target)
    config = default(of)
    tile = [config.sizes(name)[-1] for name in ("tile_w", "rows", "oc")]
    accumulators = math.prod(int(part) for part in tile)
    assert least <= accumulators <= of.target.registers - 2
    assert accumulators + int(tile[2]) < of.target.registers


def test_layouts_from_outside_are_kept(cpu: CpuDevice) -> None:
    attrs = {
        "data": (1, 16, 6, 6),
        "weight": (16, 16, 3, 3),
        "padding": (1, 1, 1, 1),
        "bias": True,
        "epilogue": "add",
    }
    workload = build("conv2d", **attrs)
    plain, blocked = Layout.plain(4), Layout.blocked(4, [0, 1, 2, 3, (1, 4)])
    layouts = (("data", plain), ("out", blocked), ("residual", plain))
    target = parse("x86-64-avx2")
    of = make(workload, template_for("conv2d", workload, target), target, layouts=layouts)
    schedule = scheduled(of, default(of))
    assert {name: schedule.layout(name) for name, _ in layouts} == dict(layouts)
    inputs = random_inputs(workload)
    found = compiled(schedule, inputs, cpu, of.target)
    assert differences(workload, found, evaluate(workload, inputs)) == []


def test_accumulators_of_an_epilogue_lie_lane_by_lane() -> None:
    attrs = {"data": (1, 16, 7, 7), "weight": (24, 16, 3, 3), "bias": True}
    for operator in ("conv2d", "depthwise_conv2d"):
        weight = (16, 1, 3, 3) if operator == "depthwise_conv2d" else attrs["weight"]
        of = task(operator, {**attrs, "weight": weight}, "x86-64-avx2")
        for point in of.space.sample(np.random.default_rng(0), 3):
            schedule = scheduled(of, of.space.decode(point))
            assert schedule.layout("conv") == Layout.blocked(4, [0, 1, 2, 3, (1, 8)])


def test_small_maps_sum_blocks_of_channels(cpu: CpuDevice) -> None:
    attrs = {
        "data": (1, 96, 7, 6),
        "weight": (40, 96, 3, 3),
        "padding": (1, 1, 1, 1),
        "bias": True,
        "epilogue": "add,relu",
    }
    of = task("conv2d", attrs, "x86-64-avx2")
    inputs = random_inputs(of.workload)
    wanted = evaluate(of.workload, inputs)
    points = of.space.sample(np.random.default_rng(0), 60)
    configs = [of.space.decode(point) for point in points]
    blocked = [config for config in configs if config.integer("ic_blocks") > 1]
    assert len(blocked) >= 8
    for config in blocked[:8]:
        found = compiled(scheduled(of, config), inputs, cpu, of.target)
        assert differences(of.workload, found, wanted) == [], str(config)


def test_weights_that_outgrow_the_cache_are_read_in_blocks() -> None:
    """Where a padded copy keeps the rows together, that is; without one, rows come one by one."""
    attrs = {"padding": (1, 1, 1, 1), "bias": True}
    shapes = {"data": (1, 512, 7, 7), "weight": (512, 512, 3, 3)}
    config = default(task("conv2d", {**shapes, **attrs}, "x86-64-sse4 l2=524288"))
    assert config.integer("ic_blocks") == 4
    small = {"data": (1, 64, 7, 7), "weight": (64, 64, 3, 3)}
    assert default(task("conv2d", {**small, **attrs}, "x86-64-sse4")).integer("ic_blocks") == 1
