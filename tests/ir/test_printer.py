from __future__ import annotations

import pytest

from loopwright.ir import dtype as dt
from loopwright.ir.expr import (
    Binary,
    Buffer,
    Call,
    Cast,
    Combiner,
    Expr,
    Fn,
    Load,
    Op,
    Reduce,
    ReduceAxis,
    Scope,
    Select,
    Var,
    const,
)
from loopwright.ir.kernel import Kernel
from loopwright.ir.printer import show, show_stmt
from loopwright.ir.stmt import Alloc, Block, For, If, LoopKind, Store, block

A = Buffer("A", dt.F32, (64, 8))
C = Buffer("C", dt.F32, (64,))
X, Y = Var("x"), Var("y")
F = Load(C, (X,))


def sub(a: Expr, b: Expr) -> Expr:
    return Binary(Op.SUB, a, b)


@pytest.mark.parametrize(
    ("expr", "text"),
    [
        (X + Y + 1, "x + y + 1"),
        (X + (Y + 1), "x + y + 1"),
        (F + (F + F), "C[x] + (C[x] + C[x])"),  # floats do not regroup
        (sub(X, sub(Y, X)), "x - (y - x)"),
        (sub(sub(X, Y), X), "x - y - x"),
        ((X + Y) * 2, "(x + y)*2"),
        (X * 2 + Y, "x*2 + y"),
        (X // 4 % 8, "x//4%8"),
        (X // (Y * 4), "x//(y*4)"),
        (F * F + F / F, "C[x] * C[x] + C[x] / C[x]"),
        (Binary(Op.MIN, X, Y) + 1, "min(x, y) + 1"),
        (-X + 1, "-x + 1"),
        (-(X + 1), "-(x + 1)"),
        (const(-3) * X, "-3*x"),
        (Binary(Op.AND, X < 3, Binary(Op.OR, X >= 1, Y < 2)), "x < 3 and (x >= 1 or y < 2)"),
        (Binary(Op.EQ, X < 3, Y < 2), "(x < 3) == (y < 2)"),
        (Call(Fn.NOT, (X < 3,)), "not x < 3"),
        (Select(X < 3, F, const(0, dt.F32)), "C[x] if x < 3 else 0.0"),
        (Select(X < 3, F, const(0, dt.F32)) + F, "(C[x] if x < 3 else 0.0) + C[x]"),
        (Cast(dt.F64, F) * 2.0, "float64(C[x]) * float64(2.0)"),
        (Call(Fn.EXP, (F,)), "exp(C[x])"),
        (Load(A, (X * 2 + 1, Y)), "A[x*2 + 1, y]"),
        (Reduce(Combiner.SUM, F, (ReduceAxis(X, 9),)), "sum(C[x] for x in 0..9)"),
        (const(True, dt.BOOL), "True"),
        (const(3, dt.I8), "int8(3)"),
    ],
)
def test_expressions_have_no_more_parentheses_than_needed(expr: Expr, text: str) -> None:
    assert show(expr) == text


def test_a_kernel_prints_as_its_loop_nest() -> None:
    acc = Buffer("acc", dt.F32, (8,), Scope.REGISTER)
    body = For(
        Y,
        64,
        LoopKind.PARALLEL,
        Alloc(
            acc,
            block(
                For(X, 8, LoopKind.VECTORIZED, Store(acc, (X,), Load(A, (Y, X)) * 2.0)),
                If(
                    Y < 3,
                    Store(C, (Y,), Load(acc, (const(0),))),
                    Store(C, (Y,), const(0, dt.F32)),
                ),
            ),
        ),
    )
    assert str(Kernel("double", (A, C), 1, body)) == (
        "kernel double(A: float32[64, 8]) -> (C: float32[64]):\n"
        "    parallel y in 0..64:\n"
        "        alloc acc: float32[8] in register  # 32 bytes\n"
        "        vectorized x in 0..8:\n"
        "            acc[x] = A[y, x] * 2.0\n"
        "        if y < 3:\n"
        "            C[y] = acc[0]\n"
        "        else:\n"
        "            C[y] = 0.0\n"
    )


def test_an_empty_block_prints_as_pass() -> None:
    assert show_stmt(For(X, 3, LoopKind.SERIAL, Block(()))) == "for x in 0..3:\n    pass"
