from __future__ import annotations

import itertools

from loopwright.codegen.llvm.builder import FunctionText
from loopwright.codegen.llvm.reuse import LEAST, SLACK, ReuseWindow


def test_the_least_recently_used_value_goes_first() -> None:
    window = ReuseWindow(32)
    for key in range(LEAST):
        window.keep(key, 1, 32)
    assert window.use(0)
    window.keep("new", 1, 32)
    assert window.use(0)
    assert not window.use(1)


def test_fewer_accumulators_leave_room_for_more_values() -> None:
    window = ReuseWindow(32)
    for key in range(40):
        window.keep(key, 2, 4)
    kept = [key for key in range(40) if window.use(key)]
    assert len(kept) == (32 - 4 + SLACK) // 2


def test_a_fence_parts_two_loads_of_one_value_in_one_block() -> None:
    window, text = ReuseWindow(32), FunctionText(itertools.count())
    window.before_load("x", text)
    assert not text.lines
    window.before_load("x", text)
    assert len(text.lines) == 1
    assert "fence" in text.lines[0]
    window.before_load("y", text)
    text.label("next")
    window.before_load("x", text)
    assert len(text.lines) == 2


def test_a_value_that_is_loaded_again_takes_its_room_once() -> None:
    """Behind a branch a value is out of reach: it is loaded anew while it counts as kept."""
    window = ReuseWindow(32)
    for _ in range(10 * LEAST):
        window.keep("weight", 1, 32)
    window.keep("other", 1, 32)
    assert window.use("weight")
