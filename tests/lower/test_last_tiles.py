"""The last tile of a loop over elements begins earlier, where it may, and needs no guard then."""

from __future__ import annotations

import pytest
from running import check_compiled, check_interpreted

from loopwright.ir import walk
from loopwright.ir.stmt import If, LoopKind
from loopwright.lower.pipeline import apply_passes, lower
from loopwright.runtime.cpu.kernel import CpuDevice
from loopwright.sched.schedule import Schedule
from loopwright.te import language as te
from loopwright.te.workload import Workload


def scaled(*shape: int) -> Workload:
    a = te.placeholder(shape, name="A")
    return te.workload(te.compute(shape, lambda *i: a[i] * 2.0, name="B"), name="scaled")


def vectorized(of: Workload, lanes: int, vectors: int = 1, *, fused: bool = False) -> Schedule:
    s = Schedule(of)
    stage = s["B"]
    loop = stage.fuse(*stage.loops[-2:]) if fused else stage.loops[-1]
    _, inner = stage.split(loop, lanes * vectors)
    step, lane = stage.split(inner, lanes)
    stage.unroll(step)
    stage.vectorize(lane)
    return s


def masks(schedule: Schedule) -> int:
    """Conditions inside of vectors."""
    kernel = apply_passes(lower(schedule), "cpu")
    lanes = [n for n in walk.loops(kernel.body) if n.kind is LoopKind.VECTORIZED]
    return sum(isinstance(n, If) for loop in lanes for n in walk.visit_stmts(loop.body))


@pytest.mark.parametrize(
    ("shape", "lanes", "vectors", "fused", "masked"),
    [
        ((3, 21), 8, 1, False, 0),
        ((3, 37), 8, 2, False, 0),
        ((2, 9), 8, 1, False, 0),
        ((4, 7, 7), 8, 1, True, 0),
        ((4, 5, 9), 8, 2, True, 0),
        ((3, 5), 8, 1, False, 0),
        ((3, 17), 8, 4, False, 1),
    ],
)
def test_a_last_tile_is_full_when_the_elements_fill_one(
    cpu: CpuDevice, shape: tuple[int, ...], lanes: int, vectors: int, *, fused: bool, masked: int
) -> None:
    schedule = vectorized(scaled(*shape), lanes, vectors, fused=fused)
    assert masks(schedule) == masked
    check_compiled(schedule, cpu)
    check_interpreted(schedule, flat=True)


@pytest.mark.parametrize("tensor", ["A", "B"])
def test_a_last_tile_does_not_cross_blocks(cpu: CpuDevice, tensor: str) -> None:
    schedule = vectorized(scaled(2, 18), 8)
    schedule.set_layout(tensor, [1, 0, (1, 8)])
    assert masks(schedule) == 1
    check_compiled(schedule, cpu)
    check_interpreted(schedule, flat=True)
