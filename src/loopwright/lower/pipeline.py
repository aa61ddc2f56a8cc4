"""The passes from a schedule to a kernel that code can be generated from."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from loopwright.errors import LoweringError
from loopwright.ir import walk
from loopwright.ir.kernel import Kernel
from loopwright.ir.verify import verify
from loopwright.lower.cuts import cut_at_borders, partition_copies
from loopwright.lower.flatten import flatten_storage
from loopwright.lower.loops import build_loops
from loopwright.lower.refuse import refuse_loops_in_lanes, refuse_register_misuse
from loopwright.lower.skips import skip_zero_products
from loopwright.sched.schedule import Schedule
from loopwright.trace import PassRun

Watch: TypeAlias = Callable[[PassRun], None]


@dataclass(frozen=True, slots=True)
class Pass:
    """A named step.

    `establishes` says what holds after it and after every later pass: on such a kernel the pass has
    nothing more to do, which is how `require_established` checks it.
    """

    name: str
    run: Callable[[Kernel], Kernel]
    establishes: str


PORTABLE: tuple[Pass, ...] = (
    Pass("flatten_storage", flatten_storage, "buffers have one dimension"),
)
"""The passes that every kind of target needs."""
_CPU: tuple[Pass, ...] = (
    Pass("skip_zero_products", skip_zero_products, "no padding zero is added up that a test skips"),
    Pass("partition_copies", partition_copies, "no element of a padded copy is tested in a loop"),
    Pass("cut_at_borders", cut_at_borders, "no small loop has a test that one cut decides"),
    *PORTABLE,
)
_PASSES: Mapping[str, tuple[Pass, ...]] = {"cpu": _CPU}


def passes(kind: str) -> tuple[Pass, ...]:
    """The passes for targets of `kind`, in order; the portable ones for a kind without a row."""
    return _PASSES.get(kind, PORTABLE)


def lower(
    schedule: Schedule, name: str | None = None, in_place: Mapping[str, str] | None = None
) -> Kernel:
    """The loop nest of a schedule, one index per dimension: the readable form.

    Args:
        in_place: inputs whose memory is an output's, by name; see `graph/in_place.py`.

    Raises: ScheduleError when the schedule has no meaning as loops.
    """
    kernel = build_loops(schedule, name, in_place)
    refuse_loops_in_lanes(kernel)
    refuse_register_misuse(kernel)
    return kernel


def apply_passes(
    kernel: Kernel, kind: str, watch: Watch | None = None, *, check: bool = False
) -> Kernel:
    """The kernel after all passes for targets of `kind`: what code is generated from, verified.

    Args:
        watch: called with the initial kernel and after each pass.
        check: also verify the kernel, and what has been established, after each pass.

    Raises: LoweringError for a kernel that is not well formed.
    """
    steps = passes(kind)
    if watch is not None:
        watch(PassRun(kernel.name, 0, "lower", "", str(kernel), 0))
    for number, step in enumerate(steps, 1):
        kernel = step.run(kernel) if watch is None else _watched(step, number, kernel, watch)
        if check:
            require_established(kernel, steps[:number])
    verify(kernel, flat=True)
    return kernel


def require_established(kernel: Kernel, done: Sequence[Pass]) -> None:
    """Check that `kernel` is well formed and still has what the passes in `done` established.

    Raises: LoweringError naming the kernel and the pass.
    """
    verify(kernel)
    for step in done:
        if not walk.same(step.run(kernel).body, kernel.body):
            raise LoweringError(
                f"kernel {kernel.name}: after {done[-1].name} it does not hold that "
                f"{step.establishes}: {step.name} finds more to do"
            )


def _watched(step: Pass, number: int, kernel: Kernel, watch: Watch) -> Kernel:
    start = time.perf_counter_ns()
    made = step.run(kernel)
    ns = time.perf_counter_ns() - start
    watch(PassRun(kernel.name, number, step.name, str(kernel), str(made), ns))
    return made
