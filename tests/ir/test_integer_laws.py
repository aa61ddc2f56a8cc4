"""Bounds, proofs and simplification of random integer expressions, against evaluation in Python."""

from __future__ import annotations

import operator
from typing import TypeAlias

from hypothesis import given, settings
from hypothesis import strategies as st

from loopwright.ir import walk
from loopwright.ir.bounds import bounds, prove
from loopwright.ir.expr import Binary, Call, Const, Expr, Fn, Op, Select, Var, const
from loopwright.ir.forms import build
from loopwright.ir.printer import show
from loopwright.ir.simplify import linear, simplify

Ranges: TypeAlias = dict[str, tuple[int, int]]
Situation: TypeAlias = tuple[Expr, Ranges, dict[str, int]]
Exprs: TypeAlias = st.SearchStrategy[Expr]
NAMES = ("a", "b", "c", "d")
PYTHON = {
    Op.ADD: operator.add,
    Op.SUB: operator.sub,
    Op.MUL: operator.mul,
    Op.FLOORDIV: operator.floordiv,
    Op.FLOORMOD: operator.mod,
    Op.MIN: min,
    Op.MAX: max,
    Op.LT: operator.lt,
    Op.LE: operator.le,
    Op.GT: operator.gt,
    Op.GE: operator.ge,
    Op.EQ: operator.eq,
    Op.NE: operator.ne,
    Op.AND: lambda a, b: a and b,
    Op.OR: lambda a, b: a or b,
}
RING = (Op.ADD, Op.SUB, Op.MUL, Op.MIN, Op.MAX)
COMPARISONS = (Op.LT, Op.LE, Op.GT, Op.GE, Op.EQ, Op.NE)


def value(expr: Expr, env: dict[str, int]) -> int:
    """`expr` in Python integers, which do not wrap; the numbers here stay small."""
    match expr:
        case Const(value=v):
            return v
        case Var(name=name):
            return env[name]
        case Binary(op=op, lhs=lhs, rhs=rhs):
            return PYTHON[op](value(lhs, env), value(rhs, env))
        case Select(cond=cond, yes=yes, no=no):
            return value(yes if value(cond, env) else no, env)
        case Call(fn=Fn.NEG, args=(arg,)):
            return -value(arg, env)
        case Call(fn=Fn.ABS, args=(arg,)):
            return abs(value(arg, env))
        case Call(fn=Fn.NOT, args=(arg,)):
            return not value(arg, env)
    raise AssertionError(expr)


variables = st.sampled_from([Var(n) for n in NAMES])
small = st.integers(-9, 9).map(const)
divisors = st.sampled_from([1, 2, 3, 4, 6, 8, 12, 16, -1, -2, -4, -6]).map(const)


def comparisons(integers: Exprs) -> Exprs:
    plain = st.builds(Binary, st.sampled_from(COMPARISONS), integers, integers)
    joined = st.builds(Binary, st.sampled_from((Op.AND, Op.OR)), plain, plain)
    return plain | joined | joined.map(lambda c: Call(Fn.NOT, (c,)))


def grow(integers: Exprs) -> Exprs:
    factors = st.sampled_from([2, 3, 4, 8, 12, 16, -4]).map(const)
    return st.one_of(
        st.builds(Binary, st.sampled_from(RING), integers, integers),
        st.builds(Binary, st.just(Op.MUL), integers, factors),
        st.builds(Binary, st.sampled_from((Op.FLOORDIV, Op.FLOORMOD)), integers, divisors),
        st.builds(Select, comparisons(integers), integers, integers),
        integers.map(lambda e: Call(Fn.NEG, (e,))),
        integers.map(lambda e: Call(Fn.ABS, (e,))),
    )


integers = st.recursive(variables | small, grow, max_leaves=14)


@st.composite
def situations(draw: st.DrawFn, what: Exprs) -> Situation:
    """An expression, ranges of some of its variables, and values of all that are in range."""
    ranges, env = {}, {}
    for name in NAMES:
        low = draw(st.sampled_from([0, 0, 0, -7, 3]))
        high = low + draw(st.sampled_from([0, 1, 3, 7, 15, 30]))
        env[name] = draw(st.integers(low, high))
        if draw(st.booleans()) or name in "ab":
            ranges[name] = (low, high)
    return draw(what), ranges, env


@settings(max_examples=300, deadline=None)
@given(situations(integers))
def test_simplify_keeps_the_value(situation: Situation) -> None:
    expr, ranges, env = situation
    assert value(simplify(expr, ranges), env) == value(expr, env), show(expr)


@settings(max_examples=300, deadline=None)
@given(situations(comparisons(integers)))
def test_simplify_keeps_the_truth_of_conditions(situation: Situation) -> None:
    cond, ranges, env = situation
    assert bool(value(simplify(cond, ranges), env)) is bool(value(cond, env)), show(cond)


@settings(max_examples=300, deadline=None)
@given(situations(integers | comparisons(integers)))
def test_simplify_is_idempotent(situation: Situation) -> None:
    expr, ranges, _ = situation
    once = simplify(expr, ranges)
    assert simplify(once, ranges) is once, f"{show(expr)} -> {show(once)}"


@settings(max_examples=200, deadline=None)
@given(situations(integers))
def test_linear_and_back_keeps_the_value(situation: Situation) -> None:
    expr, ranges, env = situation
    form = linear(expr, ranges)
    total = form.const + sum(coeff * value(atom, env) for atom, coeff in form.terms.items())
    assert total == value(build(form), env) == value(expr, env)


@settings(max_examples=300, deadline=None)
@given(situations(integers))
def test_bounds_hold_every_value(situation: Situation) -> None:
    expr, ranges, env = situation
    found = bounds(expr, ranges)
    if found is not None:
        assert found[0] <= value(expr, env) <= found[1], show(expr)
    elif {v.name for v in walk.free_vars(expr)} <= set(ranges):
        raise AssertionError(f"no bounds of {show(expr)}, though every variable is bounded")


@settings(max_examples=300, deadline=None)
@given(situations(comparisons(integers)))
def test_what_is_proved_is_so(situation: Situation) -> None:
    cond, ranges, env = situation
    known = prove(cond, ranges)
    assert known is None or known is bool(value(cond, env)), show(cond)


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.sampled_from([2, 3, 4, 7, 8]), min_size=2, max_size=5),
    st.integers(0, 10**6),
)
def test_a_fused_index_comes_apart_and_back_together(extents: list[int], seed: int) -> None:
    """Fuse loops into one and split that again: each index, and their sum, come back whole."""
    names = [Var(f"i{n}") for n in range(len(extents))]
    ranges = {v.name: (0, e - 1) for v, e in zip(names, extents, strict=True)}
    fused = const(0)
    for var, extent in zip(names, extents, strict=True):
        fused = fused * extent + var
    inner = 1
    recovered = const(0)
    for var, extent in zip(reversed(names), reversed(extents), strict=True):
        part = fused // inner % extent
        assert simplify(part, ranges) is var
        recovered = recovered + part * inner
        inner *= extent
    assert walk.same(simplify(recovered, ranges), simplify(fused, ranges))
    whole = Var("f")
    parts = const(0)
    inner = 1
    for extent in reversed(extents[1:]):
        parts = parts + whole // inner % extent * inner
        inner *= extent
    parts = parts + whole // inner * inner
    assert simplify(parts, {"f": (0, inner * extents[0] - 1)}) is whole
    assert value(parts, {"f": seed}) == seed
