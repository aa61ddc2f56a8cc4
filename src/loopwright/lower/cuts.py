"""Cut loops where a test on their variable changes, so that the pieces need no test.

A comparison of a sum of loop variables with a constant is decided in most iterations of a serial
loop: the loop is cut where it changes. A condition on outer loops alone is tested once, before the
loop. A nest around one `Store(buffer, i, Select(cond, yes, no))` is a padded copy, which is
cut by every term of `cond`; its pieces are zeros around a copy without tests:

    for y in 0..58: for x in 0..58:             for y in 0..1: for x in 0..58: P[y, x] = 0
        P[y, x] = A[y-1, x-1]           ->      for y in 0..56:
            if 1 <= y < 57 and 1 <= x < 57          P[y+1, 0] = 0
            else 0                                  for x in 0..56: P[y+1, x+1] = A[y, x]
                                                    P[y+1, 57] = 0
                                                for y in 0..1: for x in 0..58: P[y+57, x] = 0

Elsewhere the copies grow the code, so only small bodies are cut, and inner loops only where they
leave the test decided:

    for x in 0..28: unrolled i in 0..4:         x = 0: with the test
        m = max(m, A[x*4+i-1] if x*4+i >= 1     for x in 1..28: m = max(m, A[x*4+i-1])
                   else -inf)
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from typing import TypeAlias

from loopwright.ir import walk
from loopwright.ir.bounds import Interval
from loopwright.ir.dtype import BOOL, I64
from loopwright.ir.expr import Binary, Expr, Load, Op, Select, Var, const
from loopwright.ir.kernel import Kernel
from loopwright.ir.linear import Linear
from loopwright.ir.simplify import affine, simplify_stmt
from loopwright.ir.stmt import Alloc, Block, For, If, LoopKind, Stmt, Store, block

Ranges: TypeAlias = Mapping[str, Interval]
_Cut: TypeAlias = Callable[[Stmt, Ranges], Stmt]
_ORDERINGS = (Op.LT, Op.GE)
MAX_COST = 6000
"""Most nodes of all pieces of a loop, unrolled ones counted each time they are emitted."""
MAX_PIECES = 6


def partition_copies(kernel: Kernel) -> Kernel:
    """The kernel with conditional copies cut by their conditions.

    Requires: simplified indices. Establishes: no Select on a serial loop of a copy, names unique.
    """
    return kernel.with_body(_partition(kernel.body, {}))


def cut_at_borders(kernel: Kernel) -> Kernel:
    """The kernel with serial loops cut where conditions on elements change.

    Requires: simplified indices. Establishes: names stay unique; tests are left where a cut would
    cost too much code, and where a condition is not a comparison of sums.
    """
    return kernel.with_body(_cut(kernel.body, {}, 0))


def _partition(stmt: Stmt, ranges: Ranges) -> Stmt:
    if isinstance(stmt, For) and _copied(stmt) is not None:
        return _split(stmt, ranges)
    return _descend(stmt, ranges, _partition)


def _copied(stmt: Stmt) -> Select | None:
    """The Select that a nest around a single store stores."""
    while isinstance(stmt, For):
        stmt = stmt.body
    return stmt.value if isinstance(stmt, Store) and isinstance(stmt.value, Select) else None


def _split(stmt: Stmt, ranges: Ranges) -> Stmt:
    """The nest of a copy with tests moved out of it and its serial loops cut at its conditions."""
    select = _copied(stmt)
    terms = [] if select is None else _terms(select.cond)
    bound = {loop.var.name for loop in walk.loops(stmt)}
    for term in terms:
        if not walk.names(term) & bound:
            return _outside(stmt, term, ranges, f".f{len(terms)}", _split)
    if not isinstance(stmt, For) or not terms:
        return stmt
    cuts = _cuts(stmt, terms, {}) if stmt.kind is LoopKind.SERIAL else (0, stmt.extent)
    if len(cuts) == 2:
        return _descend(stmt, ranges, _split)
    return _pieces(stmt, cuts, ".p", ranges, _split)


def _cut(stmt: Stmt, ranges: Ranges, depth: int) -> Stmt:
    if isinstance(stmt, For):
        return _cut_loop(stmt, ranges, depth)
    return _descend(stmt, ranges, lambda inner, held: _cut(inner, held, depth))


def _cut_loop(loop: For, ranges: Ranges, depth: int) -> Stmt:
    """`loop` under the tests that do not depend on it, and cut at those that do."""
    tests = _tests(loop)
    if not tests:
        return loop

    def further(stmt: Stmt, held: Ranges) -> Stmt:
        return _cut(stmt, held, depth + 1)

    bound = {n.var.name for n in walk.loops(loop)}
    cost = _cost(loop)
    for test in tests:
        if not walk.names(test) & bound and 2 * cost <= MAX_COST:
            return _outside(loop, test, ranges, f".n{depth}", further)
    within = {n.var.name: (0, n.extent - 1) for n in walk.loops(loop.body)}
    cuts = _cuts(loop, tests, within) if loop.kind is LoopKind.SERIAL else (0, loop.extent)
    pieces = len(cuts) - 1
    if pieces == 1 or pieces > MAX_PIECES or pieces * cost > MAX_COST:
        return _descend(loop, ranges, lambda inner, held: _cut(inner, held, depth))
    return _pieces(loop, cuts, f".b{depth}_", ranges, further)


# --- shared by both -------------------------------------------------------------------------------


def _descend(stmt: Stmt, ranges: Ranges, cut: _Cut) -> Stmt:
    """`stmt` with the statements inside it cut; itself when they do not change."""
    match stmt:
        case For():
            body = cut(stmt.body, {**ranges, stmt.var.name: (0, stmt.extent - 1)})
            return stmt if body is stmt.body else replace(stmt, body=body)
        case Block():
            return block(*(cut(s, ranges) for s in stmt.stmts))
        case Alloc():
            return replace(stmt, body=cut(stmt.body, ranges))
        case If():
            otherwise = None if stmt.otherwise is None else cut(stmt.otherwise, ranges)
            return If(stmt.cond, cut(stmt.then, ranges), otherwise)
        case Store():
            return stmt


def _outside(stmt: Stmt, test: Expr, ranges: Ranges, suffix: str, cut: _Cut) -> Stmt:
    """`stmt` under `test`, once for each outcome; `suffix` ends the names in the second copy."""
    holds = _assuming(stmt, test, ranges, value=True)
    fails = walk.renamed(_assuming(stmt, test, ranges, value=False), suffix)
    return If(test, cut(holds, ranges), cut(fails, ranges))


def _assuming(stmt: Stmt, test: Expr, ranges: Ranges, *, value: bool) -> Stmt:
    """`stmt` where `test` is known to be `value`."""

    def turn(expr: Expr) -> Expr:
        known = isinstance(expr, Binary) and expr.op in _ORDERINGS and walk.same(expr, test)
        return const(value, BOOL) if known else expr

    told = walk.rewrite_exprs(stmt, lambda e: walk.rewrite_expr(e, turn))
    return simplify_stmt(told, ranges)


def _cuts(loop: For, tests: Iterable[Expr], within: Ranges) -> tuple[int, ...]:
    """Where `loop` begins, is cut because one of `tests` changes, and ends."""
    edges = {0, loop.extent}
    for test in tests:
        edges |= {e for e in _edges(test, loop.var.name, within) if 0 < e < loop.extent}
    return tuple(sorted(edges))


def _edges(test: Expr, name: str, within: Ranges) -> tuple[int, ...]:
    """The iterations of the loop over `name` between which `test` may change.

    None where `test` uses a variable besides `name` and those in `within`.
    """
    form = affine(Binary(Op.SUB, test.lhs, test.rhs)) if isinstance(test, Binary) else None
    own = 0 if form is None else form.terms.get(name, 0)
    if form is None or own == 0:
        return ()
    others = {n: c for n, c in form.terms.items() if n != name}
    ends = Linear(others, form.const).bounds(within.get)
    if ends is None:
        return ()
    # own * v + low and own * v + high cross 0 at these; a falling sum crosses after its iteration.
    if own > 0:
        return tuple(-(end // own) for end in ends)
    return tuple(end // -own + 1 for end in ends)


def _pieces(loop: For, cuts: tuple[int, ...], suffix: str, ranges: Ranges, cut: _Cut) -> Stmt:
    """`loop` as loops from one of `cuts` to the next, their bodies simplified and cut."""
    made = []
    for number, (begin, end) in enumerate(itertools.pairwise(cuts)):
        own = f"{suffix}{number}"
        var = Var(loop.var.name + own)
        inner = {**ranges, var.name: (0, end - begin - 1)}
        start: Expr = const(begin) if end - begin == 1 else Binary(Op.ADD, var, const(begin))
        body = walk.substitute(walk.renamed(loop.body, own), {loop.var.name: start})
        body = cut(simplify_stmt(body, inner), inner)
        made.append(body if end - begin == 1 else For(var, end - begin, loop.kind, body))
    return block(*made)


# --- which tests, at what cost --------------------------------------------------------------


def _terms(cond: Expr) -> list[Expr]:
    """The comparisons that `cond` is the AND of, the last one first."""
    found: list[Expr] = []
    pending: list[Expr] = [cond]
    while pending:
        term = pending.pop()
        if isinstance(term, Binary) and term.op is Op.AND:
            pending += [term.lhs, term.rhs]
        elif isinstance(term, Binary) and term.op in _ORDERINGS:
            found.append(term)
    return found


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
        ordered = isinstance(node, Binary) and node.op in _ORDERINGS
        if isinstance(node, Binary) and ordered and node.lhs.dtype == I64 and not _reads(node):
            yield node


def _reads(expr: Expr) -> bool:
    return any(isinstance(node, Load) for node in walk.visit(expr))


def _cost(stmt: Stmt) -> int:
    """The nodes of `stmt`, unrolled ones counted each time they are emitted."""
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
