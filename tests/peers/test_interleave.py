from __future__ import annotations

from collections.abc import Callable

import pytest

from loopwright.peers.interleave import ContenderTiming, interleave


def test_contenders_take_turns_and_every_other_round_goes_backwards() -> None:
    order: list[str] = []

    def contender(name: str) -> Callable[[], tuple[float, ...]]:
        def time() -> tuple[float, ...]:
            order.append(name)
            return (float(len(order)),)

        return time

    timings = interleave({"a": contender("a"), "b": contender("b")}, rounds=3)
    assert order == ["a", "b", "b", "a", "a", "b"]
    assert timings == {"a": ContenderTiming((1.0, 4.0, 5.0)), "b": ContenderTiming((2.0, 3.0, 6.0))}


def test_a_contender_that_cannot_tell_is_left_out() -> None:
    assert list(interleave({"a": lambda: (1.0,), "b": lambda: ()}, rounds=2)) == ["a"]


def test_a_timing_says_its_median_its_best_and_its_spread() -> None:
    timing = ContenderTiming((4.0, 1.0, 2.0, 3.0, 5.0))
    assert (timing.median_ns, timing.best_ns) == (3.0, 1.0)
    assert timing.spread == pytest.approx(2 / 3)
    assert ContenderTiming((7.0,)).spread == 0.0
