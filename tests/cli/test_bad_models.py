"""ONNX files that cannot be used: one clear line and exit code 2, and nothing is written."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from loopwright.layout import Array

if TYPE_CHECKING:
    from conftest import Run

RIGHT = np.ones((3, 4), np.float32)


def model(
    op: str = "MatMul",
    shape: Sequence[int | str] = (2, 3),
    weight: Array | None = RIGHT,
    opset: int = 18,
    domain: str = "",
) -> bytes:
    """A model of one node, as a file has it."""
    weights = {} if weight is None else {"w": weight}
    graph = helper.make_graph(
        [helper.make_node(op, ["x", *weights], ["y"], name="node7", domain=domain)],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    opsets = [helper.make_opsetid("", opset)]
    if domain:
        opsets.append(helper.make_opsetid(domain, 1))
    made: onnx.ModelProto = helper.make_model(graph, opset_imports=opsets, ir_version=8)
    return bytes(made.SerializeToString())


def with_weight(value: float) -> bytes:
    weight = RIGHT.copy()
    weight[1, 2] = value
    return model(weight=weight)


BAD: Mapping[str, tuple[Callable[[], bytes], str]] = {
    "truncated": (lambda: model()[:60], "net.onnx is not an ONNX model, or only part of one"),
    "cut between fields": (lambda: model()[:2], "net.onnx"),
    "empty": (bytes, "net.onnx is empty"),
    "text": (lambda: b"no model at all", "net.onnx is not an ONNX model"),
    "an unknown operator": (
        lambda: model("Fancy", weight=None, domain="com.other"),
        "operators that are not supported: com.other.Fancy in 1 node, 'node7'",
    ),
    "an operator that is not supported": (
        lambda: model("Det", shape=(3, 3), weight=None),
        "operators that are not supported: Det in 1 node, 'node7'",
    ),
    "an opset of long ago": (lambda: model(opset=5), "uses opset 5; 7 to"),
    "an opset to come": (lambda: model(opset=99), "uses opset 99; 7 to"),
    "shapes that do not fit": (
        lambda: model(shape=(2, 5)),
        "node 'node7' (matmul): matmul of float32[2, 5], float32[3, 4]",
    ),
    "an open dimension": (
        lambda: model(shape=("batch", 3)),
        "dimension 0 of input 'x' is dynamic ('batch'); fix the shape, as with --input-shape x:1x3",
    ),
    "a NaN": (lambda: with_weight(np.nan), "weight 'w' is NaN at [1, 2]"),
}


@pytest.mark.parametrize("command", ["optimize", "tasks", "bench"])
@pytest.mark.parametrize("what", BAD)
def test_a_bad_file_is_one_line_and_exit_code_2(
    run: Run, tmp_path: Path, what: str, command: str
) -> None:
    made, words = BAD[what]
    if command == "tasks" and what == "a NaN":
        pytest.skip("weights are not looked at")
    (tmp_path / "net.onnx").write_bytes(made())
    more = ("--time-budget", "0") if command == "optimize" else ()
    result = run(command, "net.onnx", *more)
    told = [line for line in result.err.splitlines() if not line.endswith(" ...")]
    assert (result.code, result.out) == (2, "")
    assert len(told) == 1
    assert told[0].startswith("loopwright: net.onnx")
    assert words in told[0]
    assert [path.name for path in tmp_path.iterdir()] == ["net.onnx"]


@pytest.mark.parametrize("text", ["x:2x3", "x=2x3"])
def test_an_open_dimension_can_be_fixed(run: Run, tmp_path: Path, text: str) -> None:
    (tmp_path / "net.onnx").write_bytes(model(shape=("batch", 3)))
    made = run("optimize", "net.onnx", "--time-budget", "0", "--input-shape", text)
    assert made.code == 0
    ran = run("run", "net.lw", "--runs", "1")
    assert ran.code == 0
    assert "output    y: float32 2x4" in ran.out


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("z:2x3", "net.onnx has no input 'z'; its inputs are x"),
        ("x:2x3x4", "input 'x' has 2 dimensions, the shape (2, 3, 4) has 3"),
        ("x:2x5", "node 'node7' (matmul)"),
        ("x:0x3", "--input-shape 'x:0x3' is not NAME:1x3x224x224"),
    ],
)
def test_a_shape_that_does_not_fit_is_one_line(
    run: Run, tmp_path: Path, text: str, words: str
) -> None:
    (tmp_path / "net.onnx").write_bytes(model(shape=("batch", 3)))
    result = run("tasks", "net.onnx", "--input-shape", text)
    assert (result.code, result.out, result.err.count("\n")) == (2, "", 1)
    assert words in result.err
