"""Interval arithmetic on integer expressions.

A `Ranges` gives the inclusive interval of each variable. Sums are bounded as linear forms, so
`i - i` is 0 and not an interval twice as wide; everything else is bounded operator by operator.
Wrap-around is respected: a result that may overflow its dtype is bounded by the dtype, and
unbounded for 64 bits.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeAlias

from loopwright.ir import walk
from loopwright.ir.dtype import DType, DTypeKind
from loopwright.ir.expr import (
    COMPARISONS,
    LOGICAL,
    Binary,
    Call,
    Cast,
    Const,
    Expr,
    Fn,
    Load,
    Op,
    Reduce,
    Select,
    Var,
)
from loopwright.ir.linear import collect

Interval: TypeAlias = tuple[int, int]
Ranges: TypeAlias = Mapping[str, Interval]
"""Inclusive bounds by variable name; a missing variable is unbounded."""


def dtype_range(dtype: DType) -> Interval | None:
    """The inclusive interval of an integer or bool dtype; None for floats."""
    if dtype.is_bool:
        return 0, 1
    if dtype.kind is DTypeKind.INT:
        return -(1 << (dtype.bits - 1)), (1 << (dtype.bits - 1)) - 1
    return (0, (1 << dtype.bits) - 1) if dtype.kind is DTypeKind.UINT else None


def bounds(expr: Expr, ranges: Ranges) -> Interval | None:
    """An inclusive interval that contains every value of `expr`; None when none is known.

    Floats have no bounds. Integers narrower than 64 bits always do.
    """
    cls = type(expr)
    if cls is Var:
        return ranges.get(expr.name)  # type: ignore[union-attr]  # cls says it is a Var
    dtype = expr.dtype
    if dtype.is_float:
        return None
    if dtype.is_bool:
        truth = prove(expr, ranges)
        return (0, 1) if truth is None else (int(truth), int(truth))
    found = _linear_bounds(expr, ranges) if _is_linear(expr) else _ATOMS[cls](expr, ranges)
    return fit(found, dtype)


def fit(interval: Interval | None, dtype: DType) -> Interval | None:
    """`interval` if all of it fits `dtype`, else the interval after wrap-around."""
    limits = dtype_range(dtype)
    if limits is None:
        return None
    if interval is not None and limits[0] <= interval[0] and interval[1] <= limits[1]:
        return interval
    return limits if dtype.bits < 64 else None


def prove(cond: Expr, ranges: Ranges) -> bool | None:
    """The value of `cond` if it is the same for all values in `ranges`; else None."""
    match cond:
        case Const(value=value):
            return bool(value)
        case Binary(op=op, lhs=lhs, rhs=rhs):
            if op in COMPARISONS:
                return _prove_comparison(op, lhs, rhs, ranges)
            return _prove_logic(op, (prove(lhs, ranges), prove(rhs, ranges)))
        case Call(fn=Fn.NOT, args=(arg,)):
            inner = prove(arg, ranges)
            return None if inner is None else not inner
        case Select(cond=test, yes=yes, no=no):
            chosen = prove(test, ranges)
            if chosen is not None:
                return prove(yes if chosen else no, ranges)
            first, second = prove(yes, ranges), prove(no, ranges)
            return first if first is second else None
        case _:
            return None


def compare(op: Op, difference: Interval) -> bool | None:
    """What `lhs op rhs` is, given the interval of `lhs - rhs`; None when it depends."""
    lo, hi = difference
    if op is Op.LT:
        return True if hi < 0 else False if lo >= 0 else None
    if op is Op.LE:
        return True if hi <= 0 else False if lo > 0 else None
    if op is Op.GT:
        return True if lo > 0 else False if hi <= 0 else None
    if op is Op.GE:
        return True if lo >= 0 else False if hi < 0 else None
    equal = False if lo > 0 or hi < 0 else True if lo == hi == 0 else None
    if op is Op.EQ:
        return equal
    return None if equal is None else not equal


def _prove_comparison(op: Op, lhs: Expr, rhs: Expr, ranges: Ranges) -> bool | None:
    if lhs.dtype.is_float:
        return None
    if lhs.dtype.is_bool:
        a, b = prove(lhs, ranges), prove(rhs, ranges)
        return None if a is None or b is None else compare(op, (a - b, a - b))
    left, right = bounds(lhs, ranges), bounds(rhs, ranges)
    if left is None or right is None:
        return None
    loose = (left[0] - right[1], left[1] - right[0])
    found = compare(op, loose)
    if found is not None or lhs.dtype.bits < 64:
        return found
    # Neither side wraps, so their difference as one linear form orders them too.
    tight = _linear_bounds(Binary(Op.SUB, lhs, rhs), ranges)
    return None if tight is None else compare(op, tight)


def _prove_logic(op: Op, sides: tuple[bool | None, bool | None]) -> bool | None:
    if op not in LOGICAL:
        return None
    decisive = op is Op.OR  # the value that decides the result whatever the other side is
    if decisive in sides:
        return decisive
    return None if None in sides else not decisive


def _is_linear(expr: Expr) -> bool:
    if type(expr) is Binary:
        return expr.op is Op.ADD or expr.op is Op.SUB or expr.op is Op.MUL
    return type(expr) is Call and expr.fn is Fn.NEG


def _linear_bounds(expr: Expr, ranges: Ranges) -> Interval | None:
    """Bounds of a sum, not fitted to its dtype; each atom counts once, with its coefficient."""
    atoms: dict[int | str, Expr] = {}

    def key(atom: Expr) -> int | str:
        name: int | str = atom.name if type(atom) is Var else id(atom)
        if type(atom) is not Var:
            name = next((k for k, a in atoms.items() if walk.same(a, atom)), name)
        atoms.setdefault(name, atom)
        return name

    def held(name: int | str) -> Interval | None:
        atom = atoms[name]
        return _product_bounds(atom, ranges) if _is_linear(atom) else bounds(atom, ranges)

    return collect(expr, key).bounds(held)


def _product_bounds(expr: Expr, ranges: Ranges) -> Interval | None:
    """Bounds of a product of two expressions, neither of them constant."""
    if type(expr) is not Binary:
        return None
    a, b = bounds(expr.lhs, ranges), bounds(expr.rhs, ranges)
    if a is None or b is None:
        return None
    corners = (a[0] * b[0], a[0] * b[1], a[1] * b[0], a[1] * b[1])
    return fit((min(corners), max(corners)), expr.dtype)


def _floordiv(a: Interval | None, b: Interval | None) -> Interval | None:
    if a is None or b is None or b[0] <= 0 <= b[1]:
        return None
    corners = (a[0] // b[0], a[0] // b[1], a[1] // b[0], a[1] // b[1])
    return min(corners), max(corners)


def _floormod(a: Interval | None, b: Interval | None) -> Interval | None:
    if b is None or b[0] <= 0 <= b[1]:
        return None
    if a is not None and b[0] == b[1] and a[0] // b[0] == a[1] // b[0]:
        start = a[0] // b[0] * b[0]
        return a[0] - start, a[1] - start
    if b[0] > 0:
        top = b[1] - 1
        return 0, min(a[1], top) if a is not None and a[0] >= 0 else top
    return b[0] + 1, 0


def _div(a: Interval | None, b: Interval | None) -> Interval | None:
    """Truncating division: floor division of non-negative operands, else mirrored."""
    if a is None or b is None or b[0] <= 0 <= b[1]:
        return None
    corners = [abs(x) // abs(y) * (1 if (x < 0) == (y < 0) else -1) for x in a for y in b]
    return min(*corners, *((0,) if a[0] <= 0 <= a[1] else ())), max(corners)


def _min(a: Interval | None, b: Interval | None) -> Interval | None:
    return None if a is None or b is None else (min(a[0], b[0]), min(a[1], b[1]))


def _max(a: Interval | None, b: Interval | None) -> Interval | None:
    return None if a is None or b is None else (max(a[0], b[0]), max(a[1], b[1]))


_BINARY: Mapping[Op, Callable[[Interval | None, Interval | None], Interval | None]] = {
    Op.FLOORDIV: _floordiv,
    Op.FLOORMOD: _floormod,
    Op.DIV: _div,
    Op.MIN: _min,
    Op.MAX: _max,
}


def _binary(expr: Binary, ranges: Ranges) -> Interval | None:
    rule = _BINARY.get(expr.op)
    return None if rule is None else rule(bounds(expr.lhs, ranges), bounds(expr.rhs, ranges))


def _select(expr: Select, ranges: Ranges) -> Interval | None:
    chosen = prove(expr.cond, ranges)
    if chosen is not None:
        return bounds(expr.yes if chosen else expr.no, ranges)
    a, b = bounds(expr.yes, ranges), bounds(expr.no, ranges)
    return None if a is None or b is None else (min(a[0], b[0]), max(a[1], b[1]))


def _cast(expr: Cast, ranges: Ranges) -> Interval | None:
    return bounds(expr.value, ranges)


def _call(expr: Call, ranges: Ranges) -> Interval | None:
    held = bounds(expr.args[0], ranges)
    if held is None or expr.fn is not Fn.ABS:
        return None
    lo, hi = held
    return (0 if lo <= 0 <= hi else min(abs(lo), abs(hi))), max(abs(lo), abs(hi))


_ATOMS: Mapping[type, Callable[..., Interval | None]] = {
    Const: lambda e, _: (int(e.value), int(e.value)),
    Binary: _binary,
    Select: _select,
    Cast: _cast,
    Call: _call,
    Load: lambda _e, _r: None,
    Reduce: lambda _e, _r: None,
}
