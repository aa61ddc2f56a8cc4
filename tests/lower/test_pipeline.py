"""The pipeline: every pass keeps a kernel valid, and what it says it establishes holds."""

from __future__ import annotations

import numpy as np
import pytest

from loopwright.api.task import task_of
from loopwright.ir import walk
from loopwright.ir.expr import Select
from loopwright.ir.kernel import Kernel
from loopwright.ir.verify import verify
from loopwright.lower.pipeline import PASSES, lower
from loopwright.target.presets import PRESETS
from loopwright.templates.apply import scheduled

OPERATORS = [
    ("conv2d", {"data": (1, 20, 9, 11), "weight": (24, 20, 3, 3), "padding": (1, 1, 1, 1)}),
    ("depthwise_conv2d", {"data": (1, 12, 9, 7), "weight": (12, 1, 3, 3), "padding": (0, 1, 1, 0)}),
    ("matmul", {"a": (21, 18), "b": (18, 37), "transpose_a": False}),
]


def kernels(operator: str, attrs: dict[str, object]) -> list[Kernel]:
    task = task_of(operator, attrs, target=PRESETS["x86-64-avx2"], threads=1)
    points = task.space.sample(np.random.default_rng(5), 12)
    return [lower(scheduled(task, task.space.decode(point))) for point in points]


@pytest.mark.parametrize(("operator", "attrs"), OPERATORS)
def test_every_pass_leaves_a_valid_kernel(operator: str, attrs: dict[str, object]) -> None:
    for kernel in kernels(operator, attrs):
        verify(kernel)
        for step in PASSES:
            kernel = step.run(kernel)
            verify(kernel)
        verify(kernel, flat=True)


def test_no_element_of_padded_data_of_whole_vectors_is_tested() -> None:
    """A copy is cut at the borders, and where there is none, what is on padding is skipped."""
    steps = [step for step in PASSES if step.name in ("skip_zero_products", "partition_copies")]
    whole = {"data": (1, 16, 9, 11), "weight": (24, 16, 3, 3), "padding": (1, 1, 1, 1)}
    for kernel in kernels("conv2d", whole):
        assert any(isinstance(node, Select) for node in walk.visit(kernel.body))
        for step in steps:
            kernel = step.run(kernel)
        assert not any(isinstance(node, Select) for node in walk.visit(kernel.body))
