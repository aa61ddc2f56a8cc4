"""Guarded memory, as seen without faulting."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from loopwright.errors import EnvironmentFailure
from loopwright.sandbox.guard import GUARD_BYTES, GuardedRegion, Place, allocate


@pytest.fixture
def region() -> Iterator[GuardedRegion]:
    made = allocate("y", 1000)
    yield made
    made.free()


@given(nbytes=st.integers(0, 20_000))
def test_data_is_aligned_and_ends_within_a_vector_of_the_guard(nbytes: int) -> None:
    region = allocate("y", nbytes)
    end = region.base + region.total - GUARD_BYTES
    slack = end - (region.data + nbytes)
    region.view[:] = 7
    region.arm()
    intact = region.broken() is None and bool(np.all(region.view == 7))
    region.free()

    assert region.data % 64 == 0
    assert 0 <= slack < 64
    assert intact


@given(nbytes=st.integers(1, 5000), offset=st.integers(-6000, 6000))
def test_a_place_says_on_which_side_an_address_is(nbytes: int, offset: int) -> None:
    region = allocate("y", nbytes)
    place = region.place(region.data + offset)
    region.free()

    inside = Place.INSIDE if offset < nbytes else Place.PAST
    assert place is (Place.BEFORE if offset < 0 else inside)


def test_an_address_of_nobody_is_elsewhere(region: GuardedRegion) -> None:
    assert region.place(0) is Place.ELSEWHERE
    assert region.place(region.base + region.total) is Place.ELSEWHERE


@pytest.mark.parametrize(
    ("offset", "sentence"),
    [(1000, "wrote 1 bytes past the end of y"), (-1, "wrote 1 bytes before the start of y")],
)
def test_a_changed_canary_is_told(region: GuardedRegion, offset: int, sentence: str) -> None:
    region.arm()
    neighbour = GuardedRegion("z", region.base, region.total, region.data + offset, 1)
    neighbour.view[:] = 0

    assert region.broken() == sentence


def test_a_frozen_region_is_still_read(region: GuardedRegion) -> None:
    region.view[:] = 3
    region.freeze()

    assert np.all(region.view == 3)


def test_more_than_there_can_be_is_refused() -> None:
    with pytest.raises(EnvironmentFailure, match=r"mmap of \d+ bytes failed"):
        allocate("y", 1 << 60)
