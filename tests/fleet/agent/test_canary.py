"""Whether a slow-down is seen soon, and noise is not taken for one."""

from __future__ import annotations

import numpy as np
import pytest

from loopwright.errors import InternalError
from loopwright.fleet.agent.canary import BASELINE_RUNS, Canary

ALLOWED = 0.05
SEEDS = 400


def warm(rng: np.random.Generator, noise: float) -> Canary:
    canary = Canary(ALLOWED)
    for _ in range(BASELINE_RUNS):
        canary.observe(noisy(rng, noise))
    return canary


def noisy(rng: np.random.Generator, noise: float) -> float:
    """A run of the canary: noise only ever adds."""
    return 250_000.0 * (1 + abs(rng.normal(0, noise)))


def runs_until_off(seed: int, slow: float, noise: float, limit: int) -> int | None:
    rng = np.random.default_rng(seed)
    canary = warm(rng, noise)
    for number in range(limit):
        if canary.observe(noisy(rng, noise) * (1 + slow)):
            return number + 1
    return None


def test_a_slow_down_of_five_percent_is_seen_within_20_runs() -> None:
    assert all(runs_until_off(seed, 0.05, 0.01, 20) is not None for seed in range(SEEDS))


def test_noise_of_one_percent_is_no_alarm() -> None:
    alarms = sum(runs_until_off(seed, 0.0, 0.01, 20) is not None for seed in range(SEEDS))

    assert alarms <= SEEDS // 100


def test_one_disturbed_run_is_no_alarm() -> None:
    canary = warm(np.random.default_rng(0), 0.0)

    assert not canary.observe(1e9)
    assert canary.drift > 1000


def test_an_alarm_ends_when_the_device_is_as_it_was() -> None:
    canary = warm(np.random.default_rng(0), 0.0)
    while not canary.observe(300_000.0):
        pass

    assert [canary.observe(250_000.0) for _ in range(3)] == [True, True, False]


@pytest.mark.parametrize("ns", [1.0, 250_000.0, 1e9])
def test_nothing_is_off_when_nothing_is_allowed(ns: float) -> None:
    canary = Canary(0.0)

    assert not any(canary.observe(ns) for _ in range(20))


def test_a_device_that_was_hot_at_first_is_judged_by_what_it_takes_since() -> None:
    canary = warm(np.random.default_rng(0), 0.0)  # 250 us, hot
    runs = 0
    while canary.baseline_ns > 200_000.0:
        assert not canary.observe(200_000.0)
        runs += 1
        assert runs <= 20

    assert canary.gained == pytest.approx(0.2)
    assert canary.drift == 0.0
    assert any(canary.observe(215_000.0) for _ in range(20))  # as slow as this was good before


def test_runs_that_are_faster_by_chance_are_no_baseline() -> None:
    for seed in range(SEEDS):
        rng = np.random.default_rng(seed)
        canary = warm(rng, 0.01)
        for _ in range(20):
            canary.observe(noisy(rng, 0.01))
        assert canary.gained == 0.0


def test_a_boost_for_some_runs_is_no_baseline() -> None:
    canary = warm(np.random.default_rng(0), 0.0)
    for _ in range(6):
        canary.observe(200_000.0)
    for _ in range(20):
        canary.observe(250_000.0)

    assert (canary.baseline_ns, canary.gained) == (250_000.0, 0.0)


@pytest.mark.parametrize("ns", [0.0, -1.0, float("nan"), float("inf")])
def test_what_is_no_time_is_refused(ns: float) -> None:
    with pytest.raises(InternalError, match="a canary run of"):
        Canary(ALLOWED).observe(ns)
