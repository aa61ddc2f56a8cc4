"""The least time that a kernel can take: arithmetic over what the cores of its target can do.

It is a bound for honest kernels with room to spare, so that a time below it was not measured. Only
steps of reductions count, and only those that no kernel can leave out.
"""

from __future__ import annotations

import math

from loopwright.ir import walk
from loopwright.ir.expr import Reduce, Select
from loopwright.outcome import Failed, FailureKind, FailureStage, Timed
from loopwright.target.cpu import CpuTarget
from loopwright.te.tensor import Compute, Tensor
from loopwright.te.workload import Workload
from loopwright.templates.task import Task

CYCLES_A_NS = 6.0
ROOM = 16.0
"""For other algorithms (Winograd needs a fifth of the products) and for units that a target does
not say it has (a matrix unit does eight times what vectors of bytes do).
"""


def too_fast(task: Task, timed: Timed, threads: int) -> Failed | None:
    """The failure of a kernel of `task` whose time is below what is possible, None if it is not."""
    if not isinstance(task.target, CpuTarget):
        return None
    steps = least_steps(task.workload)
    least = steps / (ROOM * threads * steps_a_ns(task.target))
    if timed.best_ns >= least:
        return None
    detail = (
        f"{timed.best_ns:.4g} ns for {steps} steps of arithmetic is not possible: they take "
        f"{least:.4g} ns at least on {threads} cores of {task.target.name}"
    )
    return Failed(FailureStage.RUN, FailureKind.IMPOSSIBLE_TIME, detail, timed.where)


def steps_a_ns(target: CpuTarget) -> float:
    """Steps of reductions that a core does in a nanosecond, at most: one per byte of its units."""
    return target.core.fma_ports * target.vector_bits / 8 * CYCLES_A_NS


def least_steps(workload: Workload) -> int:
    """Steps of the workload's reductions that no kernel can leave out."""
    return sum(_steps(tensor) for tensor in workload.stages)


def _steps(tensor: Tensor) -> int:
    """Steps of one stage. A choice lets a kernel leave out any; what lies on padding may go too."""
    op = tensor.op
    if not isinstance(op, Compute) or not isinstance(op.body, Reduce) or _chooses(op):
        return 0
    term = op.body.body
    used = {var.name for var in walk.free_vars(term)}
    extents = [n for var, n in zip(op.axes, tensor.shape, strict=True) if var.name in used]
    extents += [axis.extent for axis in op.reduce_axes if axis.var.name in used]
    sources = {id(load.buffer): load.buffer for load in walk.loads(term)}
    share = math.prod(_data(s) for s in sources.values() if isinstance(s, Tensor))
    return int(math.prod(extents) * share)


def _data(tensor: Tensor) -> float:
    """Which share of a stage is not padding."""
    if not isinstance(tensor.op, Compute) or not _chooses(tensor.op):
        return 1.0
    inputs = [load.buffer.size for load in walk.loads(tensor.op.body)]
    return min(1.0, min(inputs, default=0) / max(tensor.size, 1))


def _chooses(op: Compute) -> bool:
    return any(isinstance(node, Select) for node in walk.visit(op.body))
