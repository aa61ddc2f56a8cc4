"""The pipeline: every pass keeps a kernel valid, and what it says it establishes holds."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from loopwright.api.task import task_of
from loopwright.errors import LoweringError
from loopwright.ir import walk
from loopwright.ir.expr import Select
from loopwright.ir.kernel import Kernel
from loopwright.ir.verify import verify
from loopwright.lower.pipeline import apply_passes, lower, passes, require_established
from loopwright.target.presets import PRESETS
from loopwright.templates.apply import scheduled
from loopwright.trace import PassRun

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
def test_what_each_pass_establishes_holds_after_it_and_all_later_ones(
    operator: str, attrs: dict[str, object]
) -> None:
    for kernel in kernels(operator, attrs):
        verify(kernel)
        checked = apply_passes(kernel, "cpu", check=True)
        assert walk.same(checked.body, apply_passes(kernel, "cpu").body)


def test_a_pass_that_left_something_to_do_is_named() -> None:
    kernel = kernels(*OPERATORS[0])[0]
    with pytest.raises(LoweringError, match="buffers have one dimension: flatten_storage finds"):
        require_established(kernel, passes("cpu")[-1:])


def test_a_kind_of_target_without_passes_of_its_own_gets_the_portable_ones() -> None:
    assert [step.name for step in passes("stack machine")] == ["flatten_storage"]
    for kernel in kernels(*OPERATORS[0])[:3]:
        verify(apply_passes(kernel, "stack machine", check=True), flat=True)


def test_a_watcher_is_told_of_the_loops_and_of_each_pass() -> None:
    kernel = kernels(*OPERATORS[0])[0]
    runs: list[PassRun] = []
    made = apply_passes(kernel, "cpu", runs.append)
    assert [run.name for run in runs] == ["lower", *(step.name for step in passes("cpu"))]
    assert runs[0].after == str(kernel)
    assert all(before.after == run.before for before, run in itertools.pairwise(runs))
    assert runs[-1].after == str(made)
    assert [run.changed for run in runs] == [run.before != run.after for run in runs]
    assert all(run.ns > 0 for run in runs[1:])


def test_no_element_of_padded_data_of_whole_vectors_is_tested() -> None:
    """A copy is cut at the borders, and where there is none, what is on padding is skipped."""
    steps = passes("cpu")[:2]
    whole = {"data": (1, 16, 9, 11), "weight": (24, 16, 3, 3), "padding": (1, 1, 1, 1)}
    for kernel in kernels("conv2d", whole):
        assert any(isinstance(node, Select) for node in walk.visit(kernel.body))
        for step in steps:
            kernel = step.run(kernel)
        assert not any(isinstance(node, Select) for node in walk.visit(kernel.body))
