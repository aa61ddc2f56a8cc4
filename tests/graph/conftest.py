from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper

SaveModel = Callable[..., Path]


@pytest.fixture
def save_model(tmp_path: Path) -> SaveModel:
    """Write a model of `nodes` that computes `y`; a string in a shape is a dynamic dimension."""

    def save(
        nodes: Sequence[onnx.NodeProto],
        inputs: dict[str, Sequence[int | str]],
        rank: int = 4,
        dtype: int = TensorProto.FLOAT,
        domains: Sequence[str] = (),
    ) -> Path:
        graph = helper.make_graph(
            nodes,
            "g",
            [helper.make_tensor_value_info(name, dtype, s) for name, s in inputs.items()],
            [helper.make_tensor_value_info("y", dtype, [f"y{d}" for d in range(rank)])],
        )
        opsets = [helper.make_opsetid("", 18), *(helper.make_opsetid(d, 1) for d in domains)]
        path = tmp_path / "model.onnx"
        onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=8), path)
        return path

    return save
