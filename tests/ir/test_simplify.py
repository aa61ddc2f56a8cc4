from __future__ import annotations

import math

import numpy as np
import pytest

from loopwright.ir import dtype as dt
from loopwright.ir import walk
from loopwright.ir.bounds import bounds, prove
from loopwright.ir.expr import (
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
    Var,
    const,
)
from loopwright.ir.forms import build
from loopwright.ir.linear import Linear
from loopwright.ir.printer import show, show_stmt
from loopwright.ir.simplify import affine, linear, simplify, simplify_stmt
from loopwright.ir.stmt import For, If, LoopKind, Store, block

O, I, Y, X, F, K = (Var(n) for n in "oiyxfk")  # noqa: E741
RANGES = {
    "o": (0, 7),
    "i": (0, 15),
    "y": (0, 55),
    "x": (0, 55),
    "f": (0, 56 * 56 * 8 - 1),
    "k": (0, 2),
}
WIDE = Buffer("W", dt.I64, (9,))
NARROW = Buffer("N", dt.I8, (9,))
FLOATS = Buffer("A", dt.F32, (64,))
W, N, A = Load(WIDE, (I,)), Load(NARROW, (I,)), Load(FLOATS, (I,))


@pytest.mark.parametrize(
    ("expr", "text"),
    [
        ((O * 16 + I) // 16, "o"),
        ((O * 16 + I) % 16, "i"),
        (I // 4 * 4 + I % 4, "i"),
        (I - I // 4 * 4, "i%4"),
        (I // 2 // 3, "i//6"),
        (I % 4 % 2, "i%2"),
        ((F % 56) // 14, "f//14%4"),
        ((Y * 56 + X) // 7 % 8, "x//7"),
        ((O * 8 + I % 8) % 16, "o%2*8 + i%8"),
        ((I + 7) // 8 * 8 + (I + 7) % 8, "i + 7"),
        ((X - 1) // 4, "(x + 3)//4 - 1"),
        (Y * 2 + K - 1, "y*2 + k - 1"),
        (const(3) - I, "3 - i"),
        ((I + I) - I * 2, "0"),
        (Binary(Op.MIN, I, const(20)), "i"),
        (Binary(Op.MAX, I + 1, I), "i + 1"),
        (Binary(Op.MIN, const(3), I), "min(i, 3)"),
        (Y * 2 + K - 1 >= 0, "y*2 + k >= 1"),
        (const(0) <= O * 16 + I - 3, "o*16 + i >= 3"),
        (O * 4 < 10, "o < 3"),
        (I < 16, "True"),
        (I.equal(16), "False"),
        ((I * 4).equal(3), "False"),
        (Select(I < 16, I, O), "i"),
        (Select(O < 3, I + 1, const(1) + I), "i + 1"),
        (Binary(Op.AND, I < 16, O < 3), "o < 3"),
        (Binary(Op.OR, I < 16, O < 3), "True"),
        (Call(Fn.NOT, (O < 3,)), "o >= 3"),
        (Cast(dt.F32, const(3)), "3.0"),
        (Call(Fn.ABS, (I - 20,)), "20 - i"),
    ],
)
def test_indices_come_out_as_expected(expr: Expr, text: str) -> None:
    assert show(simplify(expr, RANGES)) == text


@pytest.mark.parametrize("expr", [(W * 16 + I) // 16, W + 1 > W, (W + W) // 2, W * 4 < 10])
def test_an_int64_that_may_wrap_stays_closed(expr: Expr) -> None:
    made = simplify(expr, RANGES)
    assert isinstance(made, Binary)
    assert walk.loads(made)


def test_a_loaded_index_that_is_narrow_is_opened() -> None:
    index = Cast(dt.I64, N)
    assert show(simplify((index * 16 + I) // 16, RANGES)) == "int64(N[i])"


@pytest.mark.parametrize(
    ("expr", "text"),
    [
        (A * 1.0, "A[i]"),
        (A / 1.0, "A[i]"),
        (Binary(Op.SUB, A, const(0.0, dt.F32)), "A[i]"),
        (A + -0.0, "A[i]"),
        (A + 0.0, "A[i] + 0.0"),  # turns -0.0 into 0.0
        (A * 0.0, "A[i] * 0.0"),  # keeps NaN
        (A - A, "A[i] - A[i]"),
        ((A + 1.0) + 2.0, "A[i] + 1.0 + 2.0"),
        (const(1.0, dt.F32) + 2.0, "3.0"),
        (N * 0, "N[i]*int8(0)"),
        (N + 0, "N[i]"),
        (const(100, dt.I8) + 100, "int8(-56)"),
        (const(-7, dt.I32) // const(2, dt.I32), "int32(-4)"),
        (Binary(Op.DIV, const(-7, dt.I32), const(2, dt.I32)), "int32(-3)"),
        (const(7) // const(0), "7//0"),
        (Select(const(True, dt.BOOL), A, A * 2.0), "A[i]"),
        (Load(FLOATS, (O * 0 + I * 2 - I,)), "A[i]"),
    ],
)
def test_other_dtypes_change_only_where_every_value_is_kept(expr: Expr, text: str) -> None:
    assert show(simplify(expr, RANGES)) == text


def test_float_constants_fold_in_their_own_precision() -> None:
    third = simplify(const(1.0, dt.F32) / const(3.0, dt.F32), {})
    assert isinstance(third, Const)
    assert third.value == float(np.float32(1) / np.float32(3))
    huge = simplify(const(60000.0, dt.F16) + const(60000.0, dt.F16), {})
    assert isinstance(huge, Const)
    assert math.isinf(huge.value)
    nan = const(float("nan"), dt.F32)
    assert show(simplify(Binary(Op.MIN, nan, const(2.0, dt.F32)), {})) == "nan"
    assert show(simplify(Binary(Op.MAX, const(2.0, dt.F32), nan), {})) == "nan"


def test_an_expression_that_is_simple_comes_back_itself() -> None:
    for expr in (O * 16 + I, Load(FLOATS, (O * 16 + I,)) + A, Select(O < 3, A, A * 2.0)):
        assert simplify(expr, RANGES) is expr


def test_simplify_reaches_the_bottom_of_a_deep_sum() -> None:
    total = A
    for n in range(3000):
        total = total + Load(FLOATS, (I + n - n,))
    made = simplify(total, RANGES)
    assert [show(load) for load in walk.loads(made)] == ["A[i]"] * 3001


def test_linear_gives_coefficients_by_variable() -> None:
    expr = (O * 16 + I) * 56 + Y + 3
    assert affine(expr, RANGES) == Linear({"o": 896, "i": 56, "y": 1}, 3)
    assert show(build(linear(expr, RANGES))) == "o*896 + i*56 + y + 3"


def test_statements_are_simplified_in_the_ranges_of_their_loops() -> None:
    out = Buffer("out", dt.F32, (64,))
    z = Var("z")
    inner = block(
        If(z < 8, Store(out, (z // 8 + z,), const(0, dt.F32))),
        If(z >= 8, Store(out, (z,), const(1, dt.F32)), Store(out, (z,), const(2, dt.F32))),
        If(z < 3, Store(out, (z,), const(3, dt.F32))),
    )
    loop = For(z, 8, LoopKind.SERIAL, inner)
    assert show_stmt(simplify_stmt(loop)) == (
        "for z in 0..8:\n    out[z] = 0.0\n    out[z] = 2.0\n    if z < 3:\n        out[z] = 3.0"
    )


def test_bounds_are_those_of_linear_forms() -> None:
    assert bounds(I - I, RANGES) == (0, 0)
    assert bounds((O * 16 + I) * 2 + 1, RANGES) == (1, 255)
    assert bounds(X % 8, RANGES) == (0, 7)
    assert bounds(X * 0 + Var("free"), RANGES) is None
    assert bounds(Var("free") % 8, RANGES) == (0, 7)
    assert bounds(Cast(dt.I64, N), RANGES) == (-128, 127)
    assert bounds(N + 1, RANGES) == (-128, 127)  # wraps
    assert bounds(A, RANGES) is None
    assert bounds(Select(I < 3, I, const(2)), RANGES) == (0, 15)


def test_prove_knows_when_it_does_not_know() -> None:
    assert prove(X + 1 > X, RANGES) is True
    assert prove(X < 55, RANGES) is None
    assert prove(X < 0, RANGES) is False
    assert prove(A < 3.0, RANGES) is None
    assert prove(W + 1 > W, RANGES) is None  # wraps at the largest int64
    assert prove(N + 1 > N, RANGES) is None
