from __future__ import annotations

import pickle

from loopwright.ir import dtype as dt
from loopwright.ir import walk
from loopwright.ir.expr import Binary, Buffer, Call, Const, Expr, Fn, Load, Op, Select, Var, const
from loopwright.ir.printer import show, show_stmt
from loopwright.ir.stmt import Alloc, For, If, LoopKind, Store, block

A = Buffer("A", dt.F32, (64,))
B = Buffer("B", dt.F32, (64,))
X, Y = Var("x"), Var("y")


def nest() -> For:
    store = Store(B, (X,), Load(A, (X + Y,)))
    guarded = If(X < Y, store, Store(B, (Y,), const(0, dt.F32)))
    return For(Y, 4, LoopKind.PARALLEL, For(X, 8, LoopKind.SERIAL, guarded))


def deep_sum(terms: int) -> Expr:
    total = Load(A, (const(0),))
    for n in range(1, terms):
        total = total + Load(A, (const(n % 64),))
    return total


def test_rewrite_that_changes_nothing_returns_the_same_node() -> None:
    expr = Select(X < Y, Load(A, (X,)), deep_sum(5))
    assert walk.rewrite_expr(expr, lambda e: e) is expr
    stmt = nest()
    assert walk.rewrite(stmt, lambda s: s) is stmt
    assert walk.rewrite_exprs(stmt, lambda e: walk.rewrite_expr(e, lambda n: n)) is stmt


def test_rewrite_shares_what_it_does_not_change() -> None:
    left, right = Load(A, (X,)), Load(A, (Y,))
    changed = walk.substitute(left + right, {"y": const(3)})
    assert isinstance(changed, Binary)
    assert changed.lhs is left
    assert show(changed) == "A[x] + A[3]"


def test_rewrite_visits_children_before_parents() -> None:
    seen = []
    walk.rewrite_expr(X * 2 + Y, lambda e: (seen.append(show(e)), e)[1])
    assert seen == ["x", "2", "x*2", "y", "x*2 + y"]


def test_walks_reach_the_bottom_of_trees_that_are_thousands_deep() -> None:
    deep = deep_sum(5000)
    assert len(walk.loads(deep)) == 5000
    assert walk.same(deep, deep_sum(5000))
    assert not walk.same(deep, deep_sum(4999))
    assert show(deep).count("+") == 4999
    doubled = walk.rewrite_expr(deep, lambda e: const(1) if isinstance(e, Const) else e)
    assert walk.same(walk.loads(doubled)[0], Load(A, (const(1),)))
    tower = Store(B, (X,), const(0, dt.F32))
    for n in range(3000):
        tower = Alloc(Buffer(f"t{n}", dt.F32, (1,)), tower)
    assert len(walk.allocs(tower)) == 3000
    assert walk.rewrite(tower, lambda s: s) is tower
    assert show_stmt(tower).count("alloc") == 3000


def test_substitute_reaches_indices_conditions_and_values() -> None:
    inner = nest().body.body
    text = show_stmt(walk.substitute(inner, {"x": Var("z") * 4}))
    assert text == ("if z*4 < y:\n    B[z*4] = A[z*4 + y]\nelse:\n    B[y] = 0.0")


def test_substitute_buffers_moves_loads_stores_and_allocations() -> None:
    moved = Buffer("C", dt.F32, (64,))
    stmt = Alloc(B, block(nest(), Store(A, (const(0),), Load(B, (const(1),)))))
    text = show_stmt(walk.substitute_buffers(stmt, {B: moved}))
    assert "B" not in text
    assert text.count("C[") == 3
    assert "alloc C:" in text


def test_free_vars_are_those_no_loop_binds() -> None:
    assert [v.name for v in walk.free_vars(nest())] == []
    assert [v.name for v in walk.free_vars(nest().body)] == ["y"]
    assert [v.name for v in walk.free_vars(nest().body.body)] == ["x", "y"]


def test_loads_stores_and_loops_come_in_order() -> None:
    stmt = nest()
    assert [show(load) for load in walk.loads(stmt)] == ["A[x + y]"]
    assert [store.buffer.name for store in walk.stores(stmt)] == ["B", "B"]
    assert [loop.var.name for loop in walk.loops(stmt)] == ["y", "x"]


def test_visit_is_pre_order() -> None:
    kinds = [type(n).__name__ for n in walk.visit(If(X < Y, Store(B, (X,), Load(A, (Y,)))))]
    assert kinds == ["If", "Binary", "Var", "Var", "Store", "Var", "Load", "Var"]


def test_same_sees_every_difference() -> None:
    base = nest()
    assert walk.same(base, nest())
    assert walk.same(base, pickle.loads(pickle.dumps(base)))
    for old, new in [
        (LoopKind.PARALLEL, LoopKind.SERIAL),
        (LoopKind.SERIAL, LoopKind.UNROLLED),
    ]:
        other = walk.rewrite(
            base,
            lambda s, old=old, new=new: (
                For(s.var, s.extent, new, s.body) if isinstance(s, For) and s.kind is old else s
            ),
        )
        assert not walk.same(base, other)
    assert not walk.same(const(0.0, dt.F32), const(-0.0, dt.F32))
    assert walk.same(const(float("nan"), dt.F32), const(float("nan"), dt.F32))
    assert not walk.same(const(1), const(1, dt.I32))
    assert not walk.same(X + Y, Binary(Op.SUB, X, Y))
    assert not walk.same(Load(A, (X,)), Load(B, (X,)))
    assert not walk.same(If(X < Y, base), If(X < Y, base, base))
    assert not walk.same(-X, Call(Fn.ABS, (X,)))
