from __future__ import annotations

import operator
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from loopwright.errors import ScheduleError, TemplateError
from loopwright.sched.extent import Size, ceildiv, extent, size_of

SIZES = Size(np.array([3, 4, 9]))


@pytest.mark.parametrize(
    "branch",
    [
        lambda s: 1 if s else 2,
        lambda s: s == 4,
        lambda s: s != 4,
        lambda s: s in (4, 5),
        lambda s: s < 4,
        lambda s: s <= 4,
        lambda s: min(s, 4),
        lambda s: not s,
        lambda s: range(s),
        lambda s: int(s),
        lambda s: float(s),
        lambda s: {s: 1},
        lambda s: [10, 20, 30, 40][s],
    ],
)
def test_a_template_cannot_branch_on_a_size(branch: Callable[[Size], object]) -> None:
    with pytest.raises(TemplateError, match=r"branched on a tile size .* branch on a Choice"):
        branch(SIZES)


@given(
    st.sampled_from([operator.add, operator.sub, operator.mul, operator.floordiv, operator.mod]),
    st.lists(st.integers(1, 50), min_size=1, max_size=5),
    st.integers(1, 50),
)
def test_sizes_compute_as_integers_do(
    op: Callable[[object, object], Size], values: list[int], other: int
) -> None:
    sizes = Size(np.array(values))
    assert op(sizes, other).values.tolist() == [op(v, other) for v in values]
    assert op(other, sizes).values.tolist() == [op(other, v) for v in values]
    assert op(sizes, sizes).values.tolist() == [op(v, v) for v in values]
    assert (-sizes).values.tolist() == [-v for v in values]


def test_an_extent_is_an_int_or_the_values_of_a_size() -> None:
    assert extent(4) == 4
    assert extent(np.int64(4)) == 4
    assert type(extent(np.int64(4))) is int
    assert extent(SIZES) is SIZES.values
    assert size_of(4) == 4
    assert isinstance(size_of(SIZES.values), Size)


@pytest.mark.parametrize("size", [2.5, 2.0, "4", None])
def test_a_size_that_is_no_integer_is_refused(size: object) -> None:
    with pytest.raises(ScheduleError, match="is not an integer"):
        extent(size)


def test_a_size_shows_its_first_values() -> None:
    assert repr(SIZES) == "Size([3, 4, 9])"
    assert repr(Size(np.arange(9))) == "Size([0, 1, 2, 3, ...])"


def test_ceildiv_rounds_up() -> None:
    assert [ceildiv(n, 4) for n in (1, 4, 5, 8, 9)] == [1, 1, 2, 2, 3]
    assert ceildiv(10, np.array([3, 4, 5])).tolist() == [4, 3, 2]
