"""Each rule that folds constants or drops an operand, against the interpreter's evaluation."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loopwright.ir import dtype as dt
from loopwright.ir.dtype import DType
from loopwright.ir.expr import (
    COMPARISONS,
    Binary,
    Buffer,
    Call,
    Cast,
    Const,
    Expr,
    Fn,
    Load,
    Op,
    Select,
    const,
)
from loopwright.ir.interp import run
from loopwright.ir.kernel import Kernel
from loopwright.ir.printer import show
from loopwright.ir.simplify import simplify
from loopwright.ir.stmt import Store

FLOATS = (dt.F16, dt.F32, dt.F64)
INTEGERS = (dt.I8, dt.U8, dt.I16, dt.I32, dt.I64)
ARITHMETIC = (Op.ADD, Op.SUB, Op.MUL, Op.MIN, Op.MAX, *sorted(COMPARISONS, key=lambda o: o.name))
SOURCES = {dtype: Buffer("X", dtype, (1,)) for dtype in (*FLOATS, *INTEGERS, dt.BOOL)}
SPECIAL = (0.0, -0.0, 1.0, -1.0, 2.0, -2.5, 3.0, 60000.0, math.inf, -math.inf, math.nan)


def evaluated(expr: Expr, operand: Const | None = None) -> np.ndarray:
    """The value of `expr`, as an array of one, with `operand` the element of `X`."""
    source = SOURCES[expr.dtype if operand is None else operand.dtype]
    target = Buffer("R", expr.dtype, (1,))
    given_value = np.array([0 if operand is None else operand.value], source.dtype.numpy)
    result = np.zeros(1, target.dtype.numpy)
    with np.errstate(all="ignore"):
        run(
            Kernel("k", (source, target), 1, Store(target, (const(0),), expr)),
            [given_value, result],
        )
    return result


def loaded(dtype: DType) -> Load:
    return Load(SOURCES[dtype], (const(0),))


def same(a: np.ndarray, b: np.ndarray) -> bool:
    """Equal to the bit, NaNs among themselves."""
    if a.dtype != b.dtype:
        return False
    if np.issubdtype(a.dtype, np.floating) and np.isnan(a).all():
        return bool(np.isnan(b).all())
    return a.tobytes() == b.tobytes()


def integers(dtype: DType) -> st.SearchStrategy[int]:
    limits = np.iinfo(dtype.numpy)
    low, high = int(limits.min), int(limits.max)
    near = st.integers(max(low, -4), 4)
    edges = st.sampled_from([low, low + 1, high - 1, high])
    # an index does not overflow: the rules for int64 require it
    return near | st.integers(-999, 999) if dtype == dt.I64 else near | edges


def rounded(dtype: DType, value: float) -> Const:
    with np.errstate(all="ignore"):
        return Const(float(np.asarray(value, dtype.numpy)), dtype)


def numbers(dtype: DType) -> st.SearchStrategy[Const]:
    if dtype.is_float:
        wide = st.sampled_from(SPECIAL) | st.floats(-100, 100, width=16)
        return wide.map(lambda v: rounded(dtype, v))
    return integers(dtype).map(lambda v: Const(v, dtype))


@st.composite
def pairs(draw: st.DrawFn) -> tuple[Const, Const]:
    dtype = draw(st.sampled_from((*FLOATS, *INTEGERS)))
    first = draw(numbers(dtype))
    return first, draw(st.just(first) | numbers(dtype))


def keeps(expr: Expr, operand: Const | None = None) -> Expr:
    made = simplify(expr, {})
    assert made.dtype == expr.dtype
    assert same(evaluated(made, operand), evaluated(expr, operand)), f"{show(expr)}: {show(made)}"
    return made


@pytest.mark.parametrize("op", ARITHMETIC)
@settings(max_examples=25, deadline=None)
@given(pairs())
def test_operators_on_constants_fold_to_their_value(op: Op, pair: tuple[Const, Const]) -> None:
    made = keeps(Binary(op, *pair))
    zeros = op in (Op.MIN, Op.MAX) and pair[0].value == pair[1].value
    assert isinstance(made, Const) or (zeros and pair[0].dtype.is_float)


@pytest.mark.parametrize("op", [Op.DIV, Op.FLOORDIV, Op.FLOORMOD])
@settings(max_examples=40, deadline=None)
@given(pairs())
def test_divisions_of_constants_fold_unless_by_zero(op: Op, pair: tuple[Const, Const]) -> None:
    a, b = pair
    if a.dtype.is_float and op is not Op.DIV:
        return
    expr = Binary(op, a, b)
    if b.value == 0 and not a.dtype.is_float:
        assert show(simplify(expr, {})) == show(expr)
    else:
        assert isinstance(keeps(expr), Const)


@pytest.mark.parametrize("op", [*ARITHMETIC, Op.DIV, Op.FLOORDIV])
@pytest.mark.parametrize("dtype", [*FLOATS, dt.I8, dt.I32], ids=str)
def test_an_operand_is_dropped_only_where_no_value_tells(op: Op, dtype: DType) -> None:
    """x op c and c op x, for each constant that a rule knows and for values that tell."""
    if dtype.is_float and op is Op.FLOORDIV:
        return
    values = SPECIAL if dtype.is_float else (-7, -1, 0, 1, 2, 100)
    constants = (0.0, -0.0, 1.0, -1.0, 2.0) if dtype.is_float else (-1, 0, 1, 2)
    x = loaded(dtype)
    for c in (Const(v, dtype) for v in constants):
        for expr in (Binary(op, x, c), Binary(op, c, x)):
            made = simplify(expr, {})
            for v in values:
                operand = rounded(dtype, v) if dtype.is_float else Const(int(v), dtype)
                divisor = operand.value if expr.lhs is c else c.value
                if op in (Op.DIV, Op.FLOORDIV) and not dtype.is_float and not divisor:
                    continue
                before, after = evaluated(expr, operand), evaluated(made, operand)
                assert same(after, before), f"{show(expr)} of {v}: {show(made)}"


@pytest.mark.parametrize("dtype", [*FLOATS, dt.I8, dt.I32], ids=str)
def test_neutral_operands_are_dropped(dtype: DType) -> None:
    one = Const(1.0 if dtype.is_float else 1, dtype)
    zero = Const(0.0 if dtype.is_float else 0, dtype)
    added = Const(-0.0, dtype) if dtype.is_float else zero
    x = loaded(dtype)
    neutral = [
        *(Binary(Op.MUL, x, one), Binary(Op.MUL, one, x), Binary(Op.DIV, x, one)),
        *(Binary(Op.ADD, x, added), Binary(Op.ADD, added, x), Binary(Op.SUB, x, zero)),
        *(Binary(Op.MIN, x, x), Binary(Op.MAX, x, x)),
    ]
    if dtype.is_int:
        neutral.append(Binary(Op.FLOORDIV, x, one))
    for expr in neutral:
        assert simplify(expr, {}) is x, show(expr)


@settings(max_examples=150, deadline=None)
@given(st.data(), st.sampled_from((*FLOATS, *INTEGERS)))
def test_casts_of_constants_fold_where_the_value_is_held(data: st.DataObject, to: DType) -> None:
    value = data.draw(st.sampled_from((*FLOATS, *INTEGERS)).flatmap(numbers))
    expr = Cast(to, value)
    if value.dtype.is_float and not to.is_float:
        limits = np.iinfo(to.numpy)
        held = math.isfinite(value.value) and limits.min <= math.trunc(value.value) <= limits.max
        made = simplify(expr, {})
        assert isinstance(made, Const) is (held or value.dtype == to)
        if held:
            assert made.value == math.trunc(value.value)
        return
    assert isinstance(keeps(expr), Const)


@pytest.mark.parametrize(("low", "high", "dtype"), [(-128, 127, dt.I8), (0, 255, dt.U8)])
def test_the_last_float_that_an_integer_type_holds_folds(low: int, high: int, dtype: DType) -> None:
    for value in (low - 0.5, float(low), high + 0.5, float(high)):
        made = simplify(Cast(dtype, const(value, dt.F32)), {})
        assert isinstance(made, Const), value
        assert made.value == math.trunc(value)
    for value in (low - 1.0, high + 1.0):
        assert isinstance(simplify(Cast(dtype, const(value, dt.F32)), {}), Cast), value


@settings(max_examples=100, deadline=None)
@given(st.sampled_from((*FLOATS, *INTEGERS)).flatmap(numbers), st.sampled_from((Fn.NEG, Fn.ABS)))
def test_signs_of_constants_fold(value: Const, fn: Fn) -> None:
    if value.dtype == dt.U8 and fn is Fn.NEG:
        return
    assert isinstance(keeps(Call(fn, (value,))), Const)


TRUTHS = (Const(True, dt.BOOL), Const(False, dt.BOOL))  # values


@pytest.mark.parametrize("op", [Op.AND, Op.OR])
@pytest.mark.parametrize("known", TRUTHS, ids=["true", "false"])
def test_truths_fold(op: Op, known: Const) -> None:
    x = loaded(dt.BOOL)
    for expr in (Binary(op, x, known), Binary(op, known, x), Binary(op, x, x)):
        made = simplify(expr, {})
        assert isinstance(made, Const | Load)
        for operand in TRUTHS:
            assert same(evaluated(made, operand), evaluated(expr, operand)), show(expr)


@pytest.mark.parametrize("op", sorted(COMPARISONS, key=lambda o: o.name))
@pytest.mark.parametrize("dtype", [dt.F32, dt.I8], ids=str)
def test_a_comparison_is_turned_only_where_it_means_the_same(op: Op, dtype: DType) -> None:
    x = loaded(dtype)
    two = Const(2.0 if dtype.is_float else 2, dtype)
    expr = Call(Fn.NOT, (Binary(op, x, two),))
    made = simplify(expr, {})
    assert isinstance(made, Binary) is dtype.is_int
    for v in (1, 2, 3, *((math.nan,) if dtype.is_float else ())):
        operand = Const(v if dtype.is_int else float(v), dtype)
        assert same(evaluated(made, operand), evaluated(expr, operand)), show(expr)
    assert simplify(Call(Fn.NOT, (expr,)), {}).dtype == dt.BOOL


def test_a_choice_of_the_same_twice_is_no_choice() -> None:
    x, cond = loaded(dt.F32), Binary(Op.LT, loaded(dt.F32), const(1.0, dt.F32))
    assert simplify(Select(cond, x, x), {}) is x
    for known, wanted in zip(TRUTHS, (1.0, 2.0), strict=True):
        made = simplify(Select(known, const(1.0, dt.F32), const(2.0, dt.F32)), {})
        assert isinstance(made, Const)
        assert made.value == wanted
