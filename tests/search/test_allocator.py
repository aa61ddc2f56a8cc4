from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loopwright.search.allocator import Progress, expected_gain, next_task

FLOPS = 1_000_000


def flat(n: int, ns: float = 20_000.0, count: int = 1, **more: bool | int) -> Progress:
    return Progress(count, FLOPS, (ns,) * n, **more)  # type: ignore[arg-type]  # fields by name


def falling(n: int, ns: float = 20_000.0, share: float = 0.99) -> Progress:
    return Progress(1, FLOPS, tuple(ns * share ** (i - n + 1) for i in range(n)))


def test_every_task_is_warmed_up_first_the_coldest_before_others() -> None:
    tasks = [flat(16, count=1000), flat(3), flat(5, waiting=4), flat(4)]

    assert next_task(tasks, warm_up=16) == 1
    assert next_task([flat(16), flat(16)], warm_up=16) is not None


def test_a_task_that_the_model_runs_often_comes_before_its_like() -> None:
    assert next_task([flat(64), flat(64, count=3), flat(64)], warm_up=16, peak_gflops=100) == 1


def test_a_task_that_still_improves_comes_before_one_that_does_not() -> None:
    assert next_task([flat(64), falling(64)], warm_up=16, peak_gflops=100) == 1


def test_a_task_at_the_peak_has_nothing_to_gain() -> None:
    done = flat(64, ns=FLOPS / 100)

    assert expected_gain(done, 100) == 0
    assert next_task([done, flat(600)], warm_up=16, peak_gflops=100) == 1


def test_a_longer_task_comes_before_a_shorter_one() -> None:
    short = Progress(1, FLOPS // 10, (2_000.0,) * 64)

    assert next_task([short, flat(64)], warm_up=16, peak_gflops=100) == 1


def test_trials_are_spread_as_hope_fades() -> None:
    given_out = [16, 16]
    for _ in range(200):
        tasks = [flat(given_out[0]), flat(given_out[1], count=2)]
        chosen = next_task(tasks, warm_up=16, peak_gflops=100)
        assert chosen is not None
        given_out[chosen] += 1

    assert given_out[1] == pytest.approx(2 * given_out[0], rel=0.1)


def test_closed_tasks_get_nothing() -> None:
    assert next_task([flat(4, open=False), flat(50)], warm_up=16) == 1
    assert next_task([flat(4, open=False)], warm_up=16) is None
    assert next_task([], warm_up=16) is None


def test_a_task_on_which_nothing_worked_does_not_eat_the_budget() -> None:
    hopeless = Progress(1, FLOPS, (math.inf,) * 40)

    assert next_task([hopeless, flat(40)], warm_up=16, peak_gflops=100) == 1


@given(
    st.lists(st.floats(1e3, 1e9) | st.just(math.inf), min_size=0, max_size=40),
    st.integers(1, 50),
    st.integers(0, 9),
    st.floats(0.1, 1e4),
)
def test_gains_are_finite_and_never_negative(
    times: list[float], count: int, waiting: int, peak: float
) -> None:
    best = [min(times[: i + 1]) for i in range(len(times))]
    gain = expected_gain(Progress(count, FLOPS, best, waiting), peak)

    assert math.isfinite(gain)
    assert gain >= 0
