"""Every template computes its operator, whatever the config, shape and target."""

from __future__ import annotations

import numpy as np
import pytest
from machines import presets_to_run
from running import check_interpreted, compiled, differences, random_inputs

from loopwright.ops.registry import build
from loopwright.runtime.cpu.kernel import CpuDevice
from loopwright.runtime.cpu.loader import runnable_keys
from loopwright.target.parse import parse
from loopwright.te.reference import evaluate
from loopwright.templates import derived
from loopwright.templates.apply import scheduled
from loopwright.templates.registry import template_for
from loopwright.templates.task import Task, make
from operators import CASES, OPERATORS, Attrs

TARGETS = {"x86-64-avx512": 3, "x86-64-avx2": 2, "x86-64-sse4": 2}
TINY: list[tuple[str, Attrs]] = [
    (
        "conv2d",
        {"data": (1, 4, 4, 5), "weight": (5, 4, 3, 3), "padding": (1, 1, 1, 1), "relu": True},
    ),
    ("conv2d", {"data": (1, 8, 4, 4), "weight": (4, 4, 2, 2), "groups": 2, "strides": (2, 1)}),
    ("conv2d", {"data": (2, 3, 5, 5), "weight": (4, 3, 2, 2), "dilation": (2, 2), "bias": True}),
    ("depthwise_conv2d", {"data": (1, 6, 5, 5), "weight": (6, 1, 3, 3), "padding": (1, 1, 1, 1)}),
    ("depthwise_conv2d", {"data": (1, 4, 5, 5), "weight": (8, 1, 3, 3), "strides": (2, 2)}),
    ("dense", {"data": (3, 10), "weight": (9, 10), "bias": True, "relu": True}),
    ("matmul", {"a": (7, 9), "b": (9, 11)}),
    ("matmul", {"a": (8, 5), "b": (11, 8), "transpose_a": True, "transpose_b": True}),
    ("batch_matmul", {"a": (2, 4, 6), "b": (2, 6, 9)}),
]


def task_for(operator: str, attrs: Attrs, target: str, *, handcrafted: bool = True) -> Task:
    workload = build(operator, **attrs)
    template = template_for(operator, workload, parse(target)) if handcrafted else derived.TEMPLATE
    return make(workload, template, parse(target), operator=operator)


def check_configs(task: Task, cpu: CpuDevice, n: int, seed: int) -> None:
    """Assert that `n` random configs compute what the expression means."""
    if task.target.key not in runnable_keys():
        pytest.skip(f"this machine does not run {task.target.name}")
    inputs = random_inputs(task.workload)
    expected = evaluate(task.workload, inputs)
    for point in task.space.sample(np.random.default_rng(seed), n):
        config = task.space.decode(point)
        actual = compiled(scheduled(task, config), inputs, cpu, task.target)
        assert differences(task.workload, actual, expected) == [], f"{task.name}\n{config}"


@pytest.mark.parametrize("target", presets_to_run(*TARGETS))
@pytest.mark.parametrize(("operator", "shape"), CASES)
def test_the_handcrafted_template_computes_the_operator(
    operator: str, shape: str, target: str, cpu: CpuDevice
) -> None:
    task = task_for(operator, OPERATORS[operator][shape], target)
    assert task.template is not derived.TEMPLATE
    check_configs(task, cpu, TARGETS[target], seed=1)


@pytest.mark.parametrize(("operator", "shape"), CASES)
def test_the_derived_template_computes_the_operator(
    operator: str, shape: str, cpu: CpuDevice
) -> None:
    task = task_for(operator, OPERATORS[operator][shape], "x86-64-avx2", handcrafted=False)
    check_configs(task, cpu, 2, seed=2)


@pytest.mark.parametrize("handcrafted", [True, False])
@pytest.mark.parametrize(
    "case", range(len(TINY)), ids=[f"{n}-{op}" for n, (op, _) in enumerate(TINY)]
)
def test_every_access_is_within_bounds(case: int, handcrafted: bool) -> None:
    task = task_for(*TINY[case], "x86-64-sse4", handcrafted=handcrafted)
    for point in task.space.sample(np.random.default_rng(case), 4):
        check_interpreted(scheduled(task, task.space.decode(point)))


@pytest.mark.parametrize("threads", [2])
def test_parallel_loops_share_nothing_they_write(threads: int) -> None:
    with CpuDevice(threads) as device:
        for operator in OPERATORS:
            shape = next(iter(OPERATORS[operator].values()))
            check_configs(task_for(operator, shape, "x86-64-avx2"), device, 2, seed=5)
