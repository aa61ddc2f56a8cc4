"""Arrays between row-major memory and a kernel's layouts, by generated code."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from loopwright.layout import Array
from loopwright.runtime.cpu.kernel import BoundCall, Module, aligned_copy
from loopwright.space.config import Config
from loopwright.target.union import Target
from loopwright.templates.apply import good_config
from loopwright.templates.relayout import merged, packing_task
from loopwright.templates.task import Task

Build: TypeAlias = Callable[[Task, Config], Module]


@dataclass(frozen=True, slots=True)
class Relayout:
    """Changes a layout with `module`, which sees fewer dimensions: to that of a kernel (`packs`),
    or back.
    """

    module: Module
    packs: bool

    def into(self, memory: Array, array: Array) -> None:
        """Lay `array`, which is plain, out in `memory`; padding is left as it is."""
        call = self.bound(memory)
        plain = aligned_copy(array, self.plain_alignment)
        call.redirect(0, plain)
        call()

    def bound(self, memory: Array) -> BoundCall:
        """The change into `memory`, or out of it. Redirect the plain side: 0 into it, else 1."""
        nothing = np.empty(0)
        return BoundCall(self.module, (nothing, memory) if self.packs else (memory, nothing))

    @property
    def plain_alignment(self) -> int:
        """Where the plain side may lie, in bytes."""
        return self.module.artifact.params[0 if self.packs else 1].alignment


def relayouts(module: Module, target: Target, threads: int, build: Build) -> dict[str, Relayout]:
    """What changes the layouts of the arguments of `module`, by their names.

    There is none for an argument that is the same memory in both layouts.
    """
    found = {}
    for place, param in enumerate(module.artifact.params):
        shape, layout = merged(param.stored_shape, param.layout)
        if not layout.is_row_major(shape):
            packs = place < len(module.inputs)
            task = packing_task(shape, param.dtype, layout, target, threads=threads, packs=packs)
            found[param.name] = Relayout(build(task, good_config(task)), packs)
    return found
