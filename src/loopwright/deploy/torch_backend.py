"""The backend "loopwright" of `torch.compile`, for inference on the CPU.

    with torch.no_grad():
        fast = torch.compile(model.eval(), backend="loopwright")
        fast(x)

It takes the options threads (as many as PyTorch has), records and target of `lw.compile`. A traced
graph is compiled when it is first called, and again for each further set of shapes. Parameters and
buffers are constants of it: when they change, it is compiled again. What is not supported, or fails
to compile for whatever reason, runs as PyTorch would run it, with one warning that says why; so
does a graph that takes part in a gradient.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias

import ml_dtypes
import numpy as np

from loopwright.deploy.compile import compile as compile_model
from loopwright.errors import ConfigError, LoopwrightError, UnsupportedError
from loopwright.frontends.torch.importer import import_torch, import_torch_package, to_numpy
from loopwright.graph.ir import Array, Graph

if TYPE_CHECKING:
    import torch
    from torch import fx

Run: TypeAlias = Callable[[Sequence[Array]], Sequence[Array]]
"""Computes the outputs of a graph from its inputs, both in the graph's order."""
Compiler: TypeAlias = Callable[[Graph], Run]
Compiled: TypeAlias = "Callable[..., Sequence[torch.Tensor]]"


def backend(
    module: fx.GraphModule,
    example_inputs: Sequence[torch.Tensor | int],
    *,
    options: Mapping[str, str | int] | None = None,
    compiler: Compiler | None = None,
) -> Compiled:
    """What runs in place of `module`, a graph that `torch.compile` traced.

    Args:
        compiler: makes a graph run; `lw.compile` when None.

    Raises: ConfigError for an option that there is not.
    """
    torch = import_torch_package()
    run = _native(options or {}, torch.get_num_threads()) if compiler is None else compiler
    tensors = [x for x in example_inputs if isinstance(x, torch.Tensor)]
    if torch.is_grad_enabled() and any(x.requires_grad for x in tensors):
        _warn("gradients are on; call the model within torch.no_grad()")
        return module.forward  # type: ignore[no-any-return]  # torch is not type-checked
    fixed = frozenset(place for place, x in enumerate(example_inputs) if _is_state(torch, x))
    return _Traced(module, run, fixed)


def _native(options: Mapping[str, str | int], threads: int) -> Compiler:
    """Compiles graphs to native code. Raises: ConfigError for an option that there is not."""
    unknown = sorted(set(options) - {"threads", "records", "target"})
    if unknown:
        raise ConfigError(f"unknown option {unknown[0]!r}; use threads, records or target")
    threads = int(options.get("threads", threads))
    records = str(options["records"]) if "records" in options else None
    target = str(options.get("target", "cpu"))

    def compiled(graph: Graph) -> Run:
        model = compile_model(graph, threads=threads, records=records, target=target)

        def run(arrays: Sequence[Array]) -> Sequence[Array]:
            found = model(*arrays)
            return found if isinstance(found, tuple) else (found,)

        return run

    return compiled


def _is_state(torch: object, given: object) -> bool:
    """Whether an input of a traced graph is a parameter or a buffer of the model."""
    parameter = torch.nn.Parameter  # type: ignore[attr-defined]  # a module without types
    return isinstance(given, parameter) or hasattr(given, "_dynamo_static_input_type")


def _warn(why: str) -> None:
    warnings.warn(
        f"loopwright: PyTorch runs this graph itself: {why}", RuntimeWarning, stacklevel=3
    )


@dataclass(frozen=True, slots=True)
class _Ready:
    """A compiled graph for one set of shapes; `state` tells the parameters it was compiled with."""

    run: Run
    state: tuple[tuple[int, int], ...]


@dataclass(slots=True)
class _Traced:
    """A traced graph; `fixed` are the places of the inputs that are parameters or buffers."""

    module: fx.GraphModule
    compiler: Compiler
    fixed: frozenset[int]
    _ready: dict[tuple[object, ...], _Ready | None] = field(default_factory=dict)

    def __call__(self, *given: torch.Tensor | int) -> Sequence[torch.Tensor]:
        """The outputs of the graph."""
        kind = tuple(_kind(x) for x in given)
        state = tuple(_identity(given[place]) for place in sorted(self.fixed))
        ready = self._ready.get(kind)
        if kind not in self._ready or (ready is not None and ready.state != state):
            ready = self._ready[kind] = self._compile(given, state)
        if ready is None:
            return self.module(*given)  # type: ignore[no-any-return]
        places = [p for p, x in enumerate(given) if p not in self.fixed and not _is_number(x)]
        found = ready.run([to_numpy(given[place]) for place in places])
        return tuple(to_tensor(array) for array in found)

    def _compile(
        self, given: Sequence[torch.Tensor | int], state: tuple[tuple[int, int], ...]
    ) -> _Ready | None:
        """The graph compiled for inputs like `given`, None when it cannot be, with a warning."""
        try:
            return _Ready(self.compiler(self._graph(given)), state)
        except LoopwrightError as error:
            _warn(str(error))
        except Exception as error:  # noqa: BLE001  # PyTorch's boundary: it can do without us
            what = " ".join(str(error).split())
            _warn(f"a fault of loopwright, to be reported: {type(error).__name__}: {what}")
        return None

    def _graph(self, given: Sequence[torch.Tensor | int]) -> Graph:
        """The traced graph with its parameters as constants."""
        torch = import_torch_package()
        with torch.inference_mode(False), torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                program = torch.export.export(self.module, tuple(given), strict=False)
            except Exception as error:  # PyTorch raises whatever its tracing meets
                reason = str(error).strip().split("\n")[0]
                raise UnsupportedError(f"torch.export cannot trace it: {reason}") from error
            held = {place: given[place] for place in self.fixed}
            return import_torch(program, "torch", constant_inputs=held)


def _is_number(given: object) -> bool:
    return isinstance(given, int | float)


def _kind(given: torch.Tensor | int) -> tuple[object, ...] | float:
    """What a graph is compiled for: the shape and dtype of a tensor, the value of a number."""
    if isinstance(given, int | float):
        return given
    return (given.shape, given.dtype, given.device)


def _identity(tensor: torch.Tensor | int) -> tuple[int, int]:
    """The memory of a parameter and how often it was written."""
    if isinstance(tensor, int):
        return tensor, 0
    return tensor.data_ptr(), 0 if tensor.is_inference() else tensor._version


def to_tensor(array: Array) -> torch.Tensor:
    """A tensor of the memory of `array`, or of a copy if that must not be written."""
    torch = import_torch_package()
    array = np.ascontiguousarray(array).reshape(array.shape)
    if not array.flags.writeable:
        array = array.copy()
    if array.dtype == ml_dtypes.bfloat16:
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(array)
