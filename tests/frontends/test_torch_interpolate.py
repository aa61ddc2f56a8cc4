"""Resizing and prefix sums compute what PyTorch computes; skipped where torch is not installed."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from loopwright.frontends.torch.importer import from_torch, import_torch_package
from loopwright.graph.evaluate import evaluate

if importlib.util.find_spec("torch") is None:
    pytest.skip("torch is not installed: pip install 'loopwright[torch]'", allow_module_level=True)

torch: Any = import_torch_package()
F: Any = torch.nn.functional
MODES = {3: "linear", 4: "bilinear", 5: "trilinear"}


def agree(function: Callable[[Any], Any], shape: tuple[int, ...]) -> None:
    """The graph of `function` must compute what it does, on seeded numbers of `shape`."""

    class Module(torch.nn.Module):  # type: ignore[misc]  # torch has no types here
        def forward(self, x: Any) -> Any:  # noqa: ANN401  # a tensor
            return function(x)

    x = torch.from_numpy(np.random.default_rng(7).standard_normal(shape).astype(np.float32))
    graph = from_torch(Module().eval(), (x,))
    (name,) = graph.inputs
    (found,) = evaluate(graph, {name: x.numpy()})
    np.testing.assert_allclose(found, function(x).numpy(), rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("shape", [(1, 2, 9), (1, 2, 7, 9), (1, 1, 4, 5, 6)])
@pytest.mark.parametrize("scale", [0.4, 1.3, 1.75, 2.6])
def test_corners_are_aligned_at_any_scale(shape: tuple[int, ...], scale: float) -> None:
    mode = MODES[len(shape)]
    agree(lambda x: F.interpolate(x, scale_factor=scale, mode=mode, align_corners=True), shape)


@pytest.mark.parametrize("axis", [0, -1])
def test_cumulative_sums(axis: int) -> None:
    agree(lambda x: x.cumsum(axis), (3, 200))
