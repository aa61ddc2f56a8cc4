"""The cost of a parallel region: that it is measured, and of what; not how large it is."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from loopwright.errors import ConfigError
from loopwright.runtime.cpu.region import measure_region


@pytest.mark.parametrize("threads", [1, 2])
def test_a_region_takes_some_time_and_leaves_this_thread_where_it_was(
    cache_dir: Path, threads: int
) -> None:
    cores = os.sched_getaffinity(0)
    if len(cores) < threads:
        pytest.skip("one core")
    assert measure_region(threads, cache_dir) > 0
    assert os.sched_getaffinity(0) == cores


@pytest.mark.parametrize("threads", [0, 9999])
def test_a_region_on_more_threads_than_cores_is_refused(cache_dir: Path, threads: int) -> None:
    with pytest.raises(ConfigError, match=f"{threads} threads on"):
        measure_region(threads, cache_dir)
