"""Winograd convolution: right for every shape and config, and close enough to float64."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from running import compiled, interpreted, random_inputs

from loopwright import weights
from loopwright.build.compile import compile_config
from loopwright.errors import ConfigError, TemplateError
from loopwright.ir.expr import Binary, Expr, Op
from loopwright.layout import Layout
from loopwright.learn.features import features_of, featurize
from loopwright.ops.registry import build
from loopwright.runtime.cpu.kernel import CpuDevice
from loopwright.space.config import Config
from loopwright.target.parse import parse
from loopwright.te import language as te
from loopwright.te.reference import compare, compare_scaled, evaluate, scale_error
from loopwright.te.workload import Workload
from loopwright.templates.apply import scheduled
from loopwright.templates.cpu import conv2d_winograd, winograd_cost
from loopwright.templates.cpu.winograd_expr import eligible, rewritten
from loopwright.templates.task import Task, make

ERRORS = {2: 2e-6, 4: 1e-5, 6: 3e-5}


def conv(
    data: tuple[int, ...],
    outputs: int,
    padding: tuple[int, ...] = (1, 1, 1, 1),
    **attrs: object,
) -> Workload:
    weight = (outputs, data[1], 3, 3)
    return build("conv2d", data=data, weight=weight, padding=padding, **attrs)


def task_of(workload: Workload, target: str = "x86-64-avx2") -> Task:
    return make(workload, conv2d_winograd.TEMPLATE, parse(target), operator="conv2d")


def error_of(task: Task, config: Config, cpu: CpuDevice) -> float:
    """The error of the program of a config, relative to the largest output."""
    inputs = random_inputs(task.workload)
    module = cpu.module(compile_config(task, config))
    return scale_error(np.asarray(module(*inputs)), evaluate(task.workload, inputs)[0])


def with_m(task: Task, m: int, seed: int) -> Config:
    """A random config with output tiles of `m`."""
    points = task.space.sample(np.random.default_rng(seed), 200)
    configs = (task.space.decode(point) for point in points)
    return next(c for c in configs if c.integer("m") == m)


@pytest.mark.parametrize("m", weights.SIZES)
def test_the_tables_compute_a_correlation(m: int) -> None:
    rng = np.random.default_rng(m)
    data, taps = rng.uniform(-1, 1, (m + 2, m + 2)), rng.uniform(-1, 1, (3, 3))
    tables = weights.winograd(m)
    inverse, kernel, forward = map(np.array, (tables.inverse, tables.kernel, tables.data))
    made = inverse @ ((kernel @ taps @ kernel.T) * (forward @ data @ forward.T)) @ inverse.T
    wanted = [[(data[i : i + 3, j : j + 3] * taps).sum() for j in range(m)] for i in range(m)]
    np.testing.assert_allclose(made, wanted, atol=1e-13)


def test_a_weight_is_transformed_in_float64() -> None:
    weight = np.random.default_rng(0).uniform(-1, 1, (2, 3, 3, 3)).astype(np.float32)
    kernel = np.array(weights.winograd(4).kernel)
    made = weights.apply("winograd4", weight)
    assert made.shape == weights.stored_shape("winograd4", weight.shape) == (6, 6, 2, 3)
    assert weights.plain_shape("winograd4", made.shape) == weight.shape
    wanted = np.einsum("ak,ockl,bl->aboc", kernel, weight.astype(np.float64), kernel)
    assert made.dtype == np.float32
    np.testing.assert_allclose(made, wanted, rtol=1e-6)
    assert np.abs(made - wanted).max() < 1e-7


def test_a_transform_that_is_not_known_is_refused() -> None:
    with pytest.raises(ConfigError, match="no transform 'winograd5'"):
        weights.apply("winograd5", np.zeros((1, 1, 3, 3), np.float32))
    with pytest.raises(ConfigError, match="weights \\(O, C, 3, 3\\)"):
        weights.stored_shape("winograd2", (1, 1, 5, 5))
    assert weights.apply("", np.ones(3)).shape == (3,)


@pytest.mark.parametrize("m", weights.SIZES)
def test_the_rewritten_workload_means_the_same(m: int) -> None:
    plain = conv((2, 5, 9, 7), 3, (1, 0, 2, 1), bias=True, relu=True)
    again = rewritten(plain, m)
    assert [t.name for t in again.args] == [t.name for t in plain.args]
    inputs = list(random_inputs(plain))
    wanted = evaluate(plain, inputs)[0]
    inputs[1] = weights.apply(f"winograd{m}", inputs[1])
    assert scale_error(evaluate(again, inputs)[0], wanted) < ERRORS[m]


CASES = {
    "even": conv((1, 16, 8, 8), 16),
    "odd": conv((1, 8, 13, 11), 24),
    "no-padding": conv((1, 16, 9, 14), 8, (0, 0, 0, 0)),
    "asymmetric": conv((2, 8, 10, 7), 16, (0, 1, 2, 0), bias=True),
    "channels": conv((1, 12, 7, 7), 20, relu=True),
    "few": conv((1, 3, 6, 6), 5, bias=True, relu=True),
    "residual": conv((1, 16, 7, 9), 16, bias=True, epilogue="add,clip(0,6)"),
    "shifts": conv((1, 8, 7, 6), 16, bias=True, epilogue="relu,scale,shift,tanh,shift,prelu"),
    "tiny": conv((1, 8, 1, 3), 8),
}


@pytest.mark.parametrize("m", weights.SIZES)
@pytest.mark.parametrize("case", CASES)
def test_every_shape_is_right(case: str, m: int, cpu: CpuDevice) -> None:
    task = task_of(CASES[case])
    if m not in task.space.knobs[0].values:
        pytest.skip("the map is smaller than the tile")
    assert error_of(task, with_m(task, m, seed=1), cpu) < ERRORS[m]


@pytest.mark.parametrize("target", ["x86-64-avx2", "x86-64-sse4"])
@pytest.mark.parametrize("case", ["odd", "channels"])
def test_random_configs_are_right(case: str, target: str, cpu: CpuDevice) -> None:
    task = task_of(CASES[case], target)
    for point in task.space.sample(np.random.default_rng(7), 2):
        config = task.space.decode(point)
        assert error_of(task, config, cpu) < ERRORS[6], str(config)


@pytest.mark.parametrize("seed", range(3))
def test_wide_vectors_are_right_and_every_access_is_within_bounds(seed: int) -> None:
    task = task_of(conv((1, 4, 5, 6), 17, bias=True), "x86-64-avx512")
    config = task.space.decode(task.space.sample(np.random.default_rng(seed), 1)[0])
    schedule = scheduled(task, config)
    inputs = list(random_inputs(task.workload))
    wanted = evaluate(task.workload, inputs)[0]
    inputs[1] = weights.apply(f"winograd{config.integer('m')}", inputs[1])
    assert scale_error(interpreted(schedule, inputs)[0], wanted) < ERRORS[6]


def test_two_threads_share_nothing_they_write() -> None:
    task = task_of(CASES["odd"])
    with CpuDevice(2) as device:
        for loops in ("block", "tiles,oc", "oc,tiles"):
            points = task.space.sample(np.random.default_rng(3), 60)
            configs = (task.space.decode(point) for point in points)
            config = next(c for c in configs if c.text("loops") == loops)
            assert error_of(task, config, device) < ERRORS[6], str(config)


@pytest.mark.parametrize("case", ["odd", "few", "residual", "tiny"])
def test_the_default_is_in_the_space_and_right(case: str, cpu: CpuDevice) -> None:
    task = task_of(CASES[case])
    config = conv2d_winograd.default(task.workload, task.target)
    assert task.space.refusal(task.space.encode(config)) is None
    assert error_of(task, config, cpu) < ERRORS[6]


def test_layouts_from_outside_are_kept() -> None:
    workload = CASES["residual"]
    layout = Layout.parse("NCHW8c", "NCHW")
    names = ("data", "residual", workload.outputs[0].name)
    task = make(
        workload,
        conv2d_winograd.TEMPLATE,
        parse("x86-64-avx2"),
        layouts=tuple((name, layout) for name in names),
    )
    schedule = scheduled(task, conv2d_winograd.default(workload, task.target))
    assert all(schedule.layout(name) == layout for name in names)


def test_features_of_a_batch_are_those_of_its_configs() -> None:
    task = task_of(CASES["odd"])
    points = task.space.sample(np.random.default_rng(5), 24)
    together = featurize(task, points)
    for row, point in zip(together, points, strict=True):
        alone = features_of(task, task.space.decode(point))
        np.testing.assert_array_equal(row[None], alone)


REFUSED = {
    "stride": {"strides": (2, 2)},
    "dilation": {"dilation": (2, 2)},
    "float64": {"dtype": "float64"},
}


@pytest.mark.parametrize("case", REFUSED)
def test_other_convolutions_are_refused(case: str) -> None:
    workload = conv((1, 8, 9, 9), 8, **REFUSED[case])
    assert not eligible(workload)
    with pytest.raises(TemplateError, match="so it has no Winograd form"):
        task_of(workload)


def test_a_kernel_of_another_width_groups_and_products_are_refused() -> None:
    wide = build("conv2d", data=(1, 8, 9, 9), weight=(8, 8, 5, 5))
    grouped = build("conv2d", data=(1, 8, 9, 9), weight=(8, 4, 3, 3), groups=2)
    product = build("matmul", a=(4, 4), b=(4, 4))
    assert not any(map(eligible, (wide, grouped, product)))
    assert all(map(eligible, CASES.values()))


def test_padding_with_something_else_is_refused() -> None:
    plain = conv((1, 4, 6, 6), 4)
    pad, product = plain.stages

    def body(n: Expr, c: Expr, y: Expr, x: Expr) -> Expr:
        inside = Binary(Op.AND, y >= 1, x >= 1)
        return te.if_then_else(inside, plain.inputs[0][n, c, y % 6, x % 6], 0.0)

    other = te.compute(pad.shape, body, name=pad.name)
    ic, kh, kw = (te.reduce_axis(a.extent, a.var.name) for a in product.reduce_axis)
    weight = plain.inputs[1]
    made = te.compute(
        product.shape,
        lambda n, o, y, x: te.sum(
            other[n, ic, y + kh, x + kw] * weight[o, ic, kh, kw], axis=(ic, kh, kw)
        ),
        name="conv",
    )
    args = [*plain.inputs, made]
    assert not eligible(te.workload(made, args, constants=["weight"]))


def test_an_error_is_relative_to_the_largest_output() -> None:
    expected = np.array([1e-6, 100.0], np.float32)
    actual = np.array([5e-3, 100.0], np.float32)
    workload = conv((1, 1, 3, 3), 1, (0, 0, 0, 0))
    assert scale_error(actual, expected) == pytest.approx(5e-5, rel=1e-2)
    assert compare_scaled(actual, expected, 1e-4) is None
    assert compare(workload, actual, expected) is not None
    reason = compare_scaled(actual, expected, 1e-5)
    assert reason is not None
    assert "5e-05 of the largest output, more than 1e-05" in reason
    assert scale_error(np.array([np.nan]), np.array([1.0])) == np.inf
    assert compare_scaled(actual[:1], expected, 1.0) is not None


def test_plans_cost_more_for_more_work() -> None:
    target = replace(parse("x86-64-avx2"), cores=1)
    small = winograd_cost.Shape(1, 64, 64, 28, 28)
    large = winograd_cost.Shape(1, 128, 64, 28, 28)
    for plan in list(winograd_cost.plans(small, target, 8, 112, (2, 4)))[::40]:
        one = winograd_cost.cost(plan, small, target, 8)
        assert 0 < one < winograd_cost.cost(plan, large, target, 8)


@settings(max_examples=8, deadline=None, suppress_health_check=[*HealthCheck])
@given(st.data())
def test_any_convolution_is_right(cpu: CpuDevice, data: st.DataObject) -> None:
    size = st.integers(1, 9)
    padding = tuple(data.draw(st.integers(0, 2)) for _ in range(4))
    height, width = data.draw(size) + 2, data.draw(size) + 2
    shape = (data.draw(st.integers(1, 2)), data.draw(st.integers(1, 9)), height, width)
    workload = conv(shape, data.draw(st.integers(1, 17)), padding, relu=data.draw(st.booleans()))
    task = task_of(workload)
    seed = data.draw(st.integers(0, 99))
    config = task.space.decode(task.space.sample(np.random.default_rng(seed), 1)[0])
    assert error_of(task, config, cpu) < ERRORS[6], str(config)


def test_the_schedule_alone_computes_the_rewritten_workload(cpu: CpuDevice) -> None:
    task = task_of(CASES["even"])
    schedule = scheduled(task, conv2d_winograd.default(task.workload, task.target))
    inputs = random_inputs(task.workload)
    (actual,) = compiled(schedule, inputs, cpu, task.target)
    assert scale_error(actual, evaluate(task.workload, inputs)[0]) < ERRORS[6]
