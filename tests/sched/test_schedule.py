from __future__ import annotations

import pickle

import numpy as np
import pytest

from loopwright.ir.expr import Scope
from loopwright.ir.stmt import LoopKind
from loopwright.sched.extent import Size
from loopwright.sched.schedule import Loop, Schedule, create_schedule
from loopwright.sched.state import At, Inline, Root
from loopwright.te import language as te


@pytest.fixture
def s() -> Schedule:
    a, b = te.placeholder((10, 7), name="A"), te.placeholder((7, 21), name="B")
    k = te.reduce_axis(7, name="k")
    c = te.compute((10, 21), lambda y, x: te.sum(a[y, k] * b[k, x], axis=k), name="C")
    return create_schedule(te.compute((10, 21), lambda y, x: te.maximum(c[y, x], 0.0), name="D"))


def names(loops: tuple[Loop, ...]) -> list[str]:
    return [loop.name for loop in loops]


def extents(loops: tuple[Loop, ...]) -> list[object]:
    return [loop.extent for loop in loops]


def test_a_stage_starts_with_its_axes_reduce_axes_last(s: Schedule) -> None:
    assert names(s["C"].loops) == ["C.y", "C.x", "k"]
    assert extents(s["C"].loops) == [10, 21, 7]


def test_split_gives_the_outer_and_the_inner_loop(s: Schedule) -> None:
    outer, inner = s["C"].split("C.x", 8)
    assert (outer.extent, inner.extent) == (3, 8)
    assert names(s["C"].loops) == ["C.y", "C.x.o", "C.x.i", "k"]


def test_split_by_nparts_rounds_the_factor_up(s: Schedule) -> None:
    outer, inner = s["C"].split("C.x", nparts=4)
    assert (outer.extent, inner.extent) == (4, 6)


def test_a_factor_wider_than_the_loop_makes_one_iteration(s: Schedule) -> None:
    outer, inner = s["C"].split("C.y", 64)
    assert (outer.extent, inner.extent) == (1, 10)


def test_tile_splits_both_and_puts_the_outer_loops_first(s: Schedule) -> None:
    tile = s["C"].tile("C.y", "C.x", 5, 7)
    assert names(tile) == ["C.y.o", "C.x.o", "C.y.i", "C.x.i"]
    assert names(s["C"].loops) == ["C.y.o", "C.x.o", "C.y.i", "C.x.i", "k"]


def test_fuse_joins_any_number_of_loops() -> None:
    k = te.reduce_axis(2)
    a = te.placeholder((2, 3, 4, 2), name="A")
    three = te.compute((2, 3, 4), lambda x, y, z: te.sum(a[x, y, z, k], axis=k), name="T")
    schedule = create_schedule(three)
    fused = schedule["T"].fuse(*three.axis)
    assert fused.extent == 24
    assert names(schedule["T"].loops) == [fused.name, "k"]


def test_names_of_new_loops_are_new() -> None:
    odd = te.reduce_axis(4, name="k.o")
    plain = te.reduce_axis(6, name="k")
    a = te.placeholder((6, 4), name="A")
    total = te.compute((), lambda: te.sum(a[plain, odd], axis=(plain, odd)), name="T")
    schedule = create_schedule(total)
    outer, inner = schedule["T"].split(plain, 2)
    assert (outer.name, inner.name) == ("k.o'", "k.i")
    schedule["T"].reorder(outer, inner, odd)
    first = schedule["T"].fuse(outer, inner)
    assert schedule["T"].fuse(first, odd).extent == 24


def test_reorder_leaves_the_other_loops_where_they_are(s: Schedule) -> None:
    s["C"].reorder("k", "C.y")
    assert names(s["C"].loops) == ["k", "C.x", "C.y"]


def test_loops_are_named_by_axes_loops_or_text(s: Schedule) -> None:
    c = s.tensor("C")
    outer, _ = s["C"].split(c.axis[0], 2)
    s["C"].split(c.reduce_axis[0], 2)
    s["C"].unroll(outer)
    s["C"].parallel("C.x")
    assert dict(s.state.stages["C"].kinds) == {
        "C.y.o": LoopKind.UNROLLED,
        "C.x": LoopKind.PARALLEL,
    }


def test_attach_points_replace_each_other(s: Schedule) -> None:
    assert s.state.stages["C"].attach == Root()
    s["C"].compute_at(s["D"], "D.y")
    assert s.state.stages["C"].attach == At("D", "D.y")
    s["C"].compute_at(s.tensor("D"), "D.x")
    assert s.state.stages["C"].attach == At("D", "D.x")
    s["C"].compute_root()
    assert s.state.stages["C"].attach == Root()


def test_inline_marks_the_stage() -> None:
    a = te.placeholder((4,), name="A")
    b = te.compute((4,), lambda i: a[i] * 2.0, name="B")
    schedule = create_schedule(te.compute((4,), lambda i: b[i] + 1.0, name="C"))
    schedule[b].compute_inline()
    assert schedule.state.stages["B"].attach == Inline()


def test_a_cache_is_a_stage_with_loops_of_its_own(s: Schedule) -> None:
    copy = s.cache_read("A", ["C"])
    assert copy.name == "A.local"
    assert list(s.state.stages) == ["A.local", "C", "D"]
    assert names(s[copy].loops) == ["A.local.i0", "A.local.i1"]
    assert extents(s[copy].loops) == [10, 7]
    assert s.state.stages["A.local"].scope is Scope.LOCAL
    assert s.state.readers("A.local") == ("C",)
    assert s.state.readers("A") == ("A.local",)


def test_cache_write_moves_the_reduction(s: Schedule) -> None:
    cache = s.cache_write("C", "global")
    assert names(s[cache].loops) == ["C.global.y", "C.global.x", "k"]
    assert names(s["C"].loops) == ["C.y", "C.x"]
    assert s.state.readers("C") == ("D",)
    assert s.state.readers("C.global") == ("C",)


def test_a_layout_is_the_last_one_set(s: Schedule) -> None:
    s.set_layout("D", [1, 0])
    s.set_layout("D", [0, 1, (1, 16)])
    assert str(s.layout("D")) == "AB16b"
    assert s.layout("A").is_plain


def test_batched_factors_give_batched_extents(s: Schedule) -> None:
    outer, inner = s["C"].split("C.x", Size(np.array([4, 7, 64])))
    assert isinstance(outer.extent, Size)
    assert isinstance(inner.extent, Size)
    assert outer.extent.values.tolist() == [6, 3, 1]
    assert inner.extent.values.tolist() == [4, 7, 21]
    assert outer == s["C"].loops[1]


def test_steps_can_be_pickled(s: Schedule) -> None:
    s["C"].split("C.y", 4)
    s.set_layout("C", [0, 1, (1, 8)])
    again = pickle.loads(pickle.dumps(s.steps))
    assert [type(step) for step in again] == [type(step) for step in s.steps]


def test_a_schedule_prints_its_steps(s: Schedule) -> None:
    s["C"].vectorize("C.x")
    s["C"].compute_at("D", "D.y")
    assert str(s) == "vectorize C C.x\ncompute C at D in D.y"


def test_a_schedule_is_made_of_a_workload_a_tensor_or_tensors() -> None:
    a = te.placeholder((4,), name="A")
    b = te.compute((4,), lambda i: a[i] * 2.0, name="B")
    c = te.compute((4,), lambda i: a[i] * 3.0, name="C")
    made = [create_schedule(te.workload([b, c])), create_schedule([b, c])]
    assert [[t.name for t in s.workload.outputs] for s in made] == [["B", "C"]] * 2
    assert list(create_schedule(b).state.stages) == ["B"]
