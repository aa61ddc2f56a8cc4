"""A template: programs that compute a workload, as a space of knobs and a schedule over them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from loopwright.sched.schedule import Schedule
from loopwright.space.config import Config, ConfigBatch
from loopwright.space.space import Space
from loopwright.target import Target
from loopwright.te.workload import Workload

Configuration: TypeAlias = Config | ConfigBatch


@dataclass(frozen=True, slots=True)
class Template:
    """How to compute a workload fast, up to the knobs that tuning chooses.

    `space(workload, target)` declares the knobs; `schedule(s, config)` applies a choice of them to
    `s`, a schedule of that workload. The schedule function runs once for a whole batch of configs
    with one
    structure: there split sizes are `Size`s, so it may branch on Choice, Reorder and Annotate knobs
        only. Raise `version` with every change that changes what a config means: records of other
        versions are then left alone. Both functions must be importable from a module, so that a
        template pickles.

    With `any_address`, kernels take plain inputs at any address that their dtype may have, not only
    at multiples of 64: callers then copy nothing, and kernels use unaligned loads.
    """

    name: str
    version: int
    space: Callable[[Workload, Target], Space]
    schedule: Callable[[Schedule, Configuration], None]
    any_address: bool = False
