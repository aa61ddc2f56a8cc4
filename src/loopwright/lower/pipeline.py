"""The way from a schedule to a kernel that code can be generated from."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from loopwright.ir.kernel import Kernel
from loopwright.ir.verify import verify
from loopwright.lower.cuts import cut_at_borders, partition_copies
from loopwright.lower.flatten import flatten_storage
from loopwright.lower.loops import build_loops
from loopwright.lower.refuse import refuse_loops_in_lanes, refuse_register_misuse
from loopwright.lower.skips import skip_zero_products
from loopwright.sched.schedule import Schedule


@dataclass(frozen=True, slots=True)
class Pass:
    """A named step; `establishes` says what holds after it."""

    name: str
    run: Callable[[Kernel], Kernel]
    establishes: str


PASSES: tuple[Pass, ...] = (
    Pass("skip_zero_products", skip_zero_products, "no sum of products with padding zeros"),
    Pass("partition_copies", partition_copies, "no test for each element of a padded copy"),
    Pass("cut_at_borders", cut_at_borders, "no test in a loop where one cut decides it"),
    Pass("flatten_storage", flatten_storage, "one-dimensional buffers"),
)


def lower(
    schedule: Schedule, name: str | None = None, in_place: Mapping[str, str] | None = None
) -> Kernel:
    """The loop nest of a schedule, indices by dimension: what one reads.

    Args:
        in_place: inputs whose memory is an output's, by name; see `graph/in_place.py`.

    Raises: ScheduleError when the schedule has no meaning as loops.
    """
    kernel = build_loops(schedule, name, in_place)
    refuse_loops_in_lanes(kernel)
    refuse_register_misuse(kernel)
    return kernel


def finish(kernel: Kernel) -> Kernel:
    """The kernel after all passes: what code is generated from, verified."""
    for step in PASSES:
        kernel = step.run(kernel)
    verify(kernel, flat=True)
    return kernel
