from __future__ import annotations

import numpy as np
import pytest
from node_cases import agree, compiled, floats, meaning, workload_of
from running import interpreted

import loopwright as lw
from loopwright.errors import ShapeError
from loopwright.te.reference import compare
from loopwright.templates.apply import scheduled


@pytest.mark.parametrize("dtype", ["int64", "int32"])
@pytest.mark.parametrize("indices", [(), (3,), (2, 3)], ids=str)
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_elements_are_gathered_along_an_axis(
    axis: int, indices: tuple[int, ...], dtype: str
) -> None:
    x = floats(5, 6, 17)
    extent = x.shape[axis]
    places = np.random.default_rng(0).integers(-extent, extent, indices)
    places = np.asarray(places).astype(dtype)
    agree("gather", meaning("gather", [x, places], axis=axis), np.take(x, places, axis))
    compiled("gather", [x, places], axis=axis)


@pytest.mark.parametrize("dtype", ["int64", "bool", "float16"])
def test_elements_of_any_dtype_are_gathered(dtype: str) -> None:
    x = (3 * floats(5, 9)).astype(dtype)
    places = np.array([4, -1, 0])
    agree("gather", meaning("gather", [x, places], axis=0), x[places])
    compiled("gather", [x, places], axis=0)


@pytest.mark.parametrize("axis", [0, 1])
def test_elements_are_gathered_one_by_one(axis: int) -> None:
    x = floats(6, 9)
    shape = (20, 9) if axis == 0 else (6, 20)
    places = np.random.default_rng(0).integers(-x.shape[axis], x.shape[axis], shape)
    found = meaning("gather_elements", [x, places], axis=axis)
    agree("gather_elements", found, np.take_along_axis(x, places, axis))
    compiled("gather_elements", [x, places], axis=axis)


def test_places_outside_read_the_nearest_element() -> None:
    x, places = floats(4, 3), np.array([100, -100])
    agree("gather", meaning("gather", [x, places], axis=0), x[[3, 0]])
    compiled("gather", [x, places], axis=0)


@pytest.mark.parametrize(
    ("op", "indices", "message"),
    [
        ("gather", floats(3), "the indices are float32"),
        ("gather_elements", np.zeros((9, 9), np.int64), "must fit"),
        ("gather_elements", np.zeros(3, np.int64), "must fit"),
    ],
)
def test_places_that_do_not_fit_are_refused(op: str, indices: np.ndarray, message: str) -> None:
    with pytest.raises(ShapeError, match=message):
        meaning(op, [floats(4, 5), indices], axis=0)


@pytest.mark.parametrize("op", ["gather", "gather_elements"])
def test_loops_as_written_gather_within_bounds(op: str) -> None:
    places = np.random.default_rng(0).integers(-60, 60, (5, 20))
    arrays = [floats(5, 6), places]
    task = lw.task(workload_of(op, arrays, axis=1))
    for row in task.space.sample(np.random.default_rng(0), 3):
        schedule = scheduled(task, task.space.decode(row))
        (found,) = interpreted(schedule, arrays, flat=True)
        assert compare(task.workload, found, meaning(op, arrays, axis=1)) is None
