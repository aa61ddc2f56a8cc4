"""ONNX's Resize in what goes beyond the operator of graphs, against onnxruntime."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from loopwright.frontends.onnx.importer import import_onnx_model
from loopwright.graph.evaluate import evaluate
from loopwright.layout import Array

SHAPE = (1, 2, 7, 9)


def resized(
    x: Array, places: Mapping[int, Array], *, opset: int = 19, **attrs: str | float
) -> tuple[Array, Array]:
    """What we make of `x`, and what onnxruntime does; `places` are the other inputs."""
    names = ["x"] + ["" if n not in places else f"i{n}" for n in range(1, max(places) + 1)]
    weights = [numpy_helper.from_array(array, f"i{n}") for n, array in places.items()]
    graph = helper.make_graph(
        [helper.make_node("Resize", names, ["y"], **attrs)],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, x.shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        weights,
    )
    opsets = [helper.make_opsetid("", opset)]
    made: onnx.ModelProto = helper.make_model(graph, opset_imports=opsets, ir_version=8)
    session = onnxruntime.InferenceSession(
        made.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    (found,) = evaluate(import_onnx_model(made), {"x": x})
    return found, np.asarray(session.run(None, {"x": x})[0])


def image() -> Array:
    return np.random.default_rng(3).standard_normal(SHAPE).astype(np.float32)


@pytest.mark.parametrize("mode", ["nearest", "linear"])
@pytest.mark.parametrize("scales", [(2.0, 2.0), (0.5, 0.6), (2.5, 0.7)])
def test_before_opset_11(mode: str, scales: tuple[float, float]) -> None:
    places = {1: np.array((1, 1, *scales), np.float32)}
    found, wanted = resized(image(), places, opset=10, mode=mode)
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-5)


CUBIC = ["half_pixel", "pytorch_half_pixel", "asymmetric", "align_corners"]


@pytest.mark.parametrize("coordinate", CUBIC)
@pytest.mark.parametrize("scales", [(2.0, 2.0), (0.5, 0.6), (1.7, 2.3)])
@pytest.mark.parametrize("outside", [0, 1])
def test_cubic(coordinate: str, scales: tuple[float, float], outside: int) -> None:
    sizes = np.array((1, 2, int(7 * scales[0]), int(9 * scales[1])), np.int64)
    found, wanted = resized(
        image(),
        {3: sizes},
        mode="cubic",
        coordinate_transformation_mode=coordinate,
        exclude_outside=outside,
    )
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("mode", ["linear", "cubic"])
def test_antialias(mode: str) -> None:
    found, wanted = resized(image(), {3: np.array((1, 2, 3, 4))}, mode=mode, antialias=1)
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("axis", [2, 3])
def test_an_infinity_stays_where_it_is_read(axis: int) -> None:
    x = image()
    x[0, 0, 3, 4] = np.inf
    sizes = np.array((1, 2, 14, 18))
    found, wanted = resized(x, {3: sizes}, mode="cubic")
    assert np.isfinite(found).sum(axis=axis).min() > 0
    np.testing.assert_array_equal(np.isfinite(found), np.isfinite(wanted))
