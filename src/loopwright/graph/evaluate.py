"""What nodes and graphs compute, in NumPy: for folding constants, and as the oracle of a graph."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from loopwright.errors import ModelError
from loopwright.graph.ir import Array, Graph, Node, Value, operand
from loopwright.ir import dtype as dt
from loopwright.ops.attributes import NodeAttrs, integer, integers, text
from loopwright.ops.registry import define
from loopwright.te.reference import evaluate as evaluate_workload
from loopwright.te.tensor import Placeholder
from loopwright.te.workload import workload

Optional = Array | None
Move = Callable[[Sequence[Array], NodeAttrs], Array]


def evaluate(graph: Graph, inputs: Mapping[str, Array]) -> tuple[Array, ...]:
    """The outputs of `graph` for `inputs` by name, each node computed as it is defined.

    Floats are computed in float64 and rounded where a node ends.

    Raises: ModelError for an input that is missing, or is not what the graph says.
    """
    known: dict[str, Array] = dict(graph.constants)
    for name in graph.inputs:
        if name not in inputs:
            raise ModelError(f"{graph.name}: the input {name!r} is missing")
        value, array = graph.values[name], inputs[name]
        if array.shape != value.shape or array.dtype != value.dtype.numpy:
            raise ModelError(
                f"{graph.name}: {name!r} is {value}, got {array.dtype}{list(array.shape)}"
            )
        known[name] = array
    left = Counter(n for node in graph.nodes for n in node.inputs)
    left.update(graph.outputs)
    for node in graph.nodes:
        found = definition(node, [known[n] if n else None for n in node.inputs])
        known.update(zip(node.outputs, found, strict=True))
        left.subtract(node.inputs)
        for name in {n for n in node.inputs if n and not left[n]}:
            del known[name]
    return tuple(known[name] for name in graph.outputs)


def definition(node: Node, arrays: Sequence[Optional]) -> tuple[Array, ...]:
    """The outputs of `node` as its tensor expression defines them."""
    tensors = [
        None if a is None else operand(Value(a.shape, dt.parse(a.dtype.name)), f"in{place}")
        for place, a in enumerate(arrays)
    ]
    outputs = define(node.op, node.attrs, tensors, "out")
    given = {f"in{place}": a for place, a in enumerate(arrays) if a is not None}
    computed = [t for t in outputs if not isinstance(t.op, Placeholder)]
    found: dict[str, Array] = {}
    if computed:
        whole = workload(computed)
        results = evaluate_workload(whole, {t.name: given[t.name] for t in whole.inputs})
        found = {t.name: a for t, a in zip(computed, results, strict=True)}
    return tuple(found[t.name] if t.name in found else given[t.name] for t in outputs)


def evaluate_node(node: Node, arrays: Sequence[Optional]) -> tuple[Array, ...]:
    """The outputs of `node`, with moves of elements done by NumPy itself.

    That is quick for weights of any size, and also holds for arrays without elements.
    """
    move = _MOVES.get(node.op)
    present = [a for a in arrays if a is not None]
    if move is None or len(present) != len(arrays):
        return definition(node, arrays)
    with np.errstate(all="ignore"):
        return (np.asarray(move(present, node.attrs)),)


def _slice(arrays: Sequence[Array], attrs: NodeAttrs) -> Array:
    starts, steps, sizes = (integers(attrs, name) for name in ("starts", "steps", "sizes"))
    picked = []
    for start, step, size in zip(starts, steps, sizes, strict=True):
        stop = start + step * size
        picked.append(slice(start, None if stop < 0 else stop, step) if size else slice(0, 0))
    return arrays[0][tuple(picked)]


def _cast(arrays: Sequence[Array], attrs: NodeAttrs) -> Array:
    return arrays[0].astype(dt.parse(text(attrs, "to")).numpy)


def _tile(arrays: Sequence[Array], attrs: NodeAttrs) -> Array:
    return np.tile(arrays[0], integers(attrs, "repeats"))


def _gather(arrays: Sequence[Array], attrs: NodeAttrs) -> Array:
    return np.take(arrays[0], arrays[1].astype(np.int64), axis=integer(attrs, "axis"))


_MOVES: Mapping[str, Move] = {
    "identity": lambda arrays, _: arrays[0],
    "reshape": lambda arrays, attrs: arrays[0].reshape(integers(attrs, "shape")),
    "transpose": lambda arrays, attrs: np.ascontiguousarray(
        arrays[0].transpose(integers(attrs, "perm"))
    ),
    "expand": lambda arrays, attrs: np.broadcast_to(arrays[0], integers(attrs, "shape")).copy(),
    "concat": lambda arrays, attrs: np.concatenate(arrays, axis=integer(attrs, "axis")),
    "slice": _slice,
    "cast": _cast,
    "tile": _tile,
    "gather": _gather,
}
