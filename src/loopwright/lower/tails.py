"""Tails: full tiles run without guards, the rest with them.

`specialise` takes guards and a function that makes statements under guards. For a guard on tile
variables it tests once, outside the tile, whether the whole tile counts:

    if full:  tile without the guard
    else:     tile with it

Where only the last iteration of one loop is not full, that loop's variable is replaced by its last
value in the second tile, so that the guard is a constant for unrolled loops and vector lanes. Where
a tile may run twice for an element, its last one begins earlier instead, and is full as well.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass, replace

from loopwright.ir import walk
from loopwright.ir.bounds import Interval, prove
from loopwright.ir.dtype import I64
from loopwright.ir.expr import Binary, Const, Expr, Load, Op, Var, const
from loopwright.ir.simplify import affine, linear, simplify
from loopwright.ir.stmt import For, If, LoopKind, Stmt

Maker = Callable[[Sequence[Expr]], Stmt]
MAX_SPECIALISED = 2
"""Each specialised guard doubles the code of the tile."""


def guarded(conditions: Sequence[Expr], body: Stmt) -> Stmt:
    """`body` under all conditions."""
    if not conditions:
        return body
    total = conditions[0]
    for condition in conditions[1:]:
        total = Binary(Op.AND, total, condition)
    return If(total, body)


def specialise(
    make: Maker,
    guards: Sequence[Expr],
    bound: Set[str],
    spatial: Set[str],
    ranges: dict[str, Interval],
    number: int = 0,
    *,
    again: bool = False,
) -> Stmt:
    """What `make` makes under `guards`, with unguarded code for full tiles.

    Args:
        bound: the variables of the tile's loops; each guard uses one of them.
        spatial: those of them that run over elements, not over what is folded into one.
        number: distinguishes the guarded tiles of one stage from those of others, whose names would
            clash when one is made inside the other.
        again: whether an element may be computed twice.
    """
    plans = [(g, _full(g, bound, spatial, ranges)) for g in guards]
    chosen = [(g, f) for g, f in plans if f is not None][:MAX_SPECIALISED]
    dynamic = [g for g in guards if not any(g is c for c, _ in chosen)]
    suffixes = [f".t{number * MAX_SPECIALISED + place}" for place in range(len(chosen))]
    return _Choice(make, dynamic, ranges, suffixes, again).choose(chosen, [], "")


@dataclass(frozen=True, slots=True)
class _Choice:
    """Makes a tile for each outcome of the tests; `suffixes` has one part of a name for each."""

    make: Maker
    dynamic: Sequence[Expr]
    ranges: dict[str, Interval]
    suffixes: Sequence[str]
    again: bool

    def choose(
        self, chosen: Sequence[tuple[Expr, Expr]], kept: Sequence[Expr], suffix: str
    ) -> Stmt:
        """The tile under the remaining tests, with the guards `kept` so far."""
        if not chosen:
            body = walk.renamed(self.make([*kept, *self.dynamic]), suffix)
            self.ranges.update({n.var.name: (0, n.extent - 1) for n in walk.loops(body)})
            return body
        (condition, full), rest = chosen[0], chosen[1:]
        holds = prove(full, self.ranges)
        if holds is True:
            return self.choose(rest, kept, suffix)
        own = suffix + self.suffixes[len(rest)]
        last = _last_iteration(full, self.ranges)
        if last is not None and self.again and not rest:
            moved = _begun_earlier(self.choose(rest, kept, own), condition, last, own, self.ranges)
            if moved is not None:
                return If(full, self.choose(rest, kept, suffix), moved)
        slow = self.choose(rest, [*kept, condition], own)
        if last is not None:
            slow = _fixed(slow, last, self.ranges)
        return slow if holds is False else If(full, self.choose(rest, kept, suffix), slow)


def _full(
    condition: Expr, bound: Set[str], spatial: Set[str], ranges: Mapping[str, Interval]
) -> Expr | None:
    """The condition for the whole tile, free of its variables; None if unknown."""
    if not isinstance(condition, Binary) or condition.op not in (Op.LT, Op.GE):
        return None
    used = walk.names(condition) & bound
    if not used <= spatial:
        return None
    if not _monotone(condition.lhs, used) or not isinstance(condition.rhs, Const):
        return None
    worst = {
        name: const(ranges[name][1] if condition.op is Op.LT else ranges[name][0]) for name in used
    }
    return simplify(walk.substitute(condition, worst), ranges)


def _monotone(expr: Expr, names: Set[str]) -> bool:
    """True when `expr` grows with each of `names`: sums, and products with constants >= 0."""
    match expr:
        case Binary(op=Op.ADD, lhs=lhs, rhs=rhs):
            return _monotone(lhs, names) and _monotone(rhs, names)
        case Binary(op=Op.MUL, lhs=lhs, rhs=Const(value=value)):
            return value >= 0 and _monotone(lhs, names)
        case Binary(op=Op.SUB, lhs=lhs, rhs=rhs):
            return _monotone(lhs, names) and not walk.names(rhs) & names
        case Var() | Const():
            return True
        case _:
            return not walk.names(expr) & names


def _last_iteration(full: Expr, ranges: Mapping[str, Interval]) -> tuple[str, int] | None:
    """The variable and its last value, if only that iteration is not full."""
    names = walk.names(full)
    if len(names) != 1:
        return None
    (name,) = names
    low, high = ranges[name]
    if prove(full, {**ranges, name: (low, high - 1)}) is not True:
        return None
    return name, high


def _fixed(stmt: Stmt, last: tuple[str, int], ranges: Mapping[str, Interval]) -> Stmt:
    name, value = last
    fixed = walk.substitute(stmt, {name: const(value)})
    return walk.rewrite_exprs(fixed, lambda e: simplify(e, ranges))


def _begun_earlier(
    tile: Stmt,
    condition: Expr,
    last: tuple[str, int],
    suffix: str,
    ranges: Mapping[str, Interval],
) -> Stmt | None:
    """The last tile, moved to end where the elements end; None where that is not possible.

    Requires: `suffix` ends the names of the loops in `tile`, but not of those in
    `condition`.
    """
    name, value = last
    inside = {loop.var.name: loop for loop in walk.loops(tile)}
    own = {n.removesuffix(suffix): Var(n) for n in inside}
    placed = walk.substitute(condition, dict(own))
    if not isinstance(placed, Binary) or placed.op is not Op.LT or not isinstance(value, int):
        return None
    lanes = [n for n, loop in inside.items() if loop.kind is LoopKind.VECTORIZED]
    form = affine(Binary(Op.SUB, placed.lhs, placed.rhs))
    if form is None or not lanes or form.terms.get(lanes[0]) != 1:
        return None
    coeffs = form.terms
    span = sum(c * (inside[n].extent - 1) for n, c in coeffs.items() if n in inside)
    shift = coeffs.get(name, 0) * value + form.const + span + 1
    known = set(coeffs) <= {name, *inside} and min(coeffs.values()) > 0
    if not known or shift <= 0 or coeffs[name] * value < shift or walk.allocs(tile):
        return None
    if not all(_moves_with(e, coeffs) for s in walk.visit_stmts(tile) for e in walk.exprs(s)):
        return None
    moved = Binary(Op.SUB, Var(lanes[0]), const(shift))

    def turn(stmt: Stmt) -> Stmt:
        if isinstance(stmt, For) and stmt.var.name == lanes[0]:
            return replace(stmt, body=walk.substitute(stmt.body, {lanes[0]: moved}))
        return stmt

    return _fixed(walk.rewrite(tile, turn), last, ranges)


def _moves_with(expr: Expr, coeffs: Mapping[str, int], modulo: int = 0) -> bool:
    """True when all integers in `expr` use the variables of `coeffs` in multiples of their sum.

    With `modulo`, `expr` itself counts up to multiples of that.
    """
    if expr.dtype != I64 or isinstance(expr, Load):
        return all(_moves_with(child, coeffs) for child in walk.exprs(expr))
    form = linear(expr)
    found = {a.name: c for a, c in form.terms.items() if isinstance(a, Var)}
    others = [a for a in form.terms if not isinstance(a, Var)]
    if not all(_quotient_moves_with(a, coeffs) for a in others if walk.names(a) & set(coeffs)):
        return False
    unit = next(name for name, c in coeffs.items() if c == 1)
    times = found.get(unit, 0)
    gaps = [found.get(name, 0) - times * c for name, c in coeffs.items()]
    return all(gap == 0 or (modulo > 0 and gap % modulo == 0) for gap in gaps)


def _quotient_moves_with(atom: Expr, coeffs: Mapping[str, int]) -> bool:
    match atom:
        case Binary(op=Op.FLOORDIV, lhs=lhs, rhs=Const()):
            return _moves_with(lhs, coeffs)
        case Binary(op=Op.FLOORMOD, lhs=lhs, rhs=Const(value=value)):
            return _moves_with(lhs, coeffs, int(value))
        case Load():
            return _moves_with(atom, coeffs)
        case _:
            return False
