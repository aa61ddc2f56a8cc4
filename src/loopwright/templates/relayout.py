"""Changes of layout as tasks: copies between row-major memory and a blocked layout.

How a kind of device copies is a template of its own; this module says what is copied.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from loopwright.ir.dtype import DType
from loopwright.layout import Layout, Part
from loopwright.target.union import Target
from loopwright.te.tensor import compute, placeholder
from loopwright.te.workload import Workload, workload
from loopwright.templates.registry import relayout_template
from loopwright.templates.task import Task, make


def copy(shape: Sequence[int], dtype: DType) -> Workload:
    """The workload that copies a tensor."""
    data = placeholder(shape, dtype, "data")
    output = compute(shape, lambda *at: data[at], name="output")
    return workload(output, [data, output], name="relayout")


def packing_task(
    shape: Sequence[int],
    dtype: DType,
    layout: Layout,
    target: Target,
    *,
    threads: int,
    packs: bool,
    before: Layout | None = None,
    alignment: int = 64,
) -> Task:
    """The task of copying a tensor into `layout` (`packs`) or out of it.

    The other side is row-major, or `before`, which is then left to the schedule for `layout`.
    """
    return make(
        copy(shape, dtype),
        relayout_template(target, layout, packs=packs),
        target,
        threads=threads,
        layouts=() if before is None else (("data", before),),
        alignment=alignment,
    )


def change_task(
    shape: Sequence[int],
    dtype: DType,
    before: Layout,
    after: Layout,
    target: Target,
    *,
    threads: int,
    alignment: int,
) -> Task:
    """The task of copying a tensor from one layout into another.

    Its workload has as few dimensions as the change allows.
    """
    packs = not after.is_row_major(shape)
    if packs and not before.is_row_major(shape):
        extents, layout, source = tuple(shape), after, before
    else:
        extents, layout = merged(shape, after if packs else before)
        source = None
    return packing_task(
        extents,
        dtype,
        layout,
        target,
        threads=threads,
        packs=packs,
        before=source,
        alignment=alignment,
    )


def merged(shape: Sequence[int], layout: Layout) -> tuple[tuple[int, ...], Layout]:
    """The same change of layout with as few dimensions as possible.

    Dimensions that stay adjacent become one; dimensions of extent 1 are left out. One dimension is
    kept for a single element.
    """
    blocked = {part.dim for part in layout.parts if part.extent}
    parts = [p for p in layout.parts if shape[p.dim] > 1 or p.dim in blocked]
    if not parts:
        return (1,), Layout.blocked(1, [0])
    order = [p.dim for p in parts]
    dims = sorted(set(order))
    groups: list[list[int]] = []
    for dim in dims:
        last = groups[-1][-1] if groups else None
        if last is not None and not {last, dim} & blocked:
            where = order.index(last)
            if order[where + 1 : where + 2] == [dim]:
                groups[-1].append(dim)
                continue
        groups.append([dim])
    number = {group[0]: n for n, group in enumerate(groups)}
    kept = tuple(Part(number[p.dim], p.stride, p.extent) for p in parts if p.dim in number)
    extents = tuple(math.prod(shape[dim] for dim in group) for group in groups)
    return extents, Layout(kept)
