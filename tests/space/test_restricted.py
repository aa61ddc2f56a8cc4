from __future__ import annotations

import numpy as np
import pytest

from loopwright.errors import ConfigError
from loopwright.space.knobs import ChoiceKnob, SplitKnob
from loopwright.space.restricted import RestrictedSpace
from loopwright.space.space import Space

FULL = Space([SplitKnob("a", 64, 3), ChoiceKnob("b", (1, 2, 3, 4)), ChoiceKnob("c", (False, True))])


@pytest.fixture
def few() -> RestrictedSpace:
    points = FULL.enumerate()
    return RestrictedSpace(FULL, np.random.default_rng(0).permutation(points)[:40])


def test_only_the_listed_points_are_valid(few: RestrictedSpace) -> None:
    every = FULL.enumerate()
    listed = set(few.keys(few.points).tolist())

    assert few.valid(every).tolist() == [key in listed for key in few.keys(every).tolist()]
    assert few.cardinality == 40
    assert few.refusal(few.points[0]) is None
    assert few.refusal(every[~few.valid(every)][0]) == "it is not one of the listed points"


def test_samples_and_neighbours_stay_inside_and_move(few: RestrictedSpace) -> None:
    rng = np.random.default_rng(1)
    points = few.sample(rng, 300)
    moved = few.neighbour(rng, points)

    assert few.valid(points).all()
    assert few.valid(moved).all()
    assert (moved != points).any(axis=1).all()


def test_enumerate_is_the_points_in_order(few: RestrictedSpace) -> None:
    listed = few.enumerate()

    assert (np.diff(few.keys(listed).astype(np.int64)) > 0).all()
    assert set(few.keys(listed).tolist()) == set(few.keys(few.points).tolist())
    with pytest.raises(ConfigError, match="more than the 10"):
        few.enumerate(10)


def test_nothing_and_twice_are_refused() -> None:
    with pytest.raises(ConfigError, match="at least one"):
        RestrictedSpace(FULL, np.empty((0, 3), dtype=np.int64))
    with pytest.raises(ConfigError, match="twice"):
        RestrictedSpace(FULL, np.zeros((2, 3), dtype=np.int64))
