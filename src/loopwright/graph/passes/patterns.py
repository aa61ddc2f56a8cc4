"""Passes that find an operator in the arithmetic that exporters write for it.

A product is looked at as its factors, so that the order and the place of constants do not matter.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from loopwright.graph.ir import Array, Graph, Node
from loopwright.graph.passes.rewrite import Rewriter, other, rewrite
from loopwright.ops.attributes import integer, integers, number

_NEAR = 1e-4
"""How near a constant must be to the one that is meant; exporters write few digits."""


@dataclass(frozen=True, slots=True)
class _Product:
    """`factor` times the values, which are sorted."""

    factor: float
    values: tuple[str, ...]


def _product(r: Rewriter, value: str, depth: int = 5) -> _Product:
    """`value` as a product of values that are not products."""
    node = r.maker(value)
    if node is None or depth == 0:
        return _Product(1.0, (value,))
    if node.op == "pow" and r.scalar(node.inputs[1]) in (2.0, 3.0):
        return _Product(1.0, (node.inputs[0],) * int(r.scalar(node.inputs[1]) or 1))
    return _factors(r, node, depth) or _Product(1.0, (value,))


def _factors(r: Rewriter, node: Node, depth: int = 5) -> _Product | None:
    """What `node` computes as a product, if it multiplies, or divides by a constant."""
    divisor = r.scalar(node.inputs[1]) if node.op == "div" else None
    if node.op != "mul" and not divisor:
        return None
    factor = 1 / divisor if divisor else 1.0
    values: list[str] = []
    for name in node.inputs[: 1 if divisor else 2]:
        number = r.scalar(name)
        part = _product(r, name, depth - 1) if number is None else _Product(number, ())
        factor *= part.factor
        values += part.values
    return _Product(factor, tuple(sorted(values)))


def _near(value: float | None, wanted: float) -> bool:
    return value is not None and math.isclose(value, wanted, rel_tol=_NEAR)


def _plus(r: Rewriter, value: str, wanted: float) -> str | None:
    """x, if `value` is x + wanted."""
    node = r.maker(value, "add")
    for place in (0, 1) if node is not None else ():
        if node is not None and _near(r.scalar(node.inputs[place]), wanted):
            return node.inputs[1 - place]
    return None


def find_activations(graph: Graph) -> Graph:
    """The graph with gelu, silu, mish and hard_swish in place of the products that they are.

    Establishes: no product x * f(x) is one of these.
    """
    return rewrite(graph, _activation)


def _activation(r: Rewriter, node: Node) -> Sequence[Node] | None:
    found = _factors(r, node) if r.value(node.outputs[0]).dtype.is_float else None
    if found is None or len(found.values) != 2:
        return None
    a, b = found.values
    for x, gate in ((a, b), (b, a)):
        named = _gated(r, x, gate, found.factor)
        if named is not None and r.value(x) == r.value(node.outputs[0]):
            op, attrs = named
            return [r.node(node, op, [x], attrs)]
    return None


def _gated(r: Rewriter, x: str, gate: str, factor: float) -> tuple[str, dict[str, str]] | None:
    """The operator that `factor * x * gate` is."""
    node = r.maker(gate)
    if node is None:
        return None
    if _near(factor, 0.5) and _is_one_plus(r, gate, x, "erf"):
        return "gelu", {"approximate": "none"}
    if _near(factor, 0.5) and _is_one_plus(r, gate, x, "tanh"):
        return "gelu", {"approximate": "tanh"}
    if node.op == "clip" and _near(factor, 1 / 6):
        bounds = number(node.attrs, "min", -1.0), number(node.attrs, "max", -1.0)
        return ("hard_swish", {}) if bounds == (0, 6) and _plus(r, node.inputs[0], 3) == x else None
    if factor != 1.0:
        return None
    inner = node.inputs[0]
    soft = r.maker(inner, "softplus") if node.op == "tanh" else None
    if soft is not None and soft.inputs[0] == x:
        return "mish", {}
    if inner != x:
        return None
    if node.op == "sigmoid":
        return "silu", {}
    if node.op == "hard_sigmoid" and _near(number(node.attrs, "alpha", 0.2), 1 / 6):
        return ("hard_swish", {}) if number(node.attrs, "beta", 0.5) == 0.5 else None
    return None


def _is_one_plus(r: Rewriter, gate: str, x: str, op: str) -> bool:
    """Whether `gate` is 1 + op(argument of gelu at x)."""
    inner = _plus(r, gate, 1.0)
    function = r.maker(inner, op) if inner is not None else None
    if function is None:
        return False
    argument = _product(r, function.inputs[0])
    if op == "erf":
        return argument.values == (x,) and _near(argument.factor, math.sqrt(0.5))
    if not _near(argument.factor, math.sqrt(2 / math.pi)):
        return False
    if len(argument.values) == 2 and x in argument.values:  # x * (1 + c * x * x)
        rest = [v for v in argument.values if v != x]
        square = _plus(r, rest[0], 1.0) if rest else None
        return square is not None and _is_power(r, square, x, 2)
    total = r.maker(argument.values[0], "add") if len(argument.values) == 1 else None
    cube = other(total, x) if total is not None else None  # x + c * x * x * x
    return cube is not None and _is_power(r, cube, x, 3)


def _is_power(r: Rewriter, value: str, x: str, power: int) -> bool:
    found = _product(r, value)
    return found.values == (x,) * power and _near(found.factor, 0.044715)


def find_layer_norms(graph: Graph) -> Graph:
    """The graph with layer_norm in place of the arithmetic that it is, scale and bias included.

    Establishes: no deviation from a mean over the last dimensions is divided by its root mean
    square.
    """
    return rewrite(rewrite(graph, _layer_norm), _scaled_norm)


def _layer_norm(r: Rewriter, node: Node) -> Sequence[Node] | None:
    off = r.maker(node.inputs[0], "sub") if node.op == "div" else None
    root = r.maker(node.inputs[1], "sqrt") if off is not None else None
    total = r.maker(root.inputs[0], "add") if root is not None else None
    mean = r.maker(off.inputs[1], "reduce_mean") if off is not None else None
    if off is None or total is None or mean is None or mean.inputs[0] != off.inputs[0]:
        return None
    for place in (0, 1):
        epsilon = r.scalar(total.inputs[place])
        variance = r.maker(total.inputs[1 - place], "reduce_mean")
        if epsilon is None or variance is None:
            continue
        squared = _product(r, variance.inputs[0])
        axis = _last_axes(r, mean)
        if squared != _Product(1.0, (off.outputs[0],) * 2) or axis is None:
            continue
        if _last_axes(r, variance) != axis:
            continue
        value = r.value(mean.inputs[0])
        ones = r.keep(np.ones(value.shape[axis:], value.dtype.numpy), f"{node.name}.scale")
        attrs = {"axis": axis, "epsilon": epsilon}
        return [r.node(node, "layer_norm", [mean.inputs[0], ones], attrs)]
    return None


def _last_axes(r: Rewriter, node: Node) -> int | None:
    """The first of the last dimensions that `node` folds and keeps; None if it does not."""
    rank = len(r.value(node.inputs[0]).shape)
    axes = integers(node.attrs, "axes")
    last = tuple(range(rank - len(axes), rank))
    return last[0] if axes == last and last and integer(node.attrs, "keepdims", 1) else None


def _scaled_norm(r: Rewriter, node: Node) -> Sequence[Node] | None:
    for value in node.inputs if node.op in ("mul", "add") else ():
        norm = r.lone(value, "layer_norm")
        beside = other(node, value)
        array = r.constant(beside) if norm is not None and beside is not None else None
        if norm is None or beside is None or array is None or len(norm.inputs) > 2:
            continue
        scale = r.constant(norm.inputs[1])
        if scale is None or array.shape != scale.shape:
            continue
        if node.op == "add":
            return [r.node(node, "layer_norm", [*norm.inputs, beside], norm.attrs)]
        if _is_one(scale):
            return [r.node(node, "layer_norm", [norm.inputs[0], beside], norm.attrs)]
    return None


def _is_one(array: Array) -> bool:
    return bool(np.all(array == 1))
