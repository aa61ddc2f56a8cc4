"""The models that come with the package, at full size, as onnxruntime computes them.

`python benchmarks/models.py` prints the same error for tuned models.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest

import loopwright as lw
from loopwright.deploy.finish import difference
from loopwright.deploy.make import TOLERANCE
from loopwright.frontends.onnx.bundled import bundled
from loopwright.layout import Array
from loopwright.peers.model_inputs import indexed_rows, model_inputs
from loopwright.report.compare import onnx_file


def by_onnxruntime(file: Path, inputs: dict[str, Array]) -> dict[str, Array]:
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 2
    session = ort.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, inputs), strict=True))


def test_there_are_eleven_models() -> None:
    assert len(bundled()) == 11


@pytest.mark.parametrize("name", bundled())
def test_a_model_computes_what_onnxruntime_does(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # no records but those that come with the package
    monkeypatch.delenv("LOOPWRIGHT_RECORDS", raising=False)
    file = onnx_file(name, tmp_path)
    with lw.compile(file, threads=2) as model:
        inputs = model_inputs(model.inputs, indexed_rows(file))
        found = model.run(inputs)
    expected = by_onnxruntime(file, inputs)
    file.unlink()
    assert {n: (a.shape, a.dtype) for n, a in found.items()} == {
        n: (a.shape, a.dtype) for n, a in expected.items()
    }
    assert all(np.ptp(array) > 0 for array in expected.values()), "a constant says nothing"
    assert difference(found, expected) <= TOLERANCE
