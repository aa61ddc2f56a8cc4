"""Figures of the machine: that they are made, not how large they are."""

from __future__ import annotations

import math
import os
from pathlib import Path

import pytest

from loopwright.errors import ConfigError
from loopwright.runtime.cpu import machine
from loopwright.runtime.facts import facts


def test_the_peak_is_a_positive_figure(cache_dir: Path) -> None:
    peak = machine.measure_fma_peak(1, cache_dir=cache_dir)

    assert math.isfinite(peak)
    assert peak > 0.1


def test_bandwidth_is_a_positive_figure(cache_dir: Path) -> None:
    figure = machine.measure_bandwidth(1 << 20, cache_dir=cache_dir)

    assert figure.read > 0
    assert figure.triad > 0


def test_noise_is_not_negative(cache_dir: Path) -> None:
    assert machine.noise(cache_dir=cache_dir) >= 0


def test_measuring_leaves_this_thread_where_it_was(cache_dir: Path) -> None:
    before = os.sched_getaffinity(0)
    machine.measure_fma_peak(1, cache_dir=cache_dir)

    assert os.sched_getaffinity(0) == before


def test_more_threads_than_cores_are_refused(cache_dir: Path) -> None:
    with pytest.raises(ConfigError, match="9999 threads on"):
        machine.measure_fma_peak(9999, cache_dir=cache_dir)


def test_an_error_on_a_burst_thread_is_raised() -> None:
    def fail(_: int) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        machine._bursts([min(os.sched_getaffinity(0))], fail)


def test_facts_name_the_machine() -> None:
    found = facts()

    assert found.model
    assert found.cores == os.cpu_count()
    assert found.memory_bytes > 1 << 20
