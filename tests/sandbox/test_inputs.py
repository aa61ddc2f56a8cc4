"""Input data: equal everywhere, in range, independent of each other."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from loopwright.errors import UnsupportedError
from loopwright.ir import dtype as dtypes
from loopwright.sandbox.inputs import STORAGE, generate

NAMES = sorted(STORAGE)
RANGES = {"bool": (0, 1), "uint": (0, 8), "int": (-4, 4), "float": (-1, 1)}


def limits(name: str) -> tuple[int, int]:
    return next(RANGES[key] for key in ("bool", "uint", "int", "float") if key in name)


def test_every_dtype_has_data_of_its_size() -> None:
    assert {t.name: t.nbytes for t in dtypes.ALL} == {n: d.itemsize for n, d in STORAGE.items()}


@given(
    name=st.sampled_from(NAMES),
    shape=st.lists(st.integers(0, 5), max_size=3),
    seed=st.integers(0, 2**32),
    index=st.integers(0, 9),
)
def test_data_is_a_function_of_its_arguments(
    name: str, shape: list[int], seed: int, index: int
) -> None:
    first = generate(name, shape, seed, index)

    assert first.shape == tuple(shape)
    assert first.dtype == STORAGE[name]
    np.testing.assert_array_equal(first, generate(name, shape, seed, index))


@pytest.mark.parametrize("name", NAMES)
def test_values_fill_their_range(name: str) -> None:
    data = generate(name, (4000,), 1, 0)
    values = (data.view(ml_dtypes.bfloat16) if name == "bfloat16" else data).astype(np.float64)
    low, high = limits(name)

    assert low <= values.min() < low + 0.1 * (high - low)
    assert high - 0.1 * (high - low) < values.max() <= high


@pytest.mark.parametrize("other", [(2, 0), (1, 1)])
def test_other_seeds_and_arguments_get_other_data(other: tuple[int, int]) -> None:
    assert not np.array_equal(generate("float32", (9,), 1, 0), generate("float32", (9,), *other))


def test_an_unknown_dtype_is_refused() -> None:
    with pytest.raises(UnsupportedError, match="no input data for dtype 'float8'"):
        generate("float8", (1,), 0, 0)
