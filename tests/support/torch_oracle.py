"""Whether the graph of a PyTorch module computes what the module does.

Import it only where torch is installed.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np

from loopwright.frontends.torch.importer import from_torch, import_torch_package, to_numpy
from loopwright.graph.evaluate import evaluate
from loopwright.graph.ir import Graph, verify

Tensor: TypeAlias = Any  # tests see torch without its types
Module: TypeAlias = Any
torch: Any = import_torch_package()
nn: Any = torch.nn


def wrapped(function: Callable[..., object]) -> Module:
    """A module that computes `function`."""

    class Wrapped(nn.Module):  # type: ignore[misc]  # torch has no types here
        def forward(self, *inputs: Tensor) -> object:
            return function(*inputs)

    return Wrapped().eval()


def flat(found: Tensor) -> list[Tensor]:
    """The tensors of a result, nested or not."""
    if isinstance(found, list | tuple):
        return [tensor for part in found for tensor in flat(part)]
    return [found]


def agree(
    module: Module, *inputs: Tensor, tolerance: float = 2e-5, names: Sequence[str] = ()
) -> Graph:
    """The graph of `module`, which must compute what the module does."""
    module = module.eval() if isinstance(module, nn.Module) else wrapped(module)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        wanted = flat(module(*inputs))
    graph = from_torch(module, inputs)
    verify(graph)
    arrays = [to_numpy(tensor) for tensor in flat(list(inputs))]
    found = evaluate(graph, dict(zip(graph.inputs, arrays, strict=True)))
    assert len(found) == len(wanted)
    labels = names if names else [f"output {place}" for place in range(len(wanted))]
    for got, expected, name in zip(found, wanted, labels, strict=True):
        assert got.dtype.name == str(expected.dtype).removeprefix("torch.")
        np.testing.assert_allclose(
            got, to_numpy(expected), rtol=tolerance, atol=tolerance, err_msg=name
        )
    return graph


def normal(*shape: int) -> Tensor:
    return torch.randn(*shape)
