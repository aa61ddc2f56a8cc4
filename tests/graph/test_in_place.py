"""Outputs that are written over inputs: where they may be, and that kernels stay right."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from graphs import Sketch, example
from hypothesis import given, settings
from hypothesis import strategies as st

from loopwright.build.compile import compile_config, kernel_name
from loopwright.deploy.accuracy import Errors
from loopwright.deploy.choose import Chooser, ModelOptions
from loopwright.deploy.finish import difference
from loopwright.deploy.make import compile_graph
from loopwright.graph.evaluate import evaluate
from loopwright.graph.fuse import fuse
from loopwright.graph.in_place import overwritable
from loopwright.graph.layouts import Chosen
from loopwright.ops.registry import build
from loopwright.target.parse import parse
from loopwright.templates.apply import good_config
from loopwright.templates.registry import template_for
from loopwright.templates.task import Task, make

OPTIONS = ModelOptions(parse("cpu"))


def overwritten(sketch: Sketch, *outputs: str) -> dict[str, tuple[str, ...]]:
    """The values that each kernel of a graph may write its output over, by kernel."""
    fused = fuse(sketch.graph(*outputs))
    chooser = Chooser(OPTIONS, use_records=False)
    return {
        kernel.name: tuple(kernel.inputs[place] for place in overwritable(chooser(kernel, ())))
        for kernel in fused.kernels
    }


def test_a_residual_may_be_overwritten_and_the_data_of_a_convolution_may_not() -> None:
    sketch = Sketch()
    x = sketch.input(1, 16, 5, 5)
    y = sketch.node("exp", x)
    end = sketch.node("add", sketch.conv(x, 16), y)
    assert overwritten(sketch, end) == {"exp0": (x,), "add2": (y,)}


def test_what_is_read_at_another_place_or_summed_may_not_be_overwritten() -> None:
    sketch = Sketch()
    x = sketch.input(4, 4)
    assert overwritten(sketch, sketch.node("softmax", x, axis=1)) == {"softmax0": ()}
    turned = sketch.node("transpose", x, perm=(1, 0))
    found = overwritten(sketch, sketch.node("add", turned, sketch.node("relu", x)))
    assert all(x not in values for values in found.values())


@pytest.mark.parametrize("width", [7, 14])
def test_a_model_whose_kernels_write_over_their_inputs_is_right(width: int) -> None:
    sketch = Sketch()
    x = sketch.conv(sketch.input(1, 13, 6, width), 13)
    for _ in range(2):
        x = sketch.node("relu", sketch.node("add", sketch.conv(x, 13, 1), x))
        wide = sketch.node("sigmoid", sketch.conv(x, 13))
        x = sketch.node("mul", sketch.node("max_pool", wide, kernel=(1, 1)), x)
    graph = sketch.graph(sketch.conv(x, 8))
    compiled = compile_graph(graph, Chooser(OPTIONS, use_records=False))
    assert any(chosen.task.in_place for chosen in compiled.choices.values())
    with compiled.model() as model:
        expected = dict(zip(graph.outputs, evaluate(graph, example(graph)), strict=True))
        for _ in range(2):
            assert difference(model.run(example(graph)), expected) < 1e-5


def error_in_place(chosen: Chosen, name: str) -> float:
    """The error of a kernel whose output is written over its input `name`."""
    output = chosen.task.workload.outputs[0].name
    shared = replace(chosen, task=replace(chosen.task, in_place=((name, output),)))
    kernel = kernel_name(shared.task, shared.config)
    built = {kernel: compile_config(shared.task, shared.config)}
    return Errors(built).of({"k": shared})["k"]


@pytest.mark.parametrize("shape", [(37,), (3, 21), (2, 3, 5, 9)])
def test_the_rest_behind_whole_vectors_is_computed_once(shape: tuple[int, ...]) -> None:
    sketch = Sketch()
    end = sketch.node("exp", sketch.node("exp", sketch.input(*shape)))
    (kernel,) = fuse(sketch.graph(end)).kernels
    chosen = Chooser(OPTIONS, use_records=False)(kernel, ())
    assert overwritable(chosen) == (0,)
    assert error_in_place(chosen, kernel.workload.inputs[0].name) < 1e-5


def residual_task(height: int, width: int, channels: int) -> Task:
    attrs = {
        "data": (1, 8, height, width),
        "weight": (channels, 8, 3, 3),
        "padding": (1, 1, 1, 1),
        "epilogue": "add,relu,add",
    }
    workload = build("conv2d", **attrs)
    return make(
        workload,
        template_for("conv2d", workload, OPTIONS.target),
        OPTIONS.target,
        operator="conv2d",
    )


@given(st.integers(3, 9), st.integers(3, 17), st.sampled_from([8, 13, 24]), st.integers(0, 9))
@settings(max_examples=12, deadline=None)
def test_any_config_adds_each_element_once(
    height: int, width: int, channels: int, seed: int
) -> None:
    task = residual_task(height, width, channels)
    samples = task.space.sample(np.random.default_rng(seed), 2)
    for config in (good_config(task), *(task.space.decode(point) for point in samples)):
        chosen = Chosen(task, config, "default")
        places = overwritable(chosen)
        assert [task.workload.inputs[place].name for place in places] == ["residual", "residual1"]
        for name in ("residual", "residual1"):
            assert error_in_place(chosen, name) < 1e-5, str(config)
