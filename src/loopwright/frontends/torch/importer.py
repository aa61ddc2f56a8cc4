"""PyTorch models as graphs.

`torch.export` traces a model into a program of ATen operators; each is translated by a function of
`rules/`. Operators that have no such function are decomposed by PyTorch first. What depends on
constants alone (masks, positions, transposed weights) is computed here, once.
"""

from __future__ import annotations

import importlib
import math
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import ModuleType
from typing import TYPE_CHECKING, TypeAlias

import ml_dtypes

from loopwright.errors import EnvironmentFailure, InternalError, ModelError, UnsupportedError
from loopwright.frontends.torch.rules import folds, layers, moves, pointwise, scattering
from loopwright.frontends.torch.rules.call import Given, Handler, NodeMaker, Ref, TorchCall
from loopwright.graph.ir import Array, Graph, Value, build
from loopwright.ir import dtype as dt
from loopwright.ir.dtype import DType

if TYPE_CHECKING:
    import torch
    from torch import fx

HANDLERS: Mapping[str, Handler] = {
    **pointwise.TABLE,
    **moves.TABLE,
    **folds.TABLE,
    **layers.TABLE,
    **scattering.TABLE,
}
"""The function that translates each ATen operator."""

_KEPT = (
    "linear matmul silu hardswish hardsigmoid mish softplus selu celu gelu elu leaky_relu relu6 "
    "log_sigmoid prelu layer_norm group_norm instance_norm scaled_dot_product_attention "
    "pixel_shuffle pixel_unshuffle adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d "
    "avg_pool1d max_pool1d max_pool3d rsub.Scalar std.correction logsumexp var_mean.correction "
    "softmax.int log_softmax.int"
)
"""Operators that PyTorch would decompose and that are translated whole."""

_FOLD_BYTES = 1 << 22
"""Bytes up to which what constants expand to is computed here."""

_UNKNOWN = "?"
"""The name of what a refused operator gives, so that the others can still be looked at."""

_IGNORED = (
    "aten._assert_",
    "aten.sym_constrain_range",
    "<built-in function _assert",
    "torch._check",
)

Known: TypeAlias = "Ref | torch.Tensor | tuple[Ref | torch.Tensor | None, ...] | None"
"""What a node of the program gives: values of the graph, or tensors that are known now."""


def import_torch_package() -> ModuleType:
    """The package torch.

    Raises: EnvironmentFailure when it is not installed.
    """
    try:
        with _quietly():
            return importlib.import_module("torch")
    except ImportError as error:
        raise EnvironmentFailure(
            "reading a PyTorch model needs the package torch; pip install 'loopwright[torch]'"
        ) from error


def from_torch(
    module: torch.nn.Module, example_inputs: Sequence[object], *, name: str = ""
) -> Graph:
    """The graph of `module` for inputs of the shapes and dtypes of `example_inputs`.

    Raises: as `import_torch`; ModelError when it is in training, or PyTorch cannot export it.
    """
    torch = import_torch_package()
    label = name if name else type(module).__name__
    if any(part.training for part in module.modules()):
        raise ModelError(f"{label} is in training; call eval() on it first")
    with _quietly(), torch.no_grad():
        try:
            program = torch.export.export(module, tuple(example_inputs), strict=False)
        except Exception as error:  # whatever the model's own code raises
            reason = str(error).strip().split("\n")[0]
            raise ModelError(
                f"{label}: torch.export cannot trace it: {type(error).__name__}: {reason}"
            ) from error
    return import_torch(program, label)


def import_torch(
    program: torch.export.ExportedProgram,
    name: str = "model",
    *,
    constant_inputs: Mapping[int, torch.Tensor] | None = None,
) -> Graph:
    """The graph of an exported program: parameters and buffers are constants.

    Inputs and outputs are those of the program, nested ones one after another.

    Args:
        constant_inputs: values of inputs that do not change, by place; they become constants.

    Raises: ModelError when a dimension is dynamic or the program changes its buffers or inputs;
        UnsupportedError naming each operator that is not supported, how often it is there and
        where first.
    """
    torch = import_torch_package()
    _refuse_dynamic(name, program)
    with _quietly(), torch.no_grad():
        lowered = program
        if not all(_is_covered(node) for node in program.graph.nodes):
            lowered = program.run_decompositions(_decompositions(torch))
        return _Importer(torch, name, lowered, dict(constant_inputs or {})).graph()


def _is_covered(node: fx.Node) -> bool:
    """Whether `node` needs no decomposition; what writes into a tensor does."""
    target = _target(node.target)
    return (
        node.op in ("placeholder", "output")
        or target in HANDLERS
        or target == "getitem"
        or target.startswith(_IGNORED)
    )


def _decompositions(torch: ModuleType) -> Mapping[object, Callable[..., object]]:
    """PyTorch's decompositions of all operators but those that are translated whole."""
    table: dict[object, Callable[..., object]] = torch.export.default_decompositions()
    for kept in _KEPT.split():
        packet, _, overload = kept.partition(".")
        table.pop(getattr(getattr(torch.ops.aten, packet), overload or "default"), None)
    return table


@contextmanager
def _quietly() -> Iterator[None]:
    """No warnings: PyTorch's exporter warns of its own deprecated parts."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _refuse_dynamic(name: str, program: torch.export.ExportedProgram) -> None:
    """Raise ModelError when a dimension of the program is not a number."""
    for node in program.graph.nodes:
        for value in _tensors(node.meta.get("val")):
            for place, extent in enumerate(value.shape):
                if not isinstance(extent, int):
                    kind = "input" if node.op == "placeholder" else "value"
                    raise ModelError(
                        f"{name}: dimension {place} of the {kind} {node.name!r} is dynamic "
                        f"({extent}); export the model without dynamic_shapes"
                    )


def _tensors(value: object) -> Iterator[torch.Tensor]:
    """The tensors in what a node of a program gives."""
    if isinstance(value, list | tuple):
        for part in value:
            yield from _tensors(part)
    elif hasattr(value, "shape") and hasattr(value, "dtype"):
        yield value


@dataclass(slots=True)
class _Refused:
    """Why an operator is not translated, how often, and the first node of it."""

    why: str
    first: str
    count: int = 1


@dataclass(slots=True)
class _Importer:
    """One pass over a program. `known` is what each of its nodes gives."""

    lib: ModuleType
    name: str
    program: torch.export.ExportedProgram
    constant_inputs: dict[int, torch.Tensor]
    make: NodeMaker = field(init=False)
    known: dict[str, Known] = field(default_factory=dict)
    inputs: dict[str, Value] = field(default_factory=dict)
    refused: dict[tuple[str, str], _Refused] = field(default_factory=dict)
    _labels: dict[str, str] = field(default_factory=dict)
    _constants: dict[tuple[object, ...], str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.make = NodeMaker(self.name)

    def graph(self) -> Graph:
        """The graph of the program."""
        self._refuse_changes()
        self._placeholders()
        for node in self.program.graph.nodes:
            if node.op == "call_function" and not str(node.target).startswith(_IGNORED):
                self._translate(node)
            elif node.op not in ("placeholder", "output", "call_function"):
                self._refuse(f"{node.op} {node.target}", "", node.name)
        if self.refused:
            raise UnsupportedError(self._refusal())
        outputs = self._outputs()
        return build(self.name, self.inputs, self.make.nodes, outputs, self.make.constants)

    def _refuse_changes(self) -> None:
        """Raise ModelError for a program that writes to its inputs or buffers."""
        for spec in self.program.graph_signature.output_specs:
            kind = spec.kind.name
            if kind not in ("USER_OUTPUT", "TOKEN"):
                changed = spec.target or spec.arg.name
                raise ModelError(
                    f"{self.name}: it changes {changed!r} ({kind.lower()}), which no graph can; "
                    "call eval() on it, and let it return what changes"
                )

    def _placeholders(self) -> None:
        """Note what the inputs are: a Ref for an input, a tensor for a constant."""
        place = 0
        for spec in self.program.graph_signature.input_specs:
            name = spec.arg.name
            if spec.kind.name == "USER_INPUT":
                given = self.constant_inputs.get(place)
                place += 1
                if given is not None:
                    self.known[name] = given.detach()
                elif hasattr(spec.arg, "value"):  # a number or None, which the trace has used
                    self.known[name] = None
                else:
                    self._input(name)
            elif spec.kind.name in ("PARAMETER", "BUFFER", "CONSTANT_TENSOR"):
                held = {**self.program.constants, **self.program.state_dict}
                self.known[name] = held[spec.target].detach()
                self._labels[name] = spec.target
            else:
                raise UnsupportedError(f"{self.name}: inputs like {name!r} are not supported")

    def _input(self, name: str) -> None:
        (node,) = (n for n in self.program.graph.nodes if n.op == "placeholder" and n.name == name)
        value = _value(node.meta["val"])
        self.inputs[name] = value
        self.known[name] = Ref(name, value.shape, value.dtype)

    def _translate(self, node: fx.Node) -> None:
        """Translate one call, compute it when it is constant, or note why neither can be."""
        target = _target(node.target)
        if target == "getitem":
            self.known[node.name] = self._item(node)
            return
        if self._constant(node):
            self.known[node.name] = self._evaluate(node)
            return
        results = tuple(_value_or_none(v) for v in _listed(node.meta.get("val")))
        try:
            handler = _handler(target)
            self.make.begin(node.name)
            call = TorchCall(node.name, target, self._arguments(node), results)
            found = handler(self.make, call)
            _check(self.name, call, found)
            self.known[node.name] = found
        except UnsupportedError as error:
            if not self._follows(node):
                self._refuse(target, str(error), node.name)
            stand = tuple(None if v is None else Ref(_UNKNOWN, v.shape, v.dtype) for v in results)
            several = isinstance(node.meta.get("val"), list | tuple)
            self.known[node.name] = stand if several else stand[0]

    def _follows(self, node: fx.Node) -> bool:
        """Whether `node` is refused only because it reads a dtype that we do not have."""
        unknown = any(self.known[source.name] is None for source in node.all_input_nodes)
        return unknown and _target(node.target) in HANDLERS

    def _item(self, node: fx.Node) -> Known:
        """One of the results of a call."""
        source, place = node.args
        several = self.known[source.name]
        found = several[place] if isinstance(several, tuple) else several
        if found is None and node.users:
            self._refuse(_target(source.target), f"result {place}", node.name)
            value = _value(node.meta["val"])
            return Ref(_UNKNOWN, value.shape, value.dtype)
        return found

    def _refuse(self, target: str, why: str, node: str) -> None:
        noted = self.refused.get((target, why))
        if noted is None:
            self.refused[target, why] = _Refused(why, node)
        else:
            noted.count += 1

    def _refusal(self) -> str:
        lines = [
            f"{target}{f' {noted.why}' if noted.why else ''} ({noted.count}, first {noted.first!r})"
            for (target, _), noted in self.refused.items()
        ]
        return f"{self.name}: operators that are not supported: {', '.join(lines)}"

    def _constant(self, node: fx.Node) -> bool:
        """Whether all that `node` reads is known now, and what it gives may be kept."""
        sources = [self.known[n.name] for n in node.all_input_nodes]
        if not all(self._is_tensor(s) for s in sources):
            return False
        tags = getattr(node.target, "tags", ())
        if self.lib.Tag.nondeterministic_seeded in tags:
            return False
        if _target(node.target) not in HANDLERS:
            return True
        made = sum(_nbytes(v) for v in _tensors(node.meta.get("val")))
        read = sum(_nbytes(s) for s in sources if isinstance(s, self.lib.Tensor))
        return made <= max(read, _FOLD_BYTES)

    def _is_tensor(self, known: Known) -> bool:
        if isinstance(known, tuple):
            return all(isinstance(k, self.lib.Tensor) for k in known)
        return isinstance(known, self.lib.Tensor)

    def _evaluate(self, node: fx.Node) -> Known:
        """What PyTorch computes for `node`."""

        def tensor(source: fx.Node) -> Known:
            return self.known[source.name]

        args = self.lib.fx.node.map_arg(node.args, tensor)
        kwargs = self.lib.fx.node.map_arg(node.kwargs, tensor)
        found = node.target(*args, **kwargs)
        return tuple(found) if isinstance(found, list) else found

    def _arguments(self, node: fx.Node) -> dict[str, Given]:
        """The arguments of a call by the names of its schema, with the defaults."""
        given: dict[str, Given] = {}
        for place, argument in enumerate(node.target._schema.arguments):
            if place < len(node.args) and not argument.kwarg_only:
                value = node.args[place]
            else:
                value = node.kwargs.get(argument.name, argument.default_value)
            given[argument.name] = self._given(value)
        return given

    def _given(self, value: object) -> Given:
        if isinstance(value, self.lib.fx.Node):
            return self._ref(value.name)
        if isinstance(value, list | tuple):
            return tuple(self._given(part) for part in value)
        if isinstance(value, self.lib.dtype):
            return _dtype(value)
        return value if isinstance(value, int | float | str) else None

    def _ref(self, name: str) -> Ref:
        """The value that the node `name` gives; a known tensor becomes a constant of the graph."""
        known = self.known[name]
        if isinstance(known, Ref):
            return known
        if not isinstance(known, self.lib.Tensor):
            raise UnsupportedError(f"reading {name!r}, which is not a tensor")
        same = (known.data_ptr(), tuple(known.shape), known.stride(), known.dtype)
        label = self._constants.setdefault(same, self._labels.get(name, name))
        ref = self.make.constant(to_numpy(known), label)
        if known.numel():  # keeps the memory, which its address stands for
            self.known[name] = known
        return ref

    def _outputs(self) -> tuple[str, ...]:
        """The names of the outputs: an input, a constant and a value given twice are copied."""
        names: list[str] = []
        made = {output for node in self.make.nodes for output in node.outputs}
        for place, spec in enumerate(self.program.graph_signature.output_specs):
            if hasattr(spec.arg, "value"):
                raise ModelError(
                    f"{self.name}: its output {place} is {spec.arg.value!r}, not a tensor; "
                    "return tensors only"
                )
            ref = self._ref(spec.arg.name)
            if ref.name in names or ref.name not in made:
                self.make.begin(f"output/{place}")
                ref = self.make.node("identity", [ref])
            names.append(ref.name)
        return tuple(names)


def _handler(target: str) -> Handler:
    """The function that translates `target`. Raises: UnsupportedError when there is none."""
    if target not in HANDLERS:
        raise UnsupportedError("")
    return HANDLERS[target]


def to_numpy(tensor: torch.Tensor) -> Array:
    """The elements of `tensor` as a contiguous array, of the same memory where it can be.

    Raises: UnsupportedError for a tensor that is not dense or not on the CPU.
    """
    if tensor.device.type != "cpu" or str(tensor.layout) != "torch.strided":
        raise UnsupportedError(f"a tensor on {tensor.device} ({tensor.layout}); move it to the CPU")
    dense = tensor.detach().resolve_conj().resolve_neg().contiguous()
    if str(tensor.dtype) == "torch.bfloat16":
        torch = import_torch_package()
        halves: Array = dense.view(torch.int16).numpy()
        return halves.view(ml_dtypes.bfloat16)
    array: Array = dense.numpy()
    return array


def _check(graph: str, call: TorchCall, found: object) -> None:
    """Raise InternalError when a translation is not of the shape and dtype that PyTorch says."""
    results = found if isinstance(found, tuple) else (found,)
    for ref, value in zip(results, call.results, strict=False):
        if isinstance(ref, Ref) and value is not None and (ref.shape, ref.dtype) != _pair(value):
            raise InternalError(
                f"{graph}: {call.target} ({call.name}) became {ref.dtype}{list(ref.shape)} "
                f"instead of {value.dtype}{list(value.shape)}"
            )


def _pair(value: Value) -> tuple[tuple[int, ...], DType]:
    return value.shape, value.dtype


def _target(target: object) -> str:
    """The name of an operator: `aten.add.Tensor`."""
    name = str(target)
    return "getitem" if "getitem" in name else name


def _listed(value: object) -> Iterable[object]:
    return value if isinstance(value, list | tuple) else (value,)


def _value(tensor: torch.Tensor) -> Value:
    return Value(tuple(int(n) for n in tensor.shape), _dtype(tensor.dtype))


def _value_or_none(value: object) -> Value | None:
    """The shape and dtype of a result, None for one without or of a dtype that is not ours."""
    try:
        return next((_value(tensor) for tensor in _tensors(value)), None)
    except UnsupportedError:
        return None


def _dtype(dtype: torch.dtype) -> DType:
    return dt.parse(str(dtype).removeprefix("torch."))


def _nbytes(tensor: torch.Tensor) -> int:
    return int(math.prod(tensor.shape) * tensor.dtype.itemsize)
