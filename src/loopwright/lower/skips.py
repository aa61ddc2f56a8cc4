"""Skip products with padding: terms that count only under a condition are added under a test.

A sum of products with a factor `Select(cond, x, 0)` gains nothing where `cond` fails, so its update
moves into an `If`. Each part of the condition is tested as far out as its variables allow: rows of
padding cost one test for all columns and channels of a tile. The rest, inside unrolled loops, is a
constant there, or a branch around the few elements of a tile that may lie on padding:

    for r in 0..3: unrolled i, x in 0..4:           for r in 0..3:
        acc[x] = acc[x] + W[r, i] *                     if y + r >= 1: unrolled i, x in 0..4:
            (A[y+r-1, x-1, i]                               if x >= 1:
             if y + r >= 1 and x >= 1 else 0)                   acc[x] = acc[x] + A[...] * W[r, i]

Nothing is copied, so code only gets shorter.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TypeAlias

from loopwright.ir import walk
from loopwright.ir.expr import Binary, Cast, Const, Expr, Load, Op, Scope, Select
from loopwright.ir.kernel import Kernel
from loopwright.ir.stmt import Alloc, Block, For, If, LoopKind, Stmt, Store, block
from loopwright.lower.tails import guarded

Pulled: TypeAlias = tuple[tuple[Expr, ...], Stmt]
"""Conditions, and the statement to execute where all of them hold."""


def skip_zero_products(kernel: Kernel) -> Kernel:
    """The kernel with sums of products under tests where a factor may be a padding zero.

    Requires: nothing. Establishes: no Select of such a factor, unless its condition varies by lane
    or reads memory.
    """
    return kernel.with_body(guarded(*_pulled(kernel.body, frozenset())))


def _pulled(stmt: Stmt, lanes: frozenset[str]) -> Pulled:
    """`stmt` without the new tests that can go before it; `lanes` are vectorized variables."""
    match stmt:
        case Store():
            return _store(stmt, lanes)
        case For():
            return _for(stmt, lanes)
        case If():
            return _if(stmt, lanes)
        case Alloc():
            body = guarded(*_pulled(stmt.body, lanes))
            return (), stmt if body is stmt.body else replace(stmt, body=body)
        case Block():
            parts = [guarded(*_pulled(s, lanes)) for s in stmt.stmts]
            same = all(a is b for a, b in zip(parts, stmt.stmts, strict=True))
            return (), stmt if same else block(*parts)


def _for(loop: For, lanes: frozenset[str]) -> Pulled:
    name = loop.var.name
    if loop.kind is LoopKind.VECTORIZED:
        lanes = lanes | {name}
    terms, body = _pulled(loop.body, lanes)
    own = [t for t in terms if name in walk.names(t)]
    body = guarded(own, body)
    outside = tuple(t for t in terms if name not in walk.names(t))
    return outside, loop if body is loop.body else replace(loop, body=body)


def _if(stmt: If, lanes: frozenset[str]) -> Pulled:
    terms, then = _pulled(stmt.then, lanes)
    if stmt.otherwise is None:
        return terms, stmt if then is stmt.then else replace(stmt, then=then)
    then, otherwise = guarded(terms, then), guarded(*_pulled(stmt.otherwise, lanes))
    same = then is stmt.then and otherwise is stmt.otherwise
    return (), stmt if same else If(stmt.cond, then, otherwise)


def _store(store: Store, lanes: frozenset[str]) -> Pulled:
    value = store.value
    if store.buffer.scope is not Scope.REGISTER or not isinstance(value, Binary):
        return (), store
    added = value.rhs
    if value.op is not Op.ADD or not _is_product(added) or not _is_element(value.lhs, store):
        return (), store
    terms: list[Expr] = []
    product = _without_test(added, lanes, terms)
    if not terms:
        return (), store
    return tuple(terms), replace(store, value=Binary(Op.ADD, value.lhs, product))


def _is_product(expr: Expr) -> bool:
    return isinstance(expr, Binary) and expr.op is Op.MUL


def _is_element(expr: Expr, store: Store) -> bool:
    if not isinstance(expr, Load) or expr.buffer is not store.buffer:
        return False
    return all(walk.same(a, b) for a, b in zip(expr.indices, store.indices, strict=True))


def _without_test(factor: Expr, lanes: frozenset[str], terms: list[Expr]) -> Expr:
    """A factor of a product, given that it isn't 0 for padding; adds to `terms` when that is so."""
    match factor:
        case Binary(op=Op.MUL, lhs=lhs, rhs=rhs):
            sides = (_without_test(lhs, lanes, terms), _without_test(rhs, lanes, terms))
            return factor if sides == (lhs, rhs) else Binary(Op.MUL, *sides)
        case Cast(value=value):
            inner = _without_test(value, lanes, terms)
            return factor if inner is value else replace(factor, value=inner)
        case Select(cond=cond, yes=yes, no=Const(value=0)):
            found = _terms(cond)
            if any(walk.names(t) & lanes or walk.loads(t) for t in found):
                return factor
            terms += found
            return _without_test(yes, lanes, terms)
        case _:
            return factor


def _terms(cond: Expr) -> Sequence[Expr]:
    if isinstance(cond, Binary) and cond.op is Op.AND:
        return [*_terms(cond.lhs), *_terms(cond.rhs)]
    return [cond]
