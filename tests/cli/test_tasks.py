from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from loopwright.frontends.onnx.bundled import bundled

if TYPE_CHECKING:
    from conftest import Run


def test_eleven_models_come_with_the_package() -> None:
    assert len(bundled()) == 11


@pytest.mark.parametrize("model", bundled())
def test_the_tasks_of_every_bundled_model_are_listed(run: Run, model: str) -> None:
    pytest.importorskip("onnx")
    shown = run("tasks", model)
    assert (shown.code, shown.err) == (0, "")
    assert model in shown.out
    found = json.loads(run("tasks", model, "-o", "json").out)
    assert all(task["flops"] > 0 and task["count"] > 0 for task in found["tasks"])
