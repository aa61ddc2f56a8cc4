from __future__ import annotations

import numpy as np
import pytest

from loopwright.errors import InternalError
from loopwright.learn.dataset import Observations, collect, relative_throughput


def seen(workload: str, ns: list[float]) -> Observations:
    return Observations(workload, np.full((len(ns), 2), len(ns), dtype=np.float32), np.array(ns))


def test_throughput_is_relative_to_the_best_of_the_same_workload() -> None:
    data = collect([seen("a", [4.0, 2.0]), seen("b", [100.0, 50.0, np.inf])])

    assert data.throughput.tolist() == [0.5, 1.0, 0.5, 1.0, 0.0]
    assert data.groups.tolist() == [0, 0, 1, 1, 1]
    assert data.group_sizes.tolist() == [2, 3]
    assert len(data) == len(data.features) == 5


def test_observations_of_one_workload_are_compared_with_each_other() -> None:
    data = collect([seen("a", [4.0]), seen("b", [9.0]), seen("a", [2.0])])

    assert data.throughput.tolist() == [0.5, 1.0, 1.0]
    assert data.groups.tolist() == [0, 0, 1]


def test_failures_alone_are_all_worst() -> None:
    assert relative_throughput(np.array([np.inf, np.inf])).tolist() == [0.0, 0.0]


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(InternalError, match="do not fit together"):
        Observations("a", np.zeros((3, 2), dtype=np.float32), np.ones(2))
    with pytest.raises(InternalError, match="needs observations"):
        collect([])
