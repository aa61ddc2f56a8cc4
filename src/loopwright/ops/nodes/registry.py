"""The operators of a graph by name, and what each means as a tensor expression."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from loopwright.errors import ShapeError, UnsupportedError
from loopwright.ops.nodes import (
    binary,
    conv,
    gather,
    matmul,
    move,
    normalize,
    pool,
    reduce,
    resize,
    unary,
)
from loopwright.ops.nodes.attributes import NodeAttrs
from loopwright.ops.nodes.node import Inputs, Kind, NodeDef, Outputs
from loopwright.te.tensor import Tensor

__all__ = ["NODES", "Kind", "NodeDef", "define", "node_def"]

NODES: Mapping[str, NodeDef] = {
    node.name: node
    for family in (unary, binary, conv, matmul, pool, reduce, normalize, move, gather, resize)
    for node in family.NODES
}


def node_def(op: str) -> NodeDef:
    """The operator called `op`. Raises: UnsupportedError when there is none."""
    if op not in NODES:
        raise UnsupportedError(f"the operator {op!r} is not supported")
    return NODES[op]


def define(
    op: str, attrs: NodeAttrs, inputs: Sequence[Tensor | None], prefix: str
) -> tuple[Tensor, ...]:
    """The outputs of `op` on `inputs`, whose stages are named `prefix`, `prefix.pad`, and so on.

    Raises: UnsupportedError for an operator that is not there; ShapeError for attributes that it
        does not have, and for inputs that do not fit.
    """
    node = node_def(op)
    unknown = sorted(set(attrs) - node.attrs)
    if unknown:
        takes = ", ".join(sorted(node.attrs)) or "none"
        raise ShapeError(f"{op}: unknown attribute {unknown[0]!r}; it takes {takes}")
    if not node.least <= len(inputs) <= node.most:
        wanted = node.least if node.least == node.most else f"{node.least} to {node.most}"
        raise ShapeError(f"{op} takes {wanted} inputs, got {len(inputs)}")
    if any(tensor is None for tensor in inputs[: node.least]):
        raise ShapeError(f"{op}: one of its first {node.least} inputs is left out")
    return _named(node, attrs, inputs, prefix)


def _named(node: NodeDef, attrs: NodeAttrs, inputs: Inputs, prefix: str) -> Outputs:
    """What `node` defines; refusals say which operator and inputs they are about."""
    try:
        return node.define(inputs, attrs, prefix)
    except ShapeError as error:
        shown = ", ".join("none" if t is None else f"{t.dtype}{list(t.shape)}" for t in inputs)
        raise ShapeError(f"{node.name} of {shown}: {error}") from error
