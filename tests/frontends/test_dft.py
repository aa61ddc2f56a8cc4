"""DFT as a product with constants, against onnxruntime."""

from __future__ import annotations

import numpy as np
import pytest
from onnxruntime_oracle import assert_as_onnxruntime, model, node, value


@pytest.mark.parametrize("parts", [1, 2])
@pytest.mark.parametrize("length", [None, 5, 9])
@pytest.mark.parametrize("axis", [1, 2, -2])
@pytest.mark.parametrize("mode", ["", "inverse", "onesided"])
@pytest.mark.parametrize("opset", [17, 20])
def test_frequencies_are_those_of_onnxruntime(
    parts: int, length: int | None, axis: int, mode: str, opset: int
) -> None:
    if mode == "onesided" and parts == 2:
        return  # of complex numbers both sides differ
    x = np.random.default_rng(0).standard_normal((2, 7, 6, parts)).astype(np.float32)
    attrs = {mode: 1} if mode else {}
    weights = {"n": np.array(length)} if length is not None else {}
    names = ["x", "n" if weights else ""]
    if opset == 20:
        names.append("axis")
        weights["axis"] = np.array(axis)
    else:
        attrs["axis"] = axis
    made = model([node("DFT", names, ["y"], **attrs)], [value("x", x.shape)], [value("y")],
                 opset=opset, **weights)  # fmt: skip
    assert_as_onnxruntime(made, {"x": x}, rtol=1e-4, atol=1e-5)
