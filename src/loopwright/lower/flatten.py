"""Flatten buffers: every buffer one-dimensional, every index a sum of strides."""

from __future__ import annotations

from collections.abc import Mapping

from loopwright.ir import walk
from loopwright.ir.bounds import Interval
from loopwright.ir.expr import Binary, Buffer, Expr, Load, Op, const
from loopwright.ir.kernel import Kernel
from loopwright.ir.simplify import simplify
from loopwright.ir.stmt import Alloc, Stmt, Store


def flatten_storage(kernel: Kernel) -> Kernel:
    """Row-major storage made explicit.

    Requires: nothing. Establishes: one-dimensional buffers, simplified indices.
    """
    flat: dict[Buffer, Buffer] = {}
    for buffer in (*kernel.params, *(a.buffer for a in walk.allocs(kernel.body))):
        flat[buffer] = Buffer(buffer.name, buffer.dtype, (buffer.size,), buffer.scope)
    ranges = {loop.var.name: (0, loop.extent - 1) for loop in walk.loops(kernel.body)}

    def turn_expr(expr: Expr) -> Expr:
        if isinstance(expr, Load):
            return Load(flat[expr.buffer], _offset(expr.buffer, expr.indices, ranges))
        return expr

    def turn(stmt: Stmt) -> Stmt:
        stmt = walk.map_exprs(stmt, lambda e: walk.rewrite_expr(e, turn_expr))
        if isinstance(stmt, Store):
            index = _offset(stmt.buffer, stmt.indices, ranges)
            return Store(flat[stmt.buffer], index, stmt.value)
        return Alloc(flat[stmt.buffer], stmt.body) if isinstance(stmt, Alloc) else stmt

    body = walk.rewrite(kernel.body, turn)
    return Kernel(kernel.name, tuple(flat[p] for p in kernel.params), kernel.n_outputs, body)


def _offset(
    buffer: Buffer, indices: tuple[Expr, ...], ranges: Mapping[str, Interval]
) -> tuple[Expr, ...]:
    total: Expr = const(0)
    stride = 1
    for index, extent in zip(reversed(indices), reversed(buffer.shape), strict=True):
        total = Binary(Op.ADD, total, Binary(Op.MUL, index, const(stride)))
        stride *= extent
    return (simplify(total, ranges),)
