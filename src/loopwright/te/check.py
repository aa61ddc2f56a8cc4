"""Why a body of `te.compute` is refused: a one-line reason, found when the body is given."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from loopwright.ir import walk
from loopwright.ir.expr import Expr, Load, Reduce, Select
from loopwright.ir.printer import show
from loopwright.ir.simplify import affine
from loopwright.ir.verify import meaningless


def reason_against(body: Expr, axes: Mapping[str, int]) -> str | None:
    """Why `body` cannot be computed for the axes, variable name -> extent; None if it can."""
    folded = {axis.var.name: axis.extent for axis in body.axes} if isinstance(body, Reduce) else {}
    element = body.body if isinstance(body, Reduce) else body
    return (
        _repeated(body, axes)
        or _inner_reduce(element)
        or _unbound(element, axes, folded)
        or meaningless(element)
        or _outside(element, {**axes, **folded})
    )


def _repeated(body: Expr, axes: Mapping[str, int]) -> str | None:
    names = [axis.var.name for axis in body.axes] if isinstance(body, Reduce) else []
    taken = [name for name in names if names.count(name) > 1 or name in axes]
    return f"two axes are called {taken[0]}; give each a name of its own" if taken else None


def _inner_reduce(element: Expr) -> str | None:
    if any(isinstance(node, Reduce) for node in walk.visit(element)):
        return "a reduction must be the whole body; give it a te.compute of its own"
    return None


def _unbound(element: Expr, axes: Mapping[str, int], folded: Mapping[str, int]) -> str | None:
    for var in walk.free_vars(element):
        if var.name not in axes and var.name not in folded:
            return (
                f"the body reads {var.name}, which is not one of its axes; "
                "reduce over it, or drop it"
            )
    return None


def _outside(element: Expr, extents: Mapping[str, int]) -> str | None:
    """A read that is certainly out of bounds; reads guarded by a condition are skipped."""
    for load in _certain_loads(element):
        for dim, index in enumerate(load.indices):
            form = affine(index)
            if form is None or not form.terms.keys() <= extents.keys():
                continue
            held = form.bounds(lambda name: (0, extents[name] - 1))
            low, high = (0, 0) if held is None else held
            if low < 0 or high >= load.buffer.shape[dim]:
                return (
                    f"{show(load)} reads {low}..{high} of dimension {dim}, which has "
                    f"{load.buffer.shape[dim]} elements; guard the read with te.if_then_else"
                )
    return None


def _certain_loads(element: Expr) -> Iterator[Load]:
    """The loads that every element performs."""
    pending = [element]
    while pending:
        node = pending.pop()
        if isinstance(node, Load):
            yield node
        pending.extend((node.cond,) if isinstance(node, Select) else walk.exprs(node))
