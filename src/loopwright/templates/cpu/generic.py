"""The template of every workload that is not a contraction: fits all, fast without tuning.

Elementwise chains, pools, softmax and norms, reductions, transposes, concatenations, gathers,
in any layouts that the task fixes.
"""

from __future__ import annotations

import math

from loopwright.ir.dtype import F32
from loopwright.ir.expr import Reduce
from loopwright.sched.nest import inline_all
from loopwright.sched.schedule import Schedule
from loopwright.space.config import Config
from loopwright.space.knobs import ChoiceKnob
from loopwright.space.space import Space
from loopwright.target.union import Target
from loopwright.te.tensor import Tensor
from loopwright.te.workload import Workload
from loopwright.templates.cpu.nests import Wishes, nest_root
from loopwright.templates.cpu.parts import REDUCED, TensorReach, parts_of, touches
from loopwright.templates.cpu.placement import Placement, inlined_stages, place
from loopwright.templates.template import Configuration, Template

GRAIN = 20_000
"""Simple operations below which threads cost more than they save."""


def space(workload: Workload, target: Target) -> Space:
    """The knobs: lanes, the vectors or columns of a tile, and how much work is worth threads."""
    lanes = _lanes(workload, target)
    options = tuple(dict.fromkeys(n for n in (lanes, lanes // 2) if n > 1)) or (1,)
    return Space(
        (
            ChoiceKnob("lanes", options),
            ChoiceKnob("tile", (4, 1, 2, 6)),
            ChoiceKnob("grain", (GRAIN, 0, GRAIN // 4, GRAIN * 16)),
        )
    )


def default(workload: Workload, target: Target) -> Config:
    """The config to use without tuning."""
    return Config.of({"lanes": _lanes(workload, target), "tile": 4, "grain": GRAIN})


def _lanes(workload: Workload, target: Target) -> int:
    """Lanes of the dtype that matters: float32 if there is any."""
    dtypes = [t.dtype for t in (*workload.args, *workload.stages)]
    wide = F32 if F32 in dtypes else max(dtypes, key=lambda d: d.bits)
    return max(1, min(target.lanes(wide), 32))


def schedule(s: Schedule, config: Configuration) -> None:
    """Inline cheap stages, split reductions along contiguous memory, give every stage its loops."""
    wishes = Wishes(config.integer("lanes"), config.integer("tile"), config.integer("grain"))
    inlined = inlined_stages(s.workload)
    for tensor in s.workload.stages:
        if tensor.name in inlined:
            s[tensor].compute_inline()
    split = _split_reductions(s, place(s), wishes)
    placement = place(s)
    _follow_layouts(s, placement)
    for name in placement.roots:
        nest_root(s, placement, name, wishes, split)


def _split_reductions(s: Schedule, placement: Placement, wishes: Wishes) -> frozenset[str]:
    """Split each reduction whose inputs are contiguous in memory, unlike its elements.

    Returns: the names of the stages that fold parts.
    """
    split: set[str] = set()
    for name, stage in inline_all(s.state).stages.items():
        tensor = stage.tensor
        body = stage.op.body
        if not isinstance(body, Reduce):
            continue
        parts = _parts(body, wishes.lanes)
        along = _along_home(s, placement, name)
        if parts and _runs_along_fold(s, tensor, along, wishes.lanes):
            split.add(s.split_reduction(name, parts).name)
    return frozenset(split)


def _parts(body: Reduce, lanes: int) -> int:
    """How many parts a reduction gets when it is split; 0 where it is too short."""
    total = math.prod(axis.extent for axis in body.axes)
    if lanes < 2 or total < 2 * lanes:
        return 0
    return lanes * (4 if total >= 32 * lanes else 2 if total >= 8 * lanes else 1)


def _along_home(s: Schedule, placement: Placement, name: str) -> int | None:
    """The axis of `name` that runs along the lanes of the stage it is computed in, if any."""
    attached = placement.attached.get(name)
    home = s.tensor(name if attached is None else attached.home)
    layout = s.layout(home.name)
    shape = layout.physical_shape(home.shape)
    wide = [p.dim for p, extent in zip(layout.parts, shape, strict=True) if extent > 1]
    if not wide:
        return None
    if attached is None:
        return wide[-1]
    return attached.axes.index(wide[-1]) if wide[-1] in attached.axes else None


def _runs_along_fold(s: Schedule, tensor: Tensor, along: int | None, lanes: int) -> bool:
    """True when the largest tensor read is contiguous along the reduce axes, not along `along`."""
    bodies = (inline_all(s.state).stages[tensor.name].op.body,)
    parts = parts_of(s, tensor, bodies)
    found = touches(s, tensor, parts, bodies, lanes)
    reads = found.reaches[1:]
    if not reads:
        return False
    largest = max(reads, key=lambda r: r.size)
    if largest.stride(f"{REDUCED}.l") != 1:
        return False
    lane = [p.name for p in parts if p.dim == along and p.extent > 1]
    return not lane or not _dense(largest, lane[-1])


def _dense(reach: TensorReach, name: str) -> bool:
    return reach.stride(name) in (0, 1)


def _follow_layouts(s: Schedule, placement: Placement) -> None:
    """Store stages at root between blocked arguments in the layout of those."""
    arguments = [s.layout(t.name) for t in s.workload.args]
    blocked = [layout for layout in arguments if not layout.is_plain]
    for name in placement.roots:
        tensor = s.tensor(name)
        if s.state.is_output(name) or name in s.state.layouts:
            continue
        for layout in blocked:
            if layout.ndim == tensor.ndim and all(
                tensor.shape[p.dim] >= p.stride * p.extent for p in layout.parts if p.extent
            ):
                s.set_layout(name, layout.order)
                break


TEMPLATE = Template("generic", 1, space, schedule, default=default)
