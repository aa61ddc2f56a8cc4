from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper

from loopwright.errors import ModelError, UnsupportedError
from loopwright.graph.models import bundled, resolve
from loopwright.graph.onnx_file import read_graph
from loopwright.graph.onnx_tasks import ModelTasks, model_tasks
from loopwright.graph.onnx_tasks import _padding as padding_of

if TYPE_CHECKING:
    from pathlib import Path

    from conftest import SaveModel

node = helper.make_node
CONV = {"x": (1, 8, 10, 12), "w": (16, 8, 3, 3), "b": (16,)}


def tasks_of(path: Path) -> ModelTasks:
    return model_tasks(read_graph(path))


def only_attrs(path: Path) -> dict[str, object]:
    (task,) = tasks_of(path).tasks
    return dict(task.attrs)


# How many nodes of each model are tasks: counted by hand in its graph.
@pytest.mark.parametrize(
    ("name", "distinct", "nodes"),
    [
        ("resnet18", 16, 21),
        ("mobilenet_v1", 20, 28),
        ("dqn", 5, 5),
        ("vgg19", 12, 19),
        ("bert_base", 5, 96),
        ("lstm_lm", 1, 1),
        ("dcgan", 0, 0),
    ],
)
def test_each_convolution_and_product_of_a_model_is_counted_once(
    name: str, distinct: int, nodes: int
) -> None:
    found = tasks_of(resolve(name))
    assert len(found.tasks) == distinct
    assert sum(task.count for task in found.tasks) == nodes
    names = [n for task in found.tasks for n in task.nodes]
    assert len(set(names)) == nodes


def test_the_first_task_of_resnet18_is_its_first_convolution() -> None:
    first = tasks_of(resolve("resnet18")).tasks[0]
    assert first.operator == "conv2d"
    assert first.nodes == ("/conv1/Conv",)
    assert dict(first.attrs) == {
        "data": (1, 3, 224, 224),
        "weight": (64, 3, 7, 7),
        "strides": (2, 2),
        "padding": (3, 3, 3, 3),
        "dilation": (1, 1),
        "groups": 1,
        "bias": True,
        "relu": True,
    }


def test_equal_convolutions_are_one_task_with_a_count() -> None:
    counts = {dict(t.attrs)["weight"]: t.count for t in tasks_of(resolve("vgg19")).tasks}
    assert counts[(512, 512, 3, 3)] == 4


def test_operators_that_are_not_tuned_are_counted() -> None:
    untuned = dict(tasks_of(resolve("resnet18")).untuned)
    assert untuned == {"Add": 8, "Relu": 8, "MaxPool": 1, "GlobalAveragePool": 1, "Flatten": 1}


def test_normalisation_and_relu_after_a_convolution_become_part_of_it(
    save_model: SaveModel,
) -> None:
    path = save_model(
        [
            node("Conv", ["x", "w"], ["c"]),
            node("BatchNormalization", ["c", "s", "b", "m", "v"], ["n"]),
            node("Relu", ["n"], ["y"]),
        ],
        {**CONV, "s": (16,), "m": (16,), "v": (16,)},
    )
    attrs = only_attrs(path)
    assert (attrs["bias"], attrs["relu"]) == (True, True)
    assert tasks_of(path).untuned == ()


def test_a_relu_stays_apart_when_the_convolution_has_another_user(save_model: SaveModel) -> None:
    path = save_model(
        [
            node("Conv", ["x", "w"], ["c"]),
            node("Relu", ["c"], ["r"]),
            node("Add", ["c", "r"], ["y"]),
        ],
        CONV,
    )
    assert only_attrs(path)["relu"] is False
    assert dict(tasks_of(path).untuned) == {"Relu": 1, "Add": 1}


def test_a_relu_stays_apart_when_the_convolution_is_an_output(save_model: SaveModel) -> None:
    nodes = [node("Conv", ["x", "w"], ["y"]), node("Relu", ["y"], ["r"])]
    assert only_attrs(save_model(nodes, CONV))["relu"] is False


def test_one_filter_a_channel_is_a_depthwise_convolution(save_model: SaveModel) -> None:
    path = save_model(
        [node("Conv", ["x", "w"], ["y"], group=8, pads=[1, 1, 1, 1])],
        {"x": (1, 8, 10, 10), "w": (16, 1, 3, 3)},
    )
    (task,) = tasks_of(path).tasks
    assert task.operator == "depthwise_conv2d"
    assert "groups" not in dict(task.attrs)


def test_a_gemm_that_is_not_transposed_has_its_weight_turned(save_model: SaveModel) -> None:
    path = save_model([node("Gemm", ["x", "w"], ["y"])], {"x": (4, 8), "w": (8, 16)}, rank=2)
    assert only_attrs(path) == {"data": (4, 8), "weight": (16, 8), "bias": False, "relu": False}


def test_a_bias_after_a_product_becomes_part_of_it(save_model: SaveModel) -> None:
    path = save_model(
        [node("MatMul", ["x", "w"], ["m"]), node("Add", ["b", "m"], ["y"])],
        {"x": (2, 4, 8), "w": (8, 16), "b": (16,)},
        rank=3,
    )
    assert only_attrs(path) == {"data": (8, 8), "weight": (16, 8), "bias": True, "relu": False}


def test_a_product_of_computed_values_is_a_batch_of_products(save_model: SaveModel) -> None:
    path = save_model(
        [node("Relu", ["a"], ["b"]), node("MatMul", ["x", "b"], ["y"])],
        {"x": (2, 3, 4, 8), "a": (2, 3, 8, 5)},
    )
    (task,) = tasks_of(path).tasks
    assert task.operator == "batch_matmul"
    assert dict(task.attrs) == {"a": (6, 4, 8), "b": (6, 8, 5)}


def test_a_batch_of_weights_may_be_packed_ahead(save_model: SaveModel) -> None:
    path = save_model([node("MatMul", ["x", "w"], ["y"])], {"x": (2, 4, 8), "w": (2, 8, 5)}, rank=3)
    assert only_attrs(path) == {"a": (2, 4, 8), "b": (2, 8, 5), "constant_b": True}


@pytest.mark.parametrize("alpha", [{"alpha": 2.0}, {"transA": 1}])
def test_a_gemm_that_no_task_describes_is_left_out(
    save_model: SaveModel, alpha: dict[str, float]
) -> None:
    path = save_model(
        [node("Gemm", ["x", "w"], ["y"], **alpha)], {"x": (8, 8), "w": (8, 8)}, rank=2
    )
    assert tasks_of(path).untuned == (("Gemm", 1),)


@given(st.integers(3, 20), st.integers(1, 3), st.integers(1, 3), st.integers(1, 2), st.booleans())
def test_same_padding_gives_an_output_of_extent_over_stride(
    extent: int, kernel: int, stride: int, spread: int, upper: bool
) -> None:
    from loopwright.graph.onnx_file import Node

    mode = "SAME_UPPER" if upper else "SAME_LOWER"
    conv = Node("c", "Conv", (), (), {"auto_pad": mode})
    top, left, bottom, right = padding_of(
        conv, (extent, extent), (kernel, kernel), (stride, stride), (spread, spread)
    )
    assert (top, bottom) == (left, right)
    assert (bottom >= top) if upper else (top >= bottom)
    out = (extent + top + bottom - (kernel - 1) * spread - 1) // stride + 1
    assert out == -(-extent // stride) or top + bottom == 0


def test_a_dynamic_shape_names_the_input_and_what_to_do(save_model: SaveModel) -> None:
    path = save_model([node("Conv", ["x", "w"], ["y"])], {**CONV, "x": ("batch", 8, 10, 12)})
    words = r"dimension 0 of input 'x' is dynamic \('batch'\).*--shape x=1x8x10x12"
    with pytest.raises(ModelError, match=words):
        read_graph(path)


def test_a_dynamic_shape_can_be_fixed(save_model: SaveModel) -> None:
    path = save_model([node("Conv", ["x", "w"], ["y"])], {**CONV, "x": ("batch", 8, 10, 12)})
    (task,) = model_tasks(read_graph(path, {"x": (4, 8, 10, 12)})).tasks
    assert dict(task.attrs)["data"] == (4, 8, 10, 12)


@pytest.mark.parametrize(
    ("shapes", "words"),
    [
        ({"q": (1,)}, "has no input 'q'; its inputs are x, w"),
        ({"x": (1, 2)}, r"input 'x' has 4 dimensions, the shape \(1, 2\) has 2"),
        ({"z": (1, 16, 9, 10)}, "its shapes do not fit together"),
    ],
)
def test_a_shape_that_does_not_fit_is_refused(
    save_model: SaveModel, shapes: dict[str, tuple[int, ...]], words: str
) -> None:
    nodes = [node("Conv", ["x", "w"], ["c"]), node("Concat", ["c", "z"], ["y"], axis=0)]
    path = save_model(nodes, {**CONV, "z": (1, 16, 8, 10)})
    with pytest.raises(ModelError, match=words):
        read_graph(path, shapes)


def test_a_convolution_whose_channels_do_not_fit_names_the_node(save_model: SaveModel) -> None:
    path = save_model([node("Conv", ["x", "w"], ["y"], name="c")], {**CONV, "x": (1, 7, 9, 9)})
    with pytest.raises(ModelError, match=r"node 'c' \(Conv\): data .* and group 1 do not fit"):
        tasks_of(path)


def test_an_unsupported_dtype_names_the_node(save_model: SaveModel) -> None:
    nodes = [node("MatMul", ["x", "w"], ["y"], name="mm")]
    path = save_model(nodes, {"x": (4, 8), "w": (8, 8)}, rank=2, dtype=TensorProto.UINT64)
    words = r"model\.onnx: node 'mm' \(MatMul\): dtype 'uint64' is not supported; use one of"
    with pytest.raises(UnsupportedError, match=words):
        tasks_of(path)


def test_another_dtype_is_an_attribute(save_model: SaveModel) -> None:
    nodes = [node("MatMul", ["x", "w"], ["y"])]
    path = save_model(nodes, {"x": (4, 8), "w": (8, 8)}, rank=2, dtype=TensorProto.DOUBLE)
    assert only_attrs(path)["dtype"] == "float64"


def test_an_unknown_operator_before_a_convolution_names_the_node(save_model: SaveModel) -> None:
    nodes = [
        node("Twist", ["x"], ["t"], domain="org.example"),
        node("Conv", ["t", "w"], ["y"], name="conv"),
    ]
    path = save_model(nodes, CONV, domains=["org.example"])
    with pytest.raises(ModelError, match=r"node 'conv' \(Conv\): the shape of its input 't'"):
        tasks_of(path)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.97])
def test_a_truncated_file_is_refused(tmp_path: Path, share: float) -> None:
    whole = resolve("resnet18").read_bytes()
    path = tmp_path / "cut.onnx"
    path.write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(ModelError, match=r"^cut\.onnx is not .*ONNX model"):
        read_graph(path)


@pytest.mark.parametrize("content", [b"", b"\x00" * 100, b"PK\x03\x04 not a model", b"{}"])
def test_a_file_of_something_else_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "other.onnx"
    path.write_bytes(content)
    with pytest.raises(ModelError, match=r"^other\.onnx is not .*ONNX model") as caught:
        read_graph(path)
    assert "\n" not in str(caught.value)


def test_a_bundled_model_is_found_with_and_without_its_ending() -> None:
    assert resolve("resnet18") == resolve("resnet18.onnx")
    assert len(bundled()) == 11


def test_a_file_is_found_before_a_bundled_model_of_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "resnet18.onnx").write_bytes(b"mine")
    monkeypatch.chdir(tmp_path)
    assert resolve("resnet18.onnx").read_bytes() == b"mine"


@pytest.mark.parametrize("name", ["resnet19", "folder/resnet18.onnx"])
def test_a_model_that_is_nowhere_is_refused(name: str) -> None:
    with pytest.raises(ModelError, match=f"no file {name}, nor a bundled model.*resnet18"):
        resolve(name)


def test_filling_gives_every_weight_the_same_values_for_the_same_seed() -> None:
    from loopwright.graph.fill import fill

    model = onnx.load(str(resolve("dqn")))
    first, second, other = fill(model), fill(model), fill(model, seed=1)
    assert [v.name for v in first.graph.input] == ["input"]
    assert first.SerializeToString() == second.SerializeToString()
    assert first.SerializeToString() != other.SerializeToString()
    for tensor in first.graph.initializer:
        assert np.isfinite(onnx.numpy_helper.to_array(tensor)).all()
