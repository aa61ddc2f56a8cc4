"""Which inputs of a kernel its output may take the memory of.

An output may lie in the memory of an input if, for each element, the kernel reads that element of
the input alone, and nothing of it once the element is written: every way from the output to the
input goes through elementwise stages at the same place. That holds for any schedule, since such
stages are computed before what reads them, and the output, which is then lowered to be computed
once an element, last.
"""

from __future__ import annotations

from loopwright.graph.layouts import Chosen
from loopwright.ir import walk
from loopwright.ir.expr import Var
from loopwright.te.tensor import Compute, Tensor
from loopwright.te.workload import Workload
from loopwright.templates.apply import scheduled


def overwritable(chosen: Chosen) -> tuple[int, ...]:
    """The places of the inputs in whose memory the only output of a kernel may lie."""
    schedule = scheduled(chosen.task, chosen.config)
    workload = schedule.workload
    if len(workload.outputs) != 1:
        return ()
    (output,) = workload.outputs
    same = _read_in_place(workload)
    layout = schedule.layout(output.name)
    return tuple(
        place
        for place, tensor in enumerate(workload.inputs)
        if tensor.name in same
        and tensor.dtype == output.dtype
        and tensor.name not in workload.constants
        and schedule.layout(tensor.name) == layout
    )


def _read_in_place(workload: Workload) -> set[str]:
    """The inputs of which an element of the output depends on the same element alone."""
    (output,) = workload.outputs
    stages = {tensor.name: tensor for tensor in workload.stages}
    same, elsewhere, todo = {output.name}, set[str](), [output]
    while todo:
        stage = todo.pop()
        for name, is_same in _reads(stage, output.shape):
            kept = is_same and stage.name in same and stage.name not in elsewhere
            known = same if kept else elsewhere
            if name not in known:
                known.add(name)
                if name in stages:
                    todo.append(stages[name])
    return {t.name for t in workload.inputs if t.name in same and t.name not in elsewhere}


def _reads(stage: Tensor, shape: tuple[int, ...]) -> list[tuple[str, bool]]:
    """What a stage reads, and whether it reads its own element of a tensor of `shape`."""
    if not isinstance(stage.op, Compute):
        return []
    own = tuple(axis.name for axis in stage.axis)
    elementwise = not stage.is_reduction and stage.shape == shape
    found = []
    for load in walk.loads(stage.op.body):
        at = tuple(index.name if isinstance(index, Var) else "" for index in load.indices)
        found.append((load.buffer.name, elementwise and at == own))
    return found
