"""How a child tells its server, and what a damaged message is worth."""

from __future__ import annotations

import ctypes
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

import loopwright.sandbox.server
from loopwright.kernel_call import Clock, KernelCall
from loopwright.outcome import FailureKind, FailureStage
from loopwright.runtime.device import CallTiming
from loopwright.sandbox.child import Area, failure, times
from loopwright.sandbox.wire import RunReply

TOKEN = bytes(range(16))
REPLY = RunReply(ns=(12.5, 13.0))


def test_a_reply_is_told_whole() -> None:
    area = Area()
    area.tell(TOKEN, REPLY)

    assert area.told(TOKEN) == REPLY


def test_nothing_told_is_nothing() -> None:
    area = Area()

    assert area.told(TOKEN) is None
    assert area.stage is FailureStage.LOAD


def test_a_reply_of_another_child_does_not_count() -> None:
    area = Area()
    area.tell(TOKEN, REPLY)

    assert area.told(bytes(16)) is None


@given(at=st.integers(64, 64 + 24 + 10), change=st.integers(1, 255))
def test_a_damaged_reply_does_not_count(at: int, change: int) -> None:
    area = Area()
    area.tell(TOKEN, REPLY)
    byte = ctypes.c_ubyte.from_address(area.report + at)
    byte.value ^= change

    assert area.told(TOKEN) is None


def test_clearing_forgets_the_last_child() -> None:
    area = Area()
    area.reach(FailureStage.RUN)
    area.tell(TOKEN, REPLY)
    ctypes.c_int64.from_address(area.report).value = 11
    area.clear()

    assert area.told(TOKEN) is None
    assert area.stage is FailureStage.LOAD
    assert area.fault.signal == 0


def test_a_failure_is_one_bounded_line() -> None:
    reply = failure(FailureStage.RUN, FailureKind.CRASH, "a\nb  c" + "x" * 1000)

    assert reply.detail.startswith("a b c")
    assert len(reply.detail) <= 500


def test_the_measuring_process_imports_no_compiler() -> None:
    root = Path(loopwright.sandbox.server.__file__).parents[2]
    script = (
        f"import sys; sys.path.insert(0, {str(root)!r}); import loopwright.sandbox.server; "
        "print(*sorted(m for m in sys.modules if m.startswith('loopwright.')))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    packages = {name.split(".")[1] for name in done.stdout.split()}

    assert packages <= {
        *("errors", "settings", "layout", "weights", "outcome", "plugins"),
        *("fields", "kernel_call", "runtime", "sandbox"),
    }


@pytest.mark.parametrize("stage", [FailureStage.LOAD, FailureStage.RUN])
def test_the_stage_is_what_was_reached(stage: FailureStage) -> None:
    area = Area()
    area.reach(stage)

    assert area.stage is stage


class Kernel:
    """A kernel that takes `ns` a call by its own clock, ten times that in `disturbed` batches."""

    def __init__(self, ns: int, disturbed: frozenset[int] = frozenset(), first_ns: int = 0) -> None:
        self.ns = ns
        self.disturbed = disturbed
        self.first_ns = first_ns or ns
        self.counts: list[int] = []

    def __call__(self, count: int) -> CallTiming:
        index = len(self.counts)
        self.counts.append(count)
        if index == 0:
            return CallTiming(self.first_ns, 1)
        slow = index in self.disturbed
        return CallTiming(self.ns * count * (10 if slow else 1), count, slow)


PLAN = KernelCall(
    id=0,
    code=bytes(32),
    entry="k",
    params=(),
    n_outputs=0,
    workspace=0,
    threads=1,
    seed=0,
    want_output=False,
    warmup=1,
    repeats=3,
    min_repeat_us=1000,
    run_timeout_ms=1000,
    run_memory=1,
)


def test_batches_last_as_long_as_was_asked() -> None:
    kernel = Kernel(ns=300)

    assert times(kernel, PLAN) == (300.0, 300.0, 300.0)
    assert all(count * 300 >= 1_000_000 for count in kernel.counts[1:])


def test_a_slow_kernel_is_called_once_a_batch() -> None:
    kernel = Kernel(ns=5_000_000)

    assert times(kernel, PLAN) == (5e6, 5e6, 5e6)
    assert kernel.counts == [1, 1, 1, 1]


def test_a_cold_first_call_does_not_shorten_the_batches() -> None:
    kernel = Kernel(ns=100, first_ns=1_000_000)

    assert times(kernel, PLAN) == (100.0, 100.0, 100.0)
    assert kernel.counts[-1] * 100 >= 1_000_000


def test_warm_up_calls_are_made() -> None:
    kernel = Kernel(ns=5_000_000)
    times(kernel, msgspec.structs.replace(PLAN, warmup=4))

    assert len(kernel.counts) == 4 + 3


def test_a_disturbed_batch_is_taken_again() -> None:
    kernel = Kernel(ns=5_000_000, disturbed=frozenset({1, 3}))

    assert times(kernel, PLAN) == (5e6, 5e6, 5e6)
    assert len(kernel.counts) == 1 + 3 + 2


def test_a_kernel_that_is_always_disturbed_is_still_timed() -> None:
    kernel = Kernel(ns=5_000_000, disturbed=frozenset(range(1, 100)))

    assert times(kernel, PLAN) == (5e7, 5e7, 5e7)
    assert len(kernel.counts) == 1 + 2 * 3


def test_a_second_call_over_the_limit_is_the_figure() -> None:
    kernel = Kernel(ns=4000, first_ns=9000)

    assert times(kernel, msgspec.structs.replace(PLAN, abandon_ns=3999.0)) == (4000.0,)
    assert kernel.counts == [1, 1]


def test_a_slow_first_call_alone_condemns_nobody() -> None:
    kernel = Kernel(ns=100, first_ns=4000)

    assert set(times(kernel, msgspec.structs.replace(PLAN, abandon_ns=3999.0))) == {100.0}


def test_a_clock_that_counts_cycles_is_read_once() -> None:
    kernel = Kernel(ns=300)

    assert times(kernel, PLAN, Clock.CYCLES) == (300.0,)
    assert kernel.counts == [1]
