"""Copies of statements under new names: a kernel's loop variables and buffers are unique."""

from __future__ import annotations

from loopwright.ir import walk
from loopwright.ir.expr import Buffer, Expr, Var
from loopwright.ir.stmt import For, Stmt


def renamed(stmt: Stmt, suffix: str) -> Stmt:
    """`stmt` with `suffix` behind the names of its loop variables and allocated buffers."""
    if not suffix:
        return stmt
    variables: dict[str, Expr] = {
        loop.var.name: Var(loop.var.name + suffix) for loop in walk.loops(stmt)
    }
    buffers: dict[Buffer, Buffer] = {}
    for alloc in walk.allocs(stmt):
        old = alloc.buffer
        buffers[old] = Buffer(old.name + suffix, old.dtype, old.shape, old.scope)
    moved = walk.rewrite_exprs(stmt, lambda e: walk.substitute(e, variables))

    def turn(node: Stmt) -> Stmt:
        if isinstance(node, For):
            return For(Var(node.var.name + suffix), node.extent, node.kind, node.body)
        return node

    return walk.substitute_buffers(walk.rewrite(moved, turn), buffers)
