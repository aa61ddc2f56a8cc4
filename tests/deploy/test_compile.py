from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from graphs import Sketch, example, networks
from hypothesis import HealthCheck, given, settings
from hypothesis import example as always

import loopwright as lw
from loopwright.deploy import accuracy
from loopwright.deploy.finish import difference
from loopwright.errors import ConfigError, ModelError, ShapeError
from loopwright.graph.evaluate import evaluate
from loopwright.graph.ir import Graph
from loopwright.runtime.cpu.model import Model


def wrong(graph: Graph, model: Model) -> float:
    """How far the outputs of `model` are off, as a share of their scale."""
    inputs = example(graph)
    expected = dict(zip(graph.outputs, evaluate(graph, inputs), strict=True))
    return difference(model.run(inputs), expected)


def padded_pool() -> Graph:
    """Whole rows of windows lie in the padding: the same number in all lanes of a register."""
    sketch = Sketch()
    x = sketch.conv(sketch.input(1, 16, 5, 5), 16)
    y = sketch.node("max_pool", x, kernel=(3, 3), strides=(1, 1), pads=(1,) * 4)
    return sketch.graph(sketch.conv(y, 16))


@always(padded_pool())
@given(networks())
@settings(max_examples=4, deadline=None, suppress_health_check=list(HealthCheck))
def test_a_compiled_network_computes_what_its_graph_means(graph: Graph) -> None:
    with lw.compile(graph, threads=2) as model:
        assert wrong(graph, model) < 1e-5


def residual_block() -> Graph:
    sketch = Sketch()
    x = sketch.input(1, 16, 9, 9)
    trunk = sketch.node("relu", sketch.conv(x, 16))
    y = sketch.conv(trunk, 16)
    return sketch.graph(sketch.node("relu", sketch.node("add", y, trunk)))


def test_a_residual_add_and_relu_are_part_of_the_convolution() -> None:
    graph = residual_block()
    with lw.compile(graph) as model:
        kernels = [call.operator for call in model.manifest.calls if call.origin != "copy"]
        assert kernels == ["conv2d", "conv2d"]
        assert wrong(graph, model) < 1e-5


def winograd_block() -> Graph:
    sketch = Sketch()
    return sketch.graph(sketch.node("relu", sketch.conv(sketch.input(1, 32, 14, 14), 32)))


@pytest.mark.parametrize(
    ("tolerance", "template"), [(1e-4, "conv2d_winograd"), (1e-9, "conv2d_direct")]
)
def test_a_kernel_that_rounds_more_than_the_tolerance_is_computed_another_way(
    tolerance: float, template: str
) -> None:
    graph = winograd_block()
    with lw.compile(graph, tolerance=tolerance) as model:
        (call,) = (c for c in model.manifest.calls if c.operator == "conv2d")
        assert call.template == f"cpu.{template}"
        assert (call.error is None) == (template == "conv2d_direct")
        assert wrong(graph, model) < 1e-5


@pytest.mark.parametrize("exact", [False, True])
def test_no_kernel_of_an_exact_model_rounds_more(*, exact: bool) -> None:
    with lw.compile(winograd_block(), exact=exact) as model:
        used = "cpu.conv2d_winograd" in {call.template for call in model.manifest.calls}
    assert used is not exact


@pytest.mark.parametrize("winograd", [False, True])
def test_the_older_keyword_winograd_is_taken_with_a_warning(*, winograd: bool) -> None:
    with (
        pytest.warns(
            DeprecationWarning, match="use exact=True instead of winograd=False"
        ) as warned,
        lw.compile(winograd_block(), winograd=winograd) as model,
    ):
        used = "cpu.conv2d_winograd" in {call.template for call in model.manifest.calls}
    assert [warning.filename for warning in warned] == [__file__]  # it names who is to change
    assert used is winograd


def test_kernels_that_round_no_more_than_they_must_are_not_evaluated_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found: list[str] = []
    monkeypatch.setattr(accuracy, "evaluate", lambda of, _: found.append(of.name))
    with lw.compile(residual_block(), exact=True):
        assert found == []


@pytest.mark.parametrize("tolerance", [0.0, -1e-4, float("nan"), float("inf")])
def test_a_tolerance_that_cannot_be_is_refused(tolerance: float) -> None:
    with pytest.raises(ConfigError, match="is no share of an output's scale"):
        lw.compile(residual_block(), tolerance=tolerance)


def dense_block() -> Graph:
    """Every layer reads all values before it, as in DenseNet."""
    sketch = Sketch()
    values = [sketch.conv(sketch.input(1, 8, 6, 6), 16)]
    for _ in range(3):
        x = sketch.node("concat", *values, axis=1) if len(values) > 1 else values[0]
        values.append(sketch.conv(sketch.node("relu", x), 16))
    return sketch.graph(sketch.node("relu", sketch.node("concat", *values, axis=1)))


def test_concatenations_of_channels_copy_nothing() -> None:
    graph = dense_block()
    with lw.compile(graph) as model:
        assert not any("concat" in call.task for call in model.manifest.calls)
        assert wrong(graph, model) < 1e-5


@pytest.mark.parametrize("channels", [(8, 12), (8, 8, 8), (16, 12), (4, 16, 12), (24, 8)])
def test_parts_of_a_concatenation_that_end_within_a_block_are_right(
    channels: tuple[int, ...],
) -> None:
    sketch = Sketch()
    x = sketch.conv(sketch.input(1, 3, 5, 5), 16, 1)
    parts = [sketch.conv(x, count, 1) for count in channels]
    graph = sketch.graph(sketch.node("concat", *parts, axis=1))
    with lw.compile(graph) as model:
        assert wrong(graph, model) < 1e-5


def test_memory_is_shared_by_values_that_do_not_live_at_once() -> None:
    sketch = Sketch()
    x = sketch.input(1, 8, 8, 8)
    for _ in range(6):
        x = sketch.conv(x, 8)
    with lw.compile(sketch.graph(x)) as model:
        assert model.manifest.memory <= model.manifest.memory_sum / 2


def test_a_model_without_kernels_copies_its_input() -> None:
    sketch = Sketch()
    graph = sketch.graph(sketch.node("reshape", sketch.input(2, 6), shape=(3, 4)))
    with lw.compile(graph) as model:
        assert wrong(graph, model) == 0


def test_attention_is_computed() -> None:
    sketch = Sketch()
    x = sketch.input(1, 6, 16)
    parts = []
    for _ in range(3):
        flat = sketch.node("matmul", x, sketch.weight(16, 16))
        split = sketch.node("reshape", flat, shape=(1, 6, 2, 8))
        parts.append(sketch.node("transpose", split, perm=(0, 2, 1, 3)))
    keys = sketch.node("transpose", parts[1], perm=(0, 1, 3, 2))
    scores = sketch.node("softmax", sketch.node("matmul", parts[0], keys), axis=3)
    mixed = sketch.node("transpose", sketch.node("matmul", scores, parts[2]), perm=(0, 2, 1, 3))
    merged = sketch.node("reshape", mixed, shape=(1, 6, 16))
    total = sketch.node("add", sketch.node("matmul", merged, sketch.weight(16, 16)), x)
    normal = sketch.node(
        "layer_norm", total, sketch.weight(16), sketch.weight(16), axis=2, epsilon=1e-5
    )
    graph = sketch.graph(normal)
    with lw.compile(graph, threads=2) as model:
        assert wrong(graph, model) < 1e-5


@pytest.mark.parametrize(("size", "stride", "kernel"), [(1, 1, 4), (4, 2, 4), (5, 1, 3)])
def test_transposed_convolutions_are_computed_as_plain_ones(
    size: int, stride: int, kernel: int
) -> None:
    sketch = Sketch()
    x = sketch.input(1, 8, size, size)
    pad = (kernel - stride) // 2 if size > 1 else 0
    y = sketch.node(
        "conv_transpose",
        x,
        sketch.weight(8, 16, kernel, kernel),
        sketch.weight(16),
        strides=(stride, stride),
        pads=(pad,) * 4,
    )
    graph = sketch.graph(sketch.node("relu", y))
    with lw.compile(graph) as model:
        assert not any("conv_transpose" in call.task for call in model.manifest.calls)
        assert wrong(graph, model) < 1e-5


def test_an_output_without_elements_is_an_empty_array() -> None:
    sketch = Sketch()
    y = sketch.node("relu", sketch.input(2, 6))
    sketch.constants["nothing"] = np.zeros((2, 0), np.float32)
    with lw.compile(sketch.graph(y, "nothing")) as model:
        found = model(np.ones((2, 6), np.float32))
    assert found[1].shape == (2, 0)


def test_a_saved_model_computes_the_same(tmp_path: Path) -> None:
    graph = residual_block()
    inputs = example(graph)
    with lw.compile(graph) as model:
        expected = model(*inputs.values())
        model.save(tmp_path / "block.lw")
    with lw.load(tmp_path / "block.lw") as loaded:
        np.testing.assert_array_equal(loaded(*inputs.values()), expected)


def test_a_wrong_call_is_refused_in_one_line() -> None:
    graph = residual_block()
    (name,) = graph.inputs
    array = example(graph)[name]
    with lw.compile(graph) as model:
        for arguments, named, words in (
            ((), {}, f"input '{name}' is missing"),
            ((array, array), {}, "got 2 inputs, takes 1"),
            ((array[..., 0],), {}, "wanted float32"),
            ((array.astype(np.float64),), {}, "is float64"),
            ((), {"other": array}, "no input 'other'"),
        ):
            with pytest.raises(ShapeError, match=words) as caught:
                model(*arguments, **named)
            assert "\n" not in str(caught.value)


def test_a_file_that_is_no_model_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.lw"
    path.write_bytes(b"nothing of the kind, but long enough to hold a head" * 3)
    with pytest.raises(ModelError, match="not a tuned model"):
        lw.load(path)


def test_an_output_may_be_a_constant_or_an_input() -> None:
    sketch = Sketch()
    x = sketch.input(2, 3)
    w = sketch.weight(2, 3)
    shaped = sketch.node("reshape", w, shape=(3, 2))
    graph = sketch.graph(sketch.node("add", x, w), x, w, shaped)
    with lw.compile(graph) as model:
        assert wrong(graph, model) == 0


def test_a_convolution_may_have_a_weight_that_is_computed() -> None:
    sketch = Sketch()
    x, w = sketch.input(1, 16, 8, 8), sketch.input(16, 16, 3, 3)
    weight = sketch.node("tanh", w)
    y = sketch.node("conv", x, weight, strides=(1, 1), pads=(1, 1, 1, 1))
    graph = sketch.graph(y, sketch.node("conv", x, w, pads=(1, 1, 1, 1)))
    with lw.compile(graph) as model:
        assert wrong(graph, model) < 1e-5


@pytest.mark.parametrize("shape", [(), (1,), (1, 1), (2, 3)])
def test_an_output_may_be_a_constant_of_any_size(shape: tuple[int, ...]) -> None:
    sketch = Sketch()
    constant = sketch.weight(*shape)
    graph = sketch.graph(constant, sketch.node("relu", sketch.input(2)))
    with lw.compile(graph) as model:
        found = model.run(example(graph))[constant]
    np.testing.assert_array_equal(found, sketch.constants[constant])
    assert found.shape == shape
