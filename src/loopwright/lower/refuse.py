"""Schedules whose steps are each legal, but which make no valid loops together."""

from __future__ import annotations

from loopwright.errors import ScheduleError
from loopwright.ir import walk
from loopwright.ir.expr import Load, Scope
from loopwright.ir.kernel import Kernel
from loopwright.ir.stmt import LoopKind, Store

_FIXED_KINDS = (LoopKind.UNROLLED, LoopKind.VECTORIZED)
_UNORDERED_KINDS = (LoopKind.VECTORIZED, LoopKind.PARALLEL)


def refuse_register_misuse(kernel: Kernel) -> None:
    """Raise ScheduleError when a register buffer is indexed by a loop that stays a loop."""
    fixed = {loop.var.name for loop in walk.loops(kernel.body) if loop.kind in _FIXED_KINDS}
    accesses: tuple[Load | Store, ...] = (*walk.loads(kernel.body), *walk.stores(kernel.body))
    for access in accesses:
        if access.buffer.scope is not Scope.REGISTER:
            continue
        used = [var.name for index in access.indices for var in walk.free_vars(index)]
        loose = [name for name in used if name not in fixed]
        if loose:
            raise ScheduleError(
                f"{kernel.name}: {access.buffer.name} is kept in registers but is indexed by the "
                f"loop {loose[0]}; unroll or vectorize that loop, or set_scope('local')"
            )


def refuse_loops_in_lanes(kernel: Kernel) -> None:
    """Raise ScheduleError when a vectorized loop holds another one, or a parallel one."""
    for lanes in walk.loops(kernel.body):
        if lanes.kind is not LoopKind.VECTORIZED:
            continue
        for inner in walk.loops(lanes.body):
            if inner.kind in _UNORDERED_KINDS:
                raise ScheduleError(
                    f"{kernel.name}: the {inner.kind.value} loop {inner.var.name} is inside the "
                    f"vectorized loop {lanes.var.name}; reorder them, or compute further out"
                )
