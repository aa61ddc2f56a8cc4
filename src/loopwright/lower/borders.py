"""Take tests out of loops: an element that is chosen by a condition on loops is often always one.

A `Select` whose condition compares a sum of loop variables with a constant is decided in most
iterations of some serial loop: that loop is cut where the condition changes. What depends on
outer loops alone is tested once, in front of the loop:

    for x in 0..28: unrolled i in 0..4:         x = 0: with the test
        m = max(m, A[x*4+i-1] if x*4+i >= 1     for x in 1..28: m = max(m, A[x*4+i-1])
                   else -inf)

The code grows by copies, so only small bodies are cut.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import replace

from loopwright.ir import walk
from loopwright.ir.bounds import Interval
from loopwright.ir.dtype import BOOL, I64
from loopwright.ir.expr import Binary, Expr, Load, Op, Select, Var, const
from loopwright.ir.kernel import Kernel
from loopwright.ir.simplify import linear, simplify_stmt
from loopwright.ir.stmt import Alloc, Block, For, If, LoopKind, Stmt, Store, block

Ranges = Mapping[str, Interval]
MAX_COST = 6000
"""Nodes, unrolled ones counted as often as they are emitted, that the pieces of a loop may have."""
MAX_PIECES = 6


def cut_at_borders(kernel: Kernel) -> Kernel:
    """The kernel with serial loops cut where conditions on elements change.

    Requires: simplified indices. Establishes: names stay unique; tests are left where a cut would
    cost too much code, and where a condition is no comparison of sums.
    """
    return kernel.with_body(_visit(kernel.body, {}, 0))


def _visit(stmt: Stmt, ranges: Ranges, depth: int) -> Stmt:
    match stmt:
        case For():
            return _visit_loop(stmt, ranges, depth)
        case Block():
            return block(*(_visit(s, ranges, depth) for s in stmt.stmts))
        case Alloc():
            return replace(stmt, body=_visit(stmt.body, ranges, depth))
        case If():
            then = _visit(stmt.then, ranges, depth)
            no = None if stmt.otherwise is None else _visit(stmt.otherwise, ranges, depth)
            return If(stmt.cond, then, no)
        case Store():
            return stmt


def _visit_loop(loop: For, ranges: Ranges, depth: int) -> Stmt:
    """`loop` behind the tests that do not depend on it, and cut at those that do."""
    tests = _tests(loop)
    if not tests:
        return loop
    bound = {n.var.name for n in walk.loops(loop)}
    cost = _cost(loop)
    for test in tests:
        if not walk.names(test) & bound and 2 * cost <= MAX_COST:
            holds = _assuming(loop, test, ranges, value=True)
            fails = walk.renamed(_assuming(loop, test, ranges, value=False), f".n{depth}")
            return If(test, _visit(holds, ranges, depth + 1), _visit(fails, ranges, depth + 1))
    inner = {**ranges, loop.var.name: (0, loop.extent - 1)}
    if loop.kind is not LoopKind.SERIAL:
        return replace(loop, body=_visit(loop.body, inner, depth))
    within = {n.var.name: (0, n.extent - 1) for n in walk.loops(loop.body)}
    edges = {0, loop.extent}
    for test in tests:
        edges |= {e for e in _edges(test, loop.var.name, within) if 0 < e < loop.extent}
    pieces = len(edges) - 1
    if pieces == 1 or pieces > MAX_PIECES or pieces * cost > MAX_COST:
        return replace(loop, body=_visit(loop.body, inner, depth))
    return block(
        *(
            _piece(loop, begin, end, f".b{depth}_{number}", ranges, depth)
            for number, (begin, end) in enumerate(itertools.pairwise(sorted(edges)))
        )
    )


def _piece(loop: For, begin: int, end: int, suffix: str, ranges: Ranges, depth: int) -> Stmt:
    """The iterations from `begin` to `end` - 1."""
    var = Var(loop.var.name + suffix)
    inner = {**ranges, var.name: (0, end - begin - 1)}
    start: Expr = const(begin) if end - begin == 1 else Binary(Op.ADD, var, const(begin))
    body = walk.substitute(walk.renamed(loop.body, suffix), {loop.var.name: start})
    body = _visit(simplify_stmt(body, inner), inner, depth + 1)
    return body if end - begin == 1 else For(var, end - begin, loop.kind, body)


def _tests(stmt: Stmt) -> list[Expr]:
    """The comparisons of sums of loop variables that choose elements in `stmt`, each once."""
    found: list[Expr] = []
    for node in walk.visit(stmt):
        if isinstance(node, Select) and (walk.loads(node.yes) or walk.loads(node.no)):
            for test in _comparisons(node.cond):
                if not any(walk.same(test, other) for other in found):
                    found.append(test)
    return found


def _comparisons(cond: Expr) -> Iterator[Binary]:
    for node in walk.visit(cond):
        ordered = isinstance(node, Binary) and node.op in (Op.LT, Op.GE)
        if isinstance(node, Binary) and ordered and node.lhs.dtype == I64 and not _reads(node):
            yield node


def _reads(expr: Expr) -> bool:
    return any(isinstance(node, Load) for node in walk.visit(expr))


def _edges(test: Expr, name: str, within: Ranges) -> tuple[int, ...]:
    """The iterations of the loop over `name` between which `test` may change."""
    if not isinstance(test, Binary):
        return ()
    form = linear(Binary(Op.SUB, test.lhs, test.rhs))
    own, low, high = 0, form.const, form.const
    for atom, coeff in form.terms:
        if not isinstance(atom, Var):
            return ()
        if atom.name == name:
            own = coeff
        elif atom.name in within:
            ends = sorted((coeff * within[atom.name][0], coeff * within[atom.name][1]))
            low, high = low + ends[0], high + ends[1]
        else:
            return ()
    if own == 0:
        return ()
    # own * v + low and own * v + high pass 0 at these; a falling sum passes behind its iteration.
    if own > 0:
        return tuple(-(end // own) for end in (low, high))
    return tuple(end // -own + 1 for end in (low, high))


def _cost(stmt: Stmt) -> int:
    """The nodes of `stmt`, unrolled ones counted as often as they are emitted."""
    match stmt:
        case For():
            times = stmt.extent if stmt.kind is LoopKind.UNROLLED else 1
            return times * _cost(stmt.body)
        case Block():
            return sum(_cost(s) for s in stmt.stmts)
        case Alloc():
            return _cost(stmt.body)
        case If():
            return _cost(stmt.then) + (0 if stmt.otherwise is None else _cost(stmt.otherwise))
        case Store():
            return sum(1 for _ in walk.visit(stmt))


def _assuming(stmt: Stmt, test: Expr, ranges: Ranges, *, value: bool) -> Stmt:
    """`stmt` where `test` is known to be `value`."""

    def turn(expr: Expr) -> Expr:
        known = isinstance(expr, Binary) and expr.op in (Op.LT, Op.GE) and walk.same(expr, test)
        return const(value, BOOL) if known else expr

    told = walk.rewrite_exprs(stmt, lambda e: walk.rewrite_expr(e, turn))
    return simplify_stmt(told, ranges)
