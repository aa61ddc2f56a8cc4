"""Value-preserving simplification, mainly of index expressions.

int64 expressions become linear forms (`ir.forms`): sums are collected, quotients and remainders
are split into exact and remaining parts, comparisons and extremes are decided by bounds. Other
dtypes have constants folded, and identities applied that hold for every value: for floats `x*1`,
but neither `x*0` nor `x + 0.0`. Equal indices come out with equal text as a rule, and
simplifying the result again changes nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import numpy as np

from loopwright.ir import walk
from loopwright.ir.bounds import Interval, Ranges, dtype_range, prove
from loopwright.ir.dtype import BOOL, F32, F64, I64, DType
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
    const,
)
from loopwright.ir.forms import Form, Forms
from loopwright.ir.linear import Linear
from loopwright.ir.stmt import Alloc, Block, For, If, Stmt, Store, block

_Value: TypeAlias = Form | Expr
_NO_RANGES: Mapping[str, Interval] = {}
_FLIPPED = {Op.LT: Op.GE, Op.GE: Op.LT, Op.LE: Op.GT, Op.GT: Op.LE, Op.EQ: Op.NE, Op.NE: Op.EQ}


def simplify(expr: Expr, ranges: Ranges = _NO_RANGES) -> Expr:
    """An expression with the value of `expr` for all variables in `ranges`; `expr` if unchanged.

    Requires: index arithmetic on variables does not overflow int64.
    """
    forms = Forms(ranges)
    return _settle(forms, _evaluate(forms, expr), expr)


def linear(expr: Expr, ranges: Ranges = _NO_RANGES) -> Linear[Expr]:
    """The linear form of the int64 expression `expr`; `forms.build` is the way back."""
    forms = Forms(ranges)
    return forms.linear(form_of(forms, expr))


def affine(expr: Expr, ranges: Ranges = _NO_RANGES) -> Linear[str] | None:
    """The linear form of `expr` by variable name; None if it has any other part."""
    form = linear(expr, ranges)
    coeffs = {atom.name: coeff for atom, coeff in form.terms.items() if isinstance(atom, Var)}
    return Linear(coeffs, form.const) if len(coeffs) == len(form.terms) else None


def form_of(forms: Forms, expr: Expr) -> Form:
    """The form of the int64 expression `expr` among other `forms` of the same ranges."""
    return _form(forms, _evaluate(forms, expr))


def simplify_stmt(stmt: Stmt, ranges: Ranges = _NO_RANGES) -> Stmt:
    """`stmt` with expressions simplified in the ranges of its loops, and decided branches folded.

    An If that is never taken becomes an empty Block; all loops are kept, even those of extent 1.
    """
    match stmt:
        case For(var=var, extent=extent, kind=kind, body=body):
            new = simplify_stmt(body, {**ranges, var.name: (0, extent - 1)})
            return stmt if new is body else For(var, extent, kind, new)
        case Block(stmts=stmts):
            parts = [simplify_stmt(s, ranges) for s in stmts]
            unchanged = all(a is b for a, b in zip(parts, stmts, strict=True))
            return stmt if unchanged else block(*parts)
        case If():
            return _simplify_if(stmt, ranges)
        case Alloc(buffer=buffer, body=body):
            new = simplify_stmt(body, ranges)
            return stmt if new is body else Alloc(buffer, new)
        case Store():
            return walk.map_exprs(stmt, lambda e: simplify(e, ranges))


def _simplify_if(stmt: If, ranges: Ranges) -> Stmt:
    cond = simplify(stmt.cond, ranges)
    if isinstance(cond, Const):
        if cond.value:
            return simplify_stmt(stmt.then, ranges)
        return block() if stmt.otherwise is None else simplify_stmt(stmt.otherwise, ranges)
    then = simplify_stmt(stmt.then, ranges)
    otherwise = None if stmt.otherwise is None else simplify_stmt(stmt.otherwise, ranges)
    if cond is stmt.cond and then is stmt.then and otherwise is stmt.otherwise:
        return stmt
    return If(cond, then, otherwise)


def _evaluate(forms: Forms, expr: Expr) -> _Value:
    """`expr` bottom up: int64 nodes give forms, all others expressions."""
    order: list[Expr] = []
    todo = [expr]
    while todo:
        current = todo.pop()
        order.append(current)
        if type(current) is Binary:  # most nodes are of these three classes
            todo.append(current.lhs)
            todo.append(current.rhs)
        elif type(current) is not Var and type(current) is not Const:
            if isinstance(current, Reduce):
                inner = {a.var.name: (0, a.extent - 1) for a in current.axes}
                forms.ranges = {**forms.ranges, **inner}
            todo.extend(walk.exprs(current))
    done: list[_Value] = []
    for current in reversed(order):
        cls = type(current)
        if cls is Var or cls is Const:
            done.append(_LEAVES[cls](forms, current))
            continue
        count = 2 if cls is Binary else len(walk.exprs(current))
        kids = done[len(done) - count :]
        del done[len(done) - count :]
        done.append(_RULES[cls](forms, current, kids))
    return done[0]


def _settle(forms: Forms, value: _Value, original: Expr) -> Expr:
    """`value` as an expression; `original` itself when they are the same."""
    if not isinstance(value, Linear):
        return value
    made = forms.expr(value)
    return original if walk.same(made, original) else made


def _form(forms: Forms, value: _Value) -> Form:
    return value if isinstance(value, Linear) else forms.atom(value)


def _rebuilt(forms: Forms, expr: Expr, kids: list[_Value]) -> Expr:
    """`expr` over its simplified children; itself when they are unchanged."""
    old = walk.exprs(expr)
    new = [_settle(forms, k, o) for k, o in zip(kids, old, strict=True)]
    if all(a is b for a, b in zip(old, new, strict=True)):
        return expr
    return walk.with_exprs(expr, new)


def _closed(forms: Forms, expr: Expr) -> _Value:
    """An expression that has no rule: an atom if it is an index."""
    return forms.atom(expr) if expr.dtype == I64 else expr


# --- one rule per class ---------------------------------------------------------------------------


def _simplify_const(_: Forms, expr: Const) -> _Value:
    return Linear({}, int(expr.value)) if _is_index(expr.dtype) else expr


def _simplify_var(forms: Forms, expr: Var) -> _Value:
    return forms.var(expr) if _is_index(expr.dtype) else expr


def _is_index(dtype: DType) -> bool:
    return dtype is I64 or dtype == I64  # an unpickled dtype is another object


def _simplify_binary(forms: Forms, expr: Binary, kids: list[_Value]) -> _Value:
    left, right = kids
    op = expr.op
    if isinstance(left, Linear) and isinstance(right, Linear):
        if op in COMPARISONS:
            made = forms.compare(op, left, right)
            return expr if walk.same(made, expr) else made
        return _integer(forms, op, left, right)
    sides = (_settle(forms, left, expr.lhs), _settle(forms, right, expr.rhs))
    if sides[0] is not expr.lhs or sides[1] is not expr.rhs:
        expr = Binary(op, *sides)
    return _logic(expr) if op in LOGICAL else _other(expr)


def _integer(forms: Forms, op: Op, a: Form, b: Form) -> Form:
    """An int64 operator on forms."""
    if op is Op.ADD:
        return forms.add(a, b)
    if op is Op.SUB:
        return forms.add(a, b, -1)
    if op is Op.MUL:
        return forms.multiply(a, b)
    if op is Op.MIN or op is Op.MAX:
        return forms.extreme(op, a, b)
    if not b.terms and b.const:
        if op is Op.FLOORDIV:
            return forms.floordiv(a, b.const)
        if op is Op.FLOORMOD:
            return forms.floormod(a, b.const)
        held = forms.bounds(a)
        if held is not None and held[0] >= 0 and b.const > 0 and forms.opens(a):
            return forms.floordiv(a, b.const)
        if not a.terms:
            return Linear({}, _truncated(a.const, b.const))
    return forms.atom(Binary(op, forms.expr(a), forms.expr(b)))


def _logic(expr: Binary) -> Expr:
    """AND and OR with a constant or twice the same side."""
    left, right = expr.lhs, expr.rhs
    neutral = expr.op is Op.AND
    for side, other in ((left, right), (right, left)):
        if isinstance(side, Const):
            return other if bool(side.value) is neutral else side
    return left if walk.same(left, right) else expr


def _other(expr: Binary) -> Expr:
    """Operators on floats, narrow integers and bools."""
    left, right = expr.lhs, expr.rhs
    if isinstance(left, Const) and isinstance(right, Const):
        return _folded(expr, left, right)
    if expr.op in COMPARISONS:
        known = prove(expr, _NO_RANGES)
        return expr if known is None else Const(known, BOOL)
    if expr.op is Op.MIN or expr.op is Op.MAX:
        return left if walk.same(left, right) else expr
    if isinstance(right, Const) and _is_neutral(expr.op, right):
        return left
    if isinstance(left, Const) and expr.op in (Op.ADD, Op.MUL) and _is_neutral(expr.op, left):
        return right
    return expr


def _is_neutral(op: Op, value: Const) -> bool:
    """True when `x op value` is `x` for every x, NaN and -0.0 included."""
    if op is Op.MUL or op is Op.DIV:
        return value.value == 1
    if op is Op.FLOORDIV:
        return value.value == 1 and value.dtype.is_int
    if op not in (Op.ADD, Op.SUB) or value.value != 0:
        return False
    if not value.dtype.is_float:
        return True
    negative = math.copysign(1.0, value.value) < 0
    return negative if op is Op.ADD else not negative


def _simplify_select(forms: Forms, expr: Select, kids: list[_Value]) -> _Value:
    cond, yes, no = kids
    if isinstance(cond, Const):
        return yes if cond.value else no
    if isinstance(yes, Linear) and isinstance(no, Linear):
        if yes == no:
            return yes
        return forms.atom(_rebuilt(forms, expr, kids))
    new = _rebuilt(forms, expr, kids)
    return new.yes if isinstance(new, Select) and walk.same(new.yes, new.no) else new


def _simplify_cast(forms: Forms, expr: Cast, kids: list[_Value]) -> _Value:
    (kid,) = kids
    wanted = expr.dtype
    if isinstance(kid, Linear):
        if wanted == I64:
            return kid
        made = None if kid.terms else _converted(Const(kid.const, I64), wanted)
        return _rebuilt(forms, expr, kids) if made is None else made
    if kid.dtype == wanted:
        return kid
    made = _converted(kid, wanted) if isinstance(kid, Const) else None
    if made is None:
        return _closed(forms, _rebuilt(forms, expr, kids))
    return Linear({}, int(made.value)) if wanted == I64 else made


def _simplify_load(forms: Forms, expr: Load, kids: list[_Value]) -> _Value:
    return _closed(forms, _rebuilt(forms, expr, kids))


def _simplify_call(forms: Forms, expr: Call, kids: list[_Value]) -> _Value:
    kid = kids[0]
    if isinstance(kid, Linear):
        if expr.fn is Fn.NEG:
            return kid.times(-1)
        held = forms.bounds(kid) if expr.fn is Fn.ABS and forms.opens(kid) else None
        if held is not None and held[0] >= 0:
            return kid
        if held is not None and held[1] <= 0:
            return kid.times(-1)
        return _closed(forms, _rebuilt(forms, expr, kids))
    if expr.fn is Fn.NOT:
        return _negated(_rebuilt(forms, expr, kids), kid)
    if isinstance(kid, Const) and expr.fn in (Fn.NEG, Fn.ABS):
        return _fitted(-kid.value if expr.fn is Fn.NEG else abs(kid.value), kid.dtype)
    return _rebuilt(forms, expr, kids)


def _negated(expr: Expr, kid: Expr) -> Expr:
    """`not kid`; the opposite comparison where there is one (a NaN has none)."""
    match kid:
        case Const(value=value):
            return Const(not value, BOOL)
        case Call(fn=Fn.NOT, args=(inner,)):
            return inner
        case Binary(op=op, lhs=lhs, rhs=rhs) if op in COMPARISONS and not lhs.dtype.is_float:
            return Binary(_FLIPPED[op], lhs, rhs)
        case _:
            return expr


def _simplify_reduce(forms: Forms, expr: Reduce, kids: list[_Value]) -> _Value:
    return _closed(forms, _rebuilt(forms, expr, kids))


_LEAVES: Mapping[type, Callable[[Forms, Any], _Value]] = {
    Const: _simplify_const,
    Var: _simplify_var,
}
_RULES: Mapping[type, Callable[[Forms, Any, list[_Value]], _Value]] = {
    Binary: _simplify_binary,
    Select: _simplify_select,
    Cast: _simplify_cast,
    Load: _simplify_load,
    Call: _simplify_call,
    Reduce: _simplify_reduce,
}


# --- constants ----------------------------------------------------------------------------------


def _truncated(a: int, b: int) -> int:
    quotient = abs(a) // abs(b)
    return quotient if (a < 0) == (b < 0) else -quotient


_INTEGERS: Mapping[Op, Callable[[int, int], int | bool]] = {
    Op.ADD: lambda a, b: a + b,
    Op.SUB: lambda a, b: a - b,
    Op.MUL: lambda a, b: a * b,
    Op.DIV: _truncated,
    Op.FLOORDIV: lambda a, b: a // b,
    Op.FLOORMOD: lambda a, b: a % b,
    Op.MIN: min,
    Op.MAX: max,
    Op.LT: lambda a, b: a < b,
    Op.LE: lambda a, b: a <= b,
    Op.GT: lambda a, b: a > b,
    Op.GE: lambda a, b: a >= b,
    Op.EQ: lambda a, b: a == b,
    Op.NE: lambda a, b: a != b,
}
_DIVISIONS = frozenset({Op.DIV, Op.FLOORDIV, Op.FLOORMOD})


def _folded(expr: Binary, left: Const, right: Const) -> Expr:
    """`left op right` as a constant; `expr` where that is undefined."""
    op, dtype = expr.op, left.dtype
    if dtype.is_float:
        return _folded_float(expr, left, right)
    if op in _DIVISIONS and not right.value:
        return expr
    value = _INTEGERS[op](int(left.value), int(right.value))
    return Const(bool(value), BOOL) if op in COMPARISONS else _fitted(value, dtype)


def _folded_float(expr: Binary, left: Const, right: Const) -> Expr:
    op, dtype = expr.op, left.dtype
    a, b = float(left.value), float(right.value)
    if op in COMPARISONS:
        return Const(bool(_INTEGERS[op](a, b)), BOOL)  # type: ignore[arg-type]  # same operators
    if op is Op.MIN or op is Op.MAX:
        if math.isnan(a) or math.isnan(b):
            return left if math.isnan(a) else right
        return expr if a == b else (left if (a < b) is (op is Op.MIN) else right)
    if op not in _FLOATS:
        return expr
    working = F64 if dtype == F64 else F32  # narrower types are computed in float32, then rounded
    with np.errstate(all="ignore"):
        result = _FLOATS[op](working.numpy.type(a), working.numpy.type(b))
    return _fitted(float(result), dtype)


_FLOATS: Mapping[Op, Callable[[Any, Any], Any]] = {
    Op.ADD: lambda a, b: a + b,
    Op.SUB: lambda a, b: a - b,
    Op.MUL: lambda a, b: a * b,
    Op.DIV: lambda a, b: a / b,
}


def _fitted(value: float, dtype: DType) -> Const:
    """`value` rounded or wrapped to `dtype`."""
    if dtype.is_float:
        with np.errstate(all="ignore"):
            return Const(float(np.asarray(value, dtype=dtype.numpy)), dtype)
    if dtype.is_bool:
        return Const(bool(value), dtype)
    limits = dtype_range(dtype)
    low = 0 if limits is None else limits[0]
    return Const((int(value) - low) % (1 << dtype.bits) + low, dtype)


def _converted(value: Const, dtype: DType) -> Const | None:
    """`value` cast to `dtype`; None for a float that the integer type cannot hold."""
    if not value.dtype.is_float or dtype.is_float:
        return const(bool(value.value), BOOL) if dtype.is_bool else _fitted(value.value, dtype)
    if dtype.is_bool:
        return Const(value.value != 0, BOOL)
    limits = dtype_range(dtype)
    if limits is None or not math.isfinite(value.value):
        return None
    whole = math.trunc(value.value)
    return Const(whole, dtype) if limits[0] <= whole <= limits[1] else None
