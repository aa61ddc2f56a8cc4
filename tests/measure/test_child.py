"""How a child tells its server, and what a damaged message is worth."""

from __future__ import annotations

import ctypes
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import loopwright.measure.server
from loopwright.measure.child import Area, failure
from loopwright.measure.types import FailureKind, Stage
from loopwright.measure.wire import RunReply

TOKEN = bytes(range(16))
REPLY = RunReply(ns=(12.5, 13.0))


def test_a_reply_is_told_whole() -> None:
    area = Area()
    area.tell(TOKEN, REPLY)

    assert area.told(TOKEN) == REPLY


def test_nothing_told_is_nothing() -> None:
    area = Area()

    assert area.told(TOKEN) is None
    assert area.stage is Stage.LOAD


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
    area.reach(Stage.RUN)
    area.tell(TOKEN, REPLY)
    ctypes.c_int64.from_address(area.report).value = 11
    area.clear()

    assert area.told(TOKEN) is None
    assert area.stage is Stage.LOAD
    assert area.fault.signal == 0


def test_a_failure_is_one_bounded_line() -> None:
    reply = failure(Stage.RUN, FailureKind.CRASH, "a\nb  c" + "x" * 1000)

    assert reply.detail.startswith("a b c")
    assert len(reply.detail) <= 500


def test_the_measuring_process_imports_no_compiler() -> None:
    root = Path(loopwright.measure.server.__file__).parents[2]
    script = (
        f"import sys; sys.path.insert(0, {str(root)!r}); import loopwright.measure.server; "
        "print(*sorted(m for m in sys.modules if m.startswith('loopwright.')))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    packages = {name.split(".")[1] for name in done.stdout.split()}

    assert packages <= {"errors", "settings", "layout", "runtime", "measure"}


@pytest.mark.parametrize("stage", [Stage.LOAD, Stage.RUN])
def test_the_stage_is_what_was_reached(stage: Stage) -> None:
    area = Area()
    area.reach(stage)

    assert area.stage is stage
