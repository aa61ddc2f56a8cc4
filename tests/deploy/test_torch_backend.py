"""torch.compile with our backend computes what PyTorch does; skipped where torch is not there."""

from __future__ import annotations

import importlib
import importlib.util
import tomllib
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pytest

from loopwright.deploy.compile import compile as compile_model
from loopwright.deploy.torch_backend import backend, to_tensor
from loopwright.errors import ConfigError
from loopwright.frontends.torch.importer import import_torch_package
from loopwright.graph.evaluate import evaluate
from loopwright.graph.ir import Array, Graph

if importlib.util.find_spec("torch") is None:
    pytest.skip("torch is not installed: pip install 'loopwright[torch]'", allow_module_level=True)

ROOT = Path(__file__).resolve().parents[2]
Tensor: TypeAlias = Any  # tests see torch without its types
Module: TypeAlias = Any
torch: Any = import_torch_package()
nn: Any = torch.nn


class Interpreter:
    """Runs graphs by their definition, and keeps those it was given."""

    def __init__(self) -> None:
        self.graphs: list[Graph] = []

    def __call__(self, graph: Graph) -> Callable[[Sequence[Array]], Sequence[Array]]:
        self.graphs.append(graph)
        return lambda arrays: evaluate(graph, dict(zip(graph.inputs, arrays, strict=True)))


@pytest.fixture
def interpreter() -> Iterator[Interpreter]:
    torch.manual_seed(5)
    torch.compiler.reset()
    yield Interpreter()
    torch.compiler.reset()


@contextmanager
def of_torch() -> Iterator[list[warnings.WarningMessage]]:
    """Without gradients; what is warned of is kept, since torch warns of its own parts."""
    with torch.no_grad(), warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        yield seen


def ours(seen: Sequence[warnings.WarningMessage]) -> list[str]:
    return [str(w.message) for w in seen if str(w.message).startswith("loopwright")]


def small() -> Module:
    layers = (nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten(), nn.Linear(12, 2))
    return nn.Sequential(*layers).eval()


def close(a: Tensor, b: Tensor) -> bool:
    return bool(torch.allclose(a, b, rtol=1e-4, atol=1e-5))


def by(interpreter: Interpreter) -> Callable[..., object]:
    """Our backend with graphs interpreted."""
    return lambda gm, inputs: backend(gm, inputs, compiler=interpreter)


def test_parameters_and_buffers_become_constants(interpreter: Interpreter) -> None:
    module, x = small(), torch.randn(2, 2, 4, 4)
    with of_torch() as seen:
        found = torch.compile(module, backend=by(interpreter))(x)
        assert close(found, module(x))
    (graph,) = interpreter.graphs
    assert [graph.values[name].shape for name in graph.inputs] == [(2, 2, 4, 4)]
    assert ours(seen) == []


def test_each_shape_is_compiled_once(interpreter: Interpreter) -> None:
    module = small()
    with of_torch():
        fast = torch.compile(module, backend=by(interpreter))
        for batch in (1, 2, 3, 2, 3, 1):
            x = torch.randn(batch, 2, 4, 4)
            assert close(fast(x), module(x))
    assert len(interpreter.graphs) == 3


def test_changed_parameters_are_compiled_anew(interpreter: Interpreter) -> None:
    module, x = small(), torch.randn(1, 2, 4, 4)
    with of_torch():
        fast = torch.compile(module, backend=by(interpreter))
        before = fast(x)
        module[4].weight.mul_(2.0)
        after = fast(x)
        assert close(after, module(x))
        assert not close(before, after)
        fast(x)
    assert len(interpreter.graphs) == 2


def test_inputs_of_any_strides_are_read(interpreter: Interpreter) -> None:
    x = torch.randn(4, 3).t()
    with of_torch():
        found = torch.compile(lambda x: x * 2 + 1, backend=by(interpreter))(x)
    assert close(found, x * 2 + 1)


def test_results_are_not_views_of_what_is_kept(interpreter: Interpreter) -> None:
    module, x = nn.Linear(3, 2).eval(), torch.randn(2, 3)
    with of_torch():
        fast = torch.compile(module, backend=by(interpreter))
        first = fast(x)
        fast(x).add_(1.0)
        assert close(fast(x), first)


def test_several_results_come_in_order(interpreter: Interpreter) -> None:
    x = torch.randn(2, 3)
    with of_torch():
        first, second = torch.compile(lambda x: (x.sum(1), x > 0), backend=by(interpreter))(x)
    assert close(first, x.sum(1))
    assert second.dtype == torch.bool
    assert torch.equal(second, x > 0)


def test_what_is_not_supported_runs_in_pytorch_with_one_warning(interpreter: Interpreter) -> None:
    x = torch.randn(2, 3)
    with of_torch() as seen:
        fast = torch.compile(lambda x: x.cumsum(1) * 2, backend=by(interpreter))
        assert close(fast(x), x.cumsum(1) * 2)
        assert close(fast(x + 1), (x + 1).cumsum(1) * 2)
    (said,) = ours(seen)
    assert said == (
        "loopwright: PyTorch runs this graph itself: torch: operators that are not supported: "
        "aten.cumsum.default (1, first 'cumsum')"
    )


def test_a_fault_while_compiling_is_told_and_left_to_pytorch() -> None:
    def broken(graph: Graph) -> Callable[[Sequence[Array]], Sequence[Array]]:
        raise KeyError(graph.outputs[0])

    module, x = nn.Linear(3, 2).eval(), torch.randn(2, 3)
    torch.compiler.reset()
    with of_torch() as seen:
        fast = torch.compile(module, backend=lambda gm, xs: backend(gm, xs, compiler=broken))
        assert close(fast(x), module(x))
        assert close(fast(x + 1), module(x + 1))
    (said,) = ours(seen)
    assert "PyTorch runs this graph itself: a fault of loopwright, to be reported: KeyError" in said


def test_gradients_are_left_to_pytorch(interpreter: Interpreter) -> None:
    module, x = nn.Linear(3, 1), torch.randn(2, 3)
    with of_torch() as seen, torch.enable_grad():
        torch.compile(module, backend=by(interpreter))(x).sum().backward()
    assert module.weight.grad is not None
    assert interpreter.graphs == []
    (said,) = ours(seen)
    assert "gradients are on; call the model within torch.no_grad()" in said


def test_within_inference_mode(interpreter: Interpreter) -> None:
    module, x = small(), torch.randn(1, 2, 4, 4)
    with of_torch(), torch.inference_mode():
        assert close(torch.compile(module, backend=by(interpreter))(x), module(x))
    assert len(interpreter.graphs) == 1


def test_unknown_options_are_refused() -> None:
    with pytest.raises(ConfigError, match="unknown option 'speed'; use threads, records or target"):
        backend(None, (), options={"speed": 11})


@pytest.mark.parametrize("name", ["float32", "bfloat16", "float16", "int64", "bool"])
def test_tensors_share_the_memory_of_arrays(name: str) -> None:
    import ml_dtypes

    dtype = ml_dtypes.bfloat16 if name == "bfloat16" else np.dtype(name)
    array = np.zeros((2, 3), dtype)
    tensor = to_tensor(array)
    assert str(tensor.dtype) == f"torch.{name}"
    assert tuple(tensor.shape) == (2, 3)
    tensor.fill_(1)
    assert (array == 1).all()


def test_a_tensor_of_an_array_that_must_not_be_written_is_a_copy() -> None:
    array = np.zeros(3, np.float32)
    array.flags.writeable = False
    to_tensor(array).fill_(1.0)
    assert (array == 0).all()


def test_the_entry_point_names_the_backend() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    path = project["entry-points"]["torch_dynamo_backends"]["loopwright"]
    module, _, name = path.partition(":")
    assert getattr(importlib.import_module(module), name) is backend


def test_native_code_by_torch_compile(interpreter: Interpreter) -> None:
    del interpreter
    module, x = nn.Linear(8, 4).eval(), torch.randn(2, 8)
    with of_torch() as seen:
        fast = torch.compile(module, backend=backend, options={"threads": 1})
        assert close(fast(x), module(x))
    assert ours(seen) == []


def test_native_code_of_a_module() -> None:
    module, x = nn.Sequential(nn.Linear(8, 4), nn.Tanh()).eval(), torch.randn(2, 8)
    with compile_model(module, example_inputs=(x,)) as model:
        found = model(x.numpy())
    with torch.no_grad():
        np.testing.assert_allclose(found, module(x).numpy(), rtol=1e-4, atol=1e-5)


def test_a_constant_for_each_channel_after_an_activation_by_torch_compile() -> None:
    layers = (nn.Conv2d(3, 8, 3), nn.ReLU(), nn.BatchNorm2d(8), nn.Tanh(), nn.Conv2d(8, 8, 1))
    module = nn.Sequential(*layers, nn.ReLU(), nn.BatchNorm2d(8)).eval()
    with torch.no_grad():
        for norm in (module[2], module[6]):
            norm.bias.uniform_(-1, 1)
    x = torch.randn(1, 3, 8, 8)
    torch.compiler.reset()
    with of_torch() as seen:
        found = torch.compile(module, backend=backend, options={"threads": 1})(x)
        assert close(found, module(x))
    assert ours(seen) == []
