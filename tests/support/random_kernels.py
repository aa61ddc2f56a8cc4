"""Random kernels, and a plain walk over their loops that computes what they say.

Values are small integers held in float32, so every result is exact whatever is contracted.
"""

from __future__ import annotations

import operator
from collections.abc import Callable

import numpy as np
from hypothesis import strategies as st

from loopwright.ir.dtype import F32, I64
from loopwright.ir.expr import Binary, Buffer, Cast, Const, Expr, Load, Op, Scope, Select, Var
from loopwright.ir.kernel import Kernel
from loopwright.ir.stmt import Alloc, Block, For, If, LoopKind, Stmt, Store, block
from loopwright.target.union import Target

SIZE = 24
A = Buffer("A", F32, (SIZE,))
KINDS = tuple(LoopKind)
OPS: dict[Op, Callable[..., object]] = {
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
Memory = dict[Buffer, np.ndarray]


def value(expr: Expr, env: dict[str, int], memory: Memory) -> object:
    match expr:
        case Const(value=constant):
            return constant
        case Var(name=name):
            return env[name]
        case Binary(op=op, lhs=lhs, rhs=rhs):
            return OPS[op](value(lhs, env, memory), value(rhs, env, memory))
        case Select(cond=cond, yes=yes, no=no):
            return value(yes if value(cond, env, memory) else no, env, memory)
        case Cast(value=inner):
            return float(value(inner, env, memory))
        case Load(buffer=buffer, indices=(index,)):
            at = value(index, env, memory)
            assert 0 <= at < buffer.size, "the random kernel itself is wrong"
            return float(memory[buffer][at])
    raise TypeError(expr)


def execute(stmt: Stmt, env: dict[str, int], memory: Memory) -> None:
    match stmt:
        case For(var=var, extent=extent, body=body):
            for i in range(extent):
                execute(body, {**env, var.name: i}, memory)
        case If(cond=cond, then=then, otherwise=otherwise):
            side = then if value(cond, env, memory) else otherwise
            if side is not None:
                execute(side, env, memory)
        case Store(buffer=buffer, indices=(index,), value=stored):
            memory[buffer][value(index, env, memory)] = value(stored, env, memory)
        case Alloc(buffer=buffer, body=body):
            execute(body, env, {**memory, buffer: np.zeros(buffer.size, np.float32)})
        case Block(stmts=stmts):
            for inner in stmts:
                execute(inner, env, memory)


@st.composite
def indices(draw: st.DrawFn, names: tuple[Var, ...], depth: int = 3) -> Expr:
    """An int64 expression of `names`, anywhere between about -1000 and 1000."""
    if depth == 0 or draw(st.booleans()):
        leaf = draw(st.sampled_from([*names, None]))
        return Const(draw(st.integers(-5, 9)), I64) if leaf is None else leaf
    op = draw(
        st.sampled_from([Op.ADD, Op.SUB, Op.MUL, Op.FLOORDIV, Op.FLOORMOD, Op.MIN, Op.MAX, None])
    )
    lhs = draw(indices(names, depth - 1))
    if op is None:
        cond = draw(conditions(names, depth - 1))
        return Select(cond, lhs, draw(indices(names, depth - 1)))
    if op in (Op.FLOORDIV, Op.FLOORMOD):
        return Binary(op, lhs, Const(draw(st.sampled_from([1, 2, 3, 4, 6, 8])), I64))
    if op is Op.MUL:
        return Binary(op, lhs, Const(draw(st.integers(-3, 4)), I64))
    return Binary(op, lhs, draw(indices(names, depth - 1)))


@st.composite
def conditions(draw: st.DrawFn, names: tuple[Var, ...], depth: int = 2) -> Expr:
    if depth > 0 and draw(st.integers(0, 3)) == 0:
        op = draw(st.sampled_from([Op.AND, Op.OR]))
        return Binary(op, draw(conditions(names, depth - 1)), draw(conditions(names, depth - 1)))
    op = draw(st.sampled_from([Op.LT, Op.LE, Op.GT, Op.GE, Op.EQ, Op.NE]))
    return Binary(op, draw(indices(names, depth)), Const(draw(st.integers(-3, 20)), I64))


@st.composite
def values(draw: st.DrawFn, names: tuple[Var, ...], depth: int = 2) -> Expr:
    """A float32 expression of loads and variables; integers of moderate size."""
    kind = draw(st.integers(0, 6 if depth else 2))
    if kind == 0:
        return Const(float(draw(st.integers(-3, 3))), F32)
    if kind == 1:
        inside = Binary(Op.FLOORMOD, draw(indices(names)), Const(SIZE, I64))
        return Load(A, (inside,))
    if kind == 2:  # a load that is out of bounds where it is not chosen
        at = draw(indices(names))
        bounds = Binary(Op.AND, Binary(Op.GE, at, Const(0, I64)), at < SIZE)
        other = draw(values(names, 0)) if depth else Const(2.0, F32)
        return Select(bounds, Load(A, (at,)), other)
    if kind == 3:
        cond = draw(conditions(names))
        return Select(cond, draw(values(names, depth - 1)), draw(values(names, depth - 1)))
    if kind == 4:
        return Cast(F32, draw(indices(names, 1)))
    op = draw(st.sampled_from([Op.ADD, Op.SUB, Op.MUL, Op.MIN, Op.MAX]))
    return Binary(op, draw(values(names, depth - 1)), draw(values(names, depth - 1)))


@st.composite
def nests(draw: st.DrawFn) -> Kernel:
    """Loops of any kind around an accumulation in a register, stored where a condition holds."""
    count = draw(st.integers(1, 3))
    loops = tuple(Var(f"i{d}") for d in range(count))
    extents = [draw(st.integers(1, 7)) for _ in loops]
    kinds = [draw(st.sampled_from(KINDS)) for _ in loops]
    out = Buffer("out", F32, (int(np.prod(extents)),))
    at: Expr = Const(0, I64)
    for var, extent in zip(loops, extents, strict=True):
        at = at * extent + var
    k = Var("k")
    acc = Buffer("acc", F32, (1,), draw(st.sampled_from([Scope.REGISTER, Scope.LOCAL])))
    zero = Const(0, I64)
    add: Stmt = Store(acc, (zero,), Load(acc, (zero,)) + draw(values((*loops, k))))
    if draw(st.booleans()):
        otherwise = Store(acc, (zero,), Load(acc, (zero,)) - 1.0) if draw(st.booleans()) else None
        add = If(draw(conditions((*loops, k))), add, otherwise)
    reduce = For(k, draw(st.integers(1, 4)), draw(st.sampled_from([KINDS[0], KINDS[3]])), add)
    write: Stmt = Store(out, (at,), Load(acc, (zero,)) + Load(out, (at,)))
    if draw(st.booleans()):
        write = If(draw(conditions(loops)), write)
    body: Stmt = Alloc(acc, block(Store(acc, (zero,), Const(1.0, F32)), reduce, write))
    for var, extent, kind in reversed(list(zip(loops, extents, kinds, strict=True))):
        body = For(var, extent, kind, body)
    return Kernel("nest", (A, out), 1, body)


@st.composite
def tiles(draw: st.DrawFn) -> Kernel:
    """A register tile: begun, updated in loops, stored; each in vector loops with any guard."""
    lanes, rows = draw(st.sampled_from([2, 4, 8, 16, 5])), draw(st.integers(1, 3))
    o, k = Var("o"), Var("k")
    outer = draw(st.integers(1, 3))
    acc = Buffer("acc", F32, (rows * lanes,), Scope.REGISTER)
    out = Buffer("out", F32, (outer * rows * lanes,))

    def tile(tag: str, make: Callable[[Expr, tuple[Var, ...]], Stmt]) -> Stmt:
        row, lane = Var("r" + tag), Var("l" + tag)
        inner = make(row * lanes + lane, (o, row, lane))
        if draw(st.integers(0, 2)) == 0:
            inner = If(draw(conditions((o, row, lane))), inner)
        vector = For(lane, lanes, LoopKind.VECTORIZED, inner)
        return For(row, rows, LoopKind.UNROLLED, vector)

    def update(at: Expr, names: tuple[Var, ...]) -> Stmt:
        factors = draw(values((*names, k), 1)), draw(values((o, names[1], k), 1))
        return Store(acc, (at,), Load(acc, (at,)) + factors[0] * factors[1])

    begin = For(
        Var("rb"),
        rows,
        LoopKind.UNROLLED,
        For(
            Var("lb"),
            lanes,
            LoopKind.VECTORIZED,
            Store(acc, (Var("rb") * lanes + Var("lb"),), Const(1.0, F32)),
        ),
    )
    middle = tile("u", update)
    if draw(st.booleans()):
        middle = If(draw(conditions((o, k))), middle)
    kind = draw(st.sampled_from([LoopKind.SERIAL, LoopKind.UNROLLED]))
    middle = For(k, draw(st.integers(1, 3)), kind, middle)
    end = tile("s", lambda at, _: Store(out, (o * (rows * lanes) + at,), Load(acc, (at,))))
    body = Alloc(acc, block(begin, middle, end))
    kind = draw(st.sampled_from([LoopKind.SERIAL, LoopKind.PARALLEL, LoopKind.UNROLLED]))
    return Kernel("tile", (A, out), 1, For(o, outer, kind, body))


def check(
    run: Callable[..., tuple[np.ndarray, ...]], kernel: Kernel, target: Target, **how: object
) -> None:
    a, out = arguments(kernel)
    (got,) = run(kernel, a, out, target=target, threads=2, **how)
    assert got.tolist() == expected(kernel).tolist(), str(kernel)


def arguments(kernel: Kernel) -> tuple[np.ndarray, np.ndarray]:
    """The input, and what the output holds before."""
    a = np.random.default_rng(0).integers(-4, 5, SIZE).astype(np.float32)
    return a, np.arange(kernel.params[1].size, dtype=np.float32)


def expected(kernel: Kernel) -> np.ndarray:
    """What a plain walk over the loops computes."""
    a, out = arguments(kernel)
    memory = {A: a, kernel.params[1]: out}
    execute(kernel.body, {}, memory)
    return memory[kernel.params[1]]
