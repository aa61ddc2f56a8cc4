"""Loops are cut where conditions on elements change, and compute what they did."""

from __future__ import annotations

import numpy as np
import pytest
from running import check_compiled, check_interpreted

from loopwright.ir import walk
from loopwright.ir.expr import Select
from loopwright.ir.stmt import If, LoopKind
from loopwright.lower import cuts
from loopwright.lower.pipeline import apply_passes, lower
from loopwright.runtime.cpu.kernel import CpuDevice
from loopwright.sched.schedule import Schedule
from loopwright.te import language as te
from loopwright.te.workload import Workload


def window(extent: int, pad: int) -> Workload:
    """The maximum of three neighbours, minus infinity around."""
    a = te.placeholder((extent,), name="A")
    k = te.reduce_axis(3, "k")

    def body(i: object) -> object:
        at = i + k - pad
        inside = te.all(at >= 0, at < extent)
        return te.max(te.if_then_else(inside, a[at], te.float_min()), axis=k)

    return te.workload(te.compute((extent + 2 * pad - 2,), body, name="B"), name="window")


def joined(*channels: int) -> Workload:
    """Tensors of so many channels and 6 columns, joined, then doubled."""
    parts = [te.placeholder((c, 6), name=f"A{n}") for n, c in enumerate(channels)]

    def body(c: object, x: object) -> object:
        value = parts[0][c, x]
        begin = channels[0]
        for part, count in zip(parts[1:], channels[1:], strict=True):
            value = te.if_then_else(c < begin, value, part[c - begin, x])
            begin += count
        return value * 2.0

    return te.workload(te.compute((sum(channels), 6), body, name="B"), name="joined")


def selects(schedule: Schedule) -> int:
    kernel = apply_passes(lower(schedule), "cpu")
    return sum(isinstance(node, Select) for node in walk.visit(kernel.body))


def tiled(of: Workload, by: int) -> Schedule:
    s = Schedule(of)
    _, inner = s["B"].split(s["B"].loops[0], by)
    s["B"].reorder(*s["B"].loops[:1], "k", inner)
    s["B"].unroll(inner)
    s["B"].unroll("k")
    return s


@pytest.mark.parametrize(("extent", "pad", "by"), [(40, 1, 4), (33, 2, 8), (5, 1, 2), (64, 1, 1)])
def test_a_window_is_computed_as_before(cpu: CpuDevice, extent: int, pad: int, by: int) -> None:
    schedule = tiled(window(extent, pad), by)
    check_compiled(schedule, cpu)
    check_interpreted(schedule, flat=True)


def test_the_middle_of_a_window_has_no_test() -> None:
    kernel = apply_passes(lower(tiled(window(40, 1), 4)), "cpu")
    loops = [n for n in walk.loops(kernel.body) if n.kind is LoopKind.SERIAL and n.extent > 2]
    assert [n.extent for n in loops] == [8]
    assert not any(isinstance(node, Select) for node in walk.visit(loops[0]))


def test_a_test_on_an_outer_loop_is_made_in_front_of_the_inner_one(cpu: CpuDevice) -> None:
    schedule = Schedule(joined(3, 5, 2))
    schedule["B"].parallel(schedule["B"].loops[0])
    assert selects(schedule) == 0
    assert any(
        isinstance(node, If) for node in walk.visit(apply_passes(lower(schedule), "cpu").body)
    )
    check_compiled(schedule, cpu)


def test_a_joined_axis_is_cut_where_parts_meet(cpu: CpuDevice) -> None:
    schedule = Schedule(joined(8, 16, 8))
    outer, inner = schedule["B"].split(schedule["B"].loops[0], 8)
    schedule["B"].reorder(outer, *schedule["B"].loops[2:], inner)
    schedule["B"].vectorize(inner)
    kernel = apply_passes(lower(schedule), "cpu")
    assert not any(isinstance(node, Select | If) for node in walk.visit(kernel.body))
    check_compiled(schedule, cpu)


def test_large_bodies_are_not_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuts, "MAX_COST", 1)
    kernel = apply_passes(lower(tiled(window(40, 1), 4)), "cpu")
    assert [n.extent for n in walk.loops(kernel.body) if n.kind is LoopKind.SERIAL] == [10]
    assert any(isinstance(node, Select) for node in walk.visit(kernel.body))


@pytest.mark.parametrize("seed", range(12))
def test_random_conditions_keep_their_meaning(cpu: CpuDevice, seed: int) -> None:
    rng = np.random.default_rng(seed)
    coeffs = [int(c) for c in rng.integers(-3, 4, 2)]
    limits = [int(c) for c in rng.integers(-12, 30, 2)]
    a = te.placeholder((9, 14), name="A")

    def body(y: object, x: object) -> object:
        low = y * coeffs[0] + x * coeffs[1]
        inside = te.any(low < limits[0], te.all(low >= limits[1], y < 4))
        return te.if_then_else(inside, a[y, x], 3.0) + 1.0

    schedule = Schedule(te.workload(te.compute((9, 14), body, name="B"), name="random"))
    y, x = schedule["B"].loops
    outer, _ = schedule["B"].split(x, int(rng.integers(1, 6)))
    if seed % 2:
        schedule["B"].reorder(outer, y)
    check_compiled(schedule, cpu)
    check_interpreted(schedule, flat=True)
