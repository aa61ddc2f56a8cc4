"""Index expressions as linear forms, and what they come to where emission stands.

`linear` splits an int64 expression once into `const + sum(coef * var) + sum(coef * atom)`; an atom
is any part that is not affine (division, remainder, a product of variables, a loaded index). `Idx`
is the value of such a form in one instance: unrolled variables have become part of `const`, the
variable of the vectorized loop is `lane`, everything else is `terms`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from loopwright.ir.expr import Binary, Call, Const, Expr, Fn, Op, Var

UNKNOWN = 1 << 62
"""Bounds of what nothing is known about: -UNKNOWN..UNKNOWN."""


class Linear(NamedTuple):
    """`const + sum(coef * variable) + sum(coef * atom)`; variables by name."""

    const: int
    vars: tuple[tuple[str, int], ...] = ()
    atoms: tuple[tuple[Expr, int], ...] = ()


class Frame:
    """An open loop, or a function's body: where what does not change inside it is computed.

    `head` are the lines at its start; `memo` finds what they have already computed.
    """

    __slots__ = ("depth", "head", "memo")

    def __init__(self, depth: int) -> None:
        self.depth = depth
        self.head: list[str] = []
        self.memo: dict[tuple[object, ...], str] = {}


class Term:
    """A scalar i64 in an SSA name with the values it can take, lo <= term <= hi.

    `frame` is the innermost loop that it changes with; None: it was computed in the middle of a
    body.
    """

    __slots__ = ("frame", "hi", "lo", "text")

    def __init__(self, text: str, frame: Frame | None, lo: int, hi: int) -> None:
        self.text = text
        self.frame = frame
        self.lo = lo
        self.hi = hi


class Lanes(NamedTuple):
    """An index that is not affine in the lane: an i64 vector (name or literal), its bounds."""

    text: str
    lo: int
    hi: int


class Idx(NamedTuple):
    """`const + lane * (number of the lane) + sum(coef * term) + vec`."""

    const: int
    lane: int = 0
    terms: tuple[tuple[Term, int], ...] = ()
    vec: Lanes | None = None

    @property
    def is_const(self) -> bool:
        """True when the value is `const`, the same in every lane."""
        return not self.terms and not self.lane and self.vec is None

    @property
    def is_scalar(self) -> bool:
        """True when every lane has the same value."""
        return not self.lane and self.vec is None


def plus(a: Idx, b: Idx) -> Idx | None:
    """`a + b`; None when both have a non-affine lane part."""
    if a.vec is not None and b.vec is not None:
        return None
    return Idx(
        a.const + b.const,
        a.lane + b.lane,
        _merge(a.terms, b.terms),
        a.vec if b.vec is None else b.vec,
    )


def times(a: Idx, factor: int) -> Idx | None:
    """`a * factor`; None when `a` has a non-affine lane part and the factor is not 1."""
    if factor == 1:
        return a
    if factor == 0:
        return Idx(0)
    if a.vec is not None:
        return None
    terms = tuple((term, coef * factor) for term, coef in a.terms)
    return Idx(a.const * factor, a.lane * factor, terms)


def limits(idx: Idx, lanes: int) -> tuple[int, int]:
    """The inclusive bounds of `idx` over all its terms and lanes."""
    lo, hi = term_limits(idx.terms)
    lo, hi = lo + idx.const, hi + idx.const
    last = idx.lane * (lanes - 1)
    lo, hi = lo + min(0, last), hi + max(0, last)
    if idx.vec is not None:
        lo, hi = lo + idx.vec.lo, hi + idx.vec.hi
    return max(lo, -UNKNOWN), min(hi, UNKNOWN)


def term_limits(terms: Iterable[tuple[Term, int]]) -> tuple[int, int]:
    """The inclusive bounds of `sum(coef * term)`."""
    lo = hi = 0
    for term, coef in terms:
        if coef > 0:
            lo, hi = lo + coef * term.lo, hi + coef * term.hi
        else:
            lo, hi = lo + coef * term.hi, hi + coef * term.lo
    return lo, hi


def _merge(
    a: tuple[tuple[Term, int], ...], b: tuple[tuple[Term, int], ...]
) -> tuple[tuple[Term, int], ...]:
    if not a or not b:
        return a or b
    total = dict(a)
    for term, coef in b:
        total[term] = total.get(term, 0) + coef
    return tuple((term, coef) for term, coef in total.items() if coef)


def linear(expr: Expr) -> Linear:
    """The linear form of an int64 expression."""
    const, variables, atoms = 0, dict[str, int](), dict[Expr, int]()
    todo: list[tuple[Expr, int]] = [(expr, 1)]
    while todo:
        node, coef = todo.pop()
        match node:
            case Const(value=value):
                const += coef * int(value)
            case Var(name=name):
                variables[name] = variables.get(name, 0) + coef
            case Binary(op=Op.ADD, lhs=lhs, rhs=rhs):
                todo += [(rhs, coef), (lhs, coef)]
            case Binary(op=Op.SUB, lhs=lhs, rhs=rhs):
                todo += [(rhs, -coef), (lhs, coef)]
            case Binary(op=Op.MUL, lhs=lhs, rhs=Const(value=value)):
                todo.append((lhs, coef * int(value)))
            case Binary(op=Op.MUL, lhs=Const(value=value), rhs=rhs):
                todo.append((rhs, coef * int(value)))
            case Call(fn=Fn.NEG, args=(arg,)):
                todo.append((arg, -coef))
            case _:
                atoms[node] = atoms.get(node, 0) + coef
    return Linear(
        const,
        tuple((v, c) for v, c in variables.items() if c),
        tuple((a, c) for a, c in atoms.items() if c),
    )
