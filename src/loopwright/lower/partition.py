"""Partition copies with a condition: padding becomes zeros around a copy without tests.

A nest of loops around one `Store(buffer, i, Select(cond, yes, no))` tests `cond` for each element.
The terms of `cond` are linear in the loops, so each splits a loop into the iterations where it
holds and those where it does not; what depends on outer loops alone is tested outside of the nest:

    for y in 0..58: for x in 0..58:             for y in 0..1: for x in 0..58: P[y, x] = 0
        P[y, x] = A[y-1, x-1]           ->      for y in 0..56:
            if 1 <= y < 57 and 1 <= x < 57          P[y+1, 0] = 0
            else 0                                  for x in 0..56: P[y+1, x+1] = A[y, x]
                                                    P[y+1, 57] = 0
                                                for y in 0..1: for x in 0..58: P[y+57, x] = 0
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import replace

from loopwright.ir import walk
from loopwright.ir.bounds import Interval
from loopwright.ir.dtype import BOOL
from loopwright.ir.expr import Binary, Const, Expr, Op, Select, Var, const
from loopwright.ir.kernel import Kernel
from loopwright.ir.simplify import linear, simplify
from loopwright.ir.stmt import Alloc, Block, For, If, LoopKind, Stmt, Store, block

Ranges = Mapping[str, Interval]


def partition_copies(kernel: Kernel) -> Kernel:
    """The kernel with conditional copies split by their conditions.

    Requires: simplified indices. Establishes: no Select on a serial loop of a copy, names unique.
    """
    return kernel.with_body(_visit(kernel.body, {}))


def _visit(stmt: Stmt, ranges: Ranges) -> Stmt:
    match stmt:
        case For():
            if _copies(stmt):
                return _split(stmt, ranges)
            inner = {**ranges, stmt.var.name: (0, stmt.extent - 1)}
            body = _visit(stmt.body, inner)
            return stmt if body is stmt.body else replace(stmt, body=body)
        case Block():
            return block(*(_visit(s, ranges) for s in stmt.stmts))
        case Alloc():
            return replace(stmt, body=_visit(stmt.body, ranges))
        case If():
            otherwise = None if stmt.otherwise is None else _visit(stmt.otherwise, ranges)
            return If(stmt.cond, _visit(stmt.then, ranges), otherwise)
        case Store():
            return stmt


def _copies(stmt: Stmt) -> bool:
    """True for loops around a single store of a Select."""
    while isinstance(stmt, For):
        stmt = stmt.body
    return isinstance(stmt, Store) and isinstance(stmt.value, Select)


def _split(stmt: Stmt, ranges: Ranges) -> Stmt:
    """The nest with tests moved out of it and its serial loops split at their conditions."""
    terms = _terms(stmt)
    bound = {loop.var.name for loop in walk.loops(stmt)}
    for term in terms:
        if not walk.names(term) & bound:
            holds = _assuming(stmt, term, ranges, value=True)
            fails = walk.renamed(_assuming(stmt, term, ranges, value=False), f".f{len(terms)}")
            return If(term, _split(holds, ranges), _split(fails, ranges))
    if not isinstance(stmt, For) or not terms:
        return stmt
    edges = {0, stmt.extent}
    if stmt.kind is LoopKind.SERIAL:
        edges |= {e for t in terms for e in _edge(t, stmt.var.name) if 0 < e < stmt.extent}
    if len(edges) == 2:
        inner = {**ranges, stmt.var.name: (0, stmt.extent - 1)}
        return replace(stmt, body=_split(stmt.body, inner))
    cuts = sorted(edges)
    pieces = [
        _piece(stmt, begin, end, f".p{number}", ranges)
        for number, (begin, end) in enumerate(itertools.pairwise(cuts))
    ]
    return block(*pieces)


def _piece(loop: For, begin: int, end: int, suffix: str, ranges: Ranges) -> Stmt:
    """The iterations from `begin` to `end` - 1."""
    var = Var(loop.var.name + suffix)
    inner = {**ranges, var.name: (0, end - begin - 1)}
    start: Expr = const(begin) if end - begin == 1 else Binary(Op.ADD, var, const(begin))
    body = walk.substitute(walk.renamed(loop.body, suffix), {loop.var.name: start})
    body = _split(_simplified(body, inner), inner)
    return body if end - begin == 1 else For(var, end - begin, loop.kind, body)


def _terms(stmt: Stmt) -> list[Expr]:
    """The terms of the condition of the store inside."""
    while isinstance(stmt, For):
        stmt = stmt.body
    if not isinstance(stmt, Store) or not isinstance(stmt.value, Select):
        return []
    found: list[Expr] = []
    pending: list[Expr] = [stmt.value.cond]
    while pending:
        term = pending.pop()
        if isinstance(term, Binary) and term.op is Op.AND:
            pending += [term.lhs, term.rhs]
        elif isinstance(term, Binary) and term.op in (Op.LT, Op.GE):
            found.append(term)
    return found


def _edge(term: Expr, name: str) -> tuple[int, ...]:
    """The iteration at which a term that depends on `name` alone changes: none, or one."""
    if not isinstance(term, Binary) or not isinstance(term.rhs, Const):
        return ()
    form = linear(term.lhs)
    if len(form.terms) != 1:
        return ()
    atom, coeff = form.terms[0]
    if not isinstance(atom, Var) or atom.name != name or coeff <= 0:
        return ()
    return (-(-(int(term.rhs.value) - form.const) // coeff),)


def _assuming(stmt: Stmt, term: Expr, ranges: Ranges, *, value: bool) -> Stmt:
    """`stmt` where `term` is known to be `value`."""

    def turn(expr: Expr) -> Expr:
        known = isinstance(expr, Binary) and expr.op in (Op.LT, Op.GE) and walk.same(expr, term)
        return const(value, BOOL) if known else expr

    told = walk.rewrite_exprs(stmt, lambda e: walk.rewrite_expr(e, turn))
    return _simplified(told, ranges)


def _simplified(stmt: Stmt, ranges: Ranges) -> Stmt:
    inner = {**ranges, **{n.var.name: (0, n.extent - 1) for n in walk.loops(stmt)}}
    return walk.rewrite_exprs(stmt, lambda e: simplify(e, inner))
