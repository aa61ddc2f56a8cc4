from __future__ import annotations

import pytest
from unproven import unproven_accesses

from loopwright.errors import LoweringError
from loopwright.ir import dtype as dt
from loopwright.ir.expr import (
    Binary,
    Buffer,
    Call,
    Combiner,
    Const,
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
from loopwright.ir.stmt import Alloc, For, If, LoopKind, Stmt, Store, block
from loopwright.ir.verify import verify

A = Buffer("A", dt.F32, (4, 8))
FLAT = Buffer("F", dt.F32, (64,))
C = Buffer("C", dt.F32, (64,))
REGISTERS = Buffer("acc", dt.F32, (8,), Scope.REGISTER)
X, Y = Var("x"), Var("y")
ZERO = const(0, dt.F32)
SERIAL, PARALLEL = LoopKind.SERIAL, LoopKind.PARALLEL
VECTORIZED, UNROLLED = LoopKind.VECTORIZED, LoopKind.UNROLLED


def kernel(body: Stmt, *inputs: Buffer) -> Kernel:
    return Kernel("k", (*inputs, C), 1, body)


def loop(body: Stmt, var: Var = X, extent: int = 8, kind: LoopKind = SERIAL) -> For:
    return For(var, extent, kind, body)


def put(value: Expr, index: Expr = X) -> Store:
    return Store(C, (index,), value)


def test_a_well_formed_kernel_passes() -> None:
    fill = loop(Store(REGISTERS, (X,), Load(FLAT, (Y * 8 + X,))), kind=VECTORIZED)
    z = Var("z")
    drain = loop(put(Load(REGISTERS, (z,)), Y * 8 + z), z, kind=VECTORIZED)
    body = loop(Alloc(REGISTERS, block(fill, If(Y < 3, drain))), Y, kind=PARALLEL)
    verify(kernel(body, FLAT), flat=True)


FAULTS: list[tuple[str, Stmt]] = [
    ("the variable y is read outside its loop", loop(put(ZERO, X + Y))),
    ("the variable x is bound by two loops", block(loop(put(ZERO)), loop(put(ZERO)))),
    ("the loop x has extent 0", loop(put(ZERO), extent=0)),
    ("the loop variable x is int32", loop(put(ZERO, const(0)), Var("x", dt.I32))),
    (
        "> x: the vectorized loop y is inside vectorized x",
        loop(loop(put(ZERO), Y, kind=VECTORIZED), kind=VECTORIZED),
    ),
    (
        "the parallel loop y is inside vectorized x",
        loop(loop(put(ZERO), Y, kind=PARALLEL), kind=VECTORIZED),
    ),
    ("neither a parameter nor allocated", loop(put(Load(Buffer("D", dt.F32, (9,)), (X,))))),
    (
        "neither a parameter nor allocated",
        block(Alloc(REGISTERS, put(ZERO, const(0))), put(Load(REGISTERS, (const(0),)), const(1))),
    ),
    ("two buffers are called acc", Alloc(REGISTERS, Alloc(REGISTERS, put(ZERO, const(0))))),
    (r"the buffer D has shape \(0,\)", Alloc(Buffer("D", dt.F32, (0,)), put(ZERO, const(0)))),
    (r"C\[64\] has 2 indices", loop(Store(C, (X, X), ZERO))),
    ("C is indexed with int32", loop(put(ZERO, const(0, dt.I32)))),
    ("float64 is stored to C: float32", loop(put(const(0, dt.F64)))),
    ("the input A is written", Store(A, (const(0), const(0)), ZERO)),
    ("the condition x is int64, not bool", loop(If(X, put(ZERO)))),
    ("a Reduce is left", loop(put(Reduce(Combiner.SUM, ZERO, (ReduceAxis(Y, 3),))))),
    ("float32 constant 1 in", loop(put(Const(1, dt.F32)))),
    ("int8 constant 300 in", loop(If(Const(300, dt.I8) < Const(3, dt.I8), put(ZERO)))),
    ("FLOORDIV of float32 in", loop(put(ZERO // ZERO))),
    ("AND of int64 in", loop(put(ZERO, Binary(Op.AND, X, X)))),
    ("exp of int64 in", loop(put(ZERO, Call(Fn.EXP, (X,))))),
    ("exp with 2 arguments in", loop(put(Call(Fn.EXP, (ZERO, ZERO))))),
    ("not of float32 in", loop(put(Call(Fn.NOT, (ZERO,))))),
    (
        "the register buffer acc is indexed with x, which is neither unrolled nor vectorized",
        Alloc(REGISTERS, loop(Store(REGISTERS, (X,), ZERO))),
    ),
    (
        "the register buffer acc is indexed with a load",
        Alloc(
            REGISTERS,
            put(Load(REGISTERS, (Load(Buffer("I", dt.I64, (8,)), (const(0),)),)), const(0)),
        ),
    ),
]


@pytest.mark.parametrize(("reason", "body"), FAULTS)
def test_each_fault_is_named_with_its_place(reason: str, body: Stmt) -> None:
    with pytest.raises(LoweringError, match=f"kernel k.*{reason}"):
        verify(kernel(body, A))


def test_flat_asks_for_one_dimension() -> None:
    body = loop(put(Load(A, (const(0), X))))
    verify(kernel(body, A))
    with pytest.raises(LoweringError, match=r"A has shape \(4, 8\), not one dimension"):
        verify(kernel(body, A), flat=True)


def test_parameters_are_checked() -> None:
    with pytest.raises(LoweringError, match="2 outputs of 1 parameters"):
        verify(Kernel("k", (C,), 2, put(ZERO, const(0))))
    with pytest.raises(LoweringError, match="parameter acc has scope register"):
        verify(Kernel("k", (REGISTERS,), 1, Store(REGISTERS, (const(0),), ZERO)))


# --- accesses proved in bounds ------------------------------------------------------------------

XO = Var("xo")
TILE = XO * 16 + X


def tiled(body: Stmt, extent: int = 4) -> Stmt:
    return loop(loop(body, X, 16), XO, extent)


def unproven(body: Stmt, *inputs: Buffer) -> list[str]:
    return [str(u) for u in unproven_accesses(kernel(body, *inputs))]


def test_indices_within_their_loops_are_proved() -> None:
    assert unproven(tiled(put(ZERO, TILE))) == []


def test_an_index_that_may_leave_is_named() -> None:
    (found,) = unproven(tiled(put(ZERO, TILE), extent=5))
    assert found == "C: index xo*16 + x of dimension 0 is 0..79, the extent is 64"
    assert len(unproven(tiled(put(ZERO, TILE - 1)))) == 1


def test_a_guard_bounds_the_index_behind_it() -> None:
    guarded = If(TILE < 60, put(ZERO, TILE + 4))
    assert unproven(tiled(guarded, extent=5)) == []
    assert len(unproven(tiled(If(TILE < 61, put(ZERO, TILE + 4)), extent=5))) == 1


def test_a_guard_bounds_a_flattened_index() -> None:
    guarded = If(Binary(Op.AND, X < 8, XO >= 1), put(ZERO, (XO - 1) * 8 + X))
    assert unproven(loop(loop(guarded, X, 16), XO, 9)) == []


def test_the_other_branch_has_the_opposite() -> None:
    both = If(TILE >= 64, put(ZERO, const(0)), put(ZERO, TILE))
    assert unproven(tiled(both, extent=5)) == []
    wrong = If(TILE < 64, put(ZERO, const(0)), put(ZERO, TILE))
    assert len(unproven(tiled(wrong, extent=5))) == 1


def test_a_select_guards_its_side_only() -> None:
    inside = Binary(Op.AND, X >= 1, X < 65)
    read = Load(FLAT, (X - 1,))
    safe = put(Select(inside, read, ZERO), const(0))
    assert unproven(loop(safe, X, 70), FLAT) == []
    swapped = put(Select(inside, ZERO, read), const(0))
    assert len(unproven(loop(swapped, X, 70), FLAT)) == 1


def test_a_guard_bounds_a_variable_inside_a_quotient() -> None:
    above = If(XO * 2 + X < 6, put(ZERO, X // 2 + 61))
    assert unproven(loop(loop(above), XO)) == []
    assert len(unproven(loop(loop(If(XO * 2 + X < 7, put(ZERO, X // 2 + 61))), XO))) == 1
    below = If(X >= 4, put(ZERO, X // 2 - 2))
    assert unproven(loop(below)) == []
    assert len(unproven(loop(If(X >= 3, put(ZERO, X // 2 - 2))))) == 1
