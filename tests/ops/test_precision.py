"""Functions of floats are right to a few units in the last place, near 0 and far from it.

The oracle is NumPy in twice as many digits, with formulas of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from node_cases import workload_of

import loopwright as lw
from loopwright.build.compile import compile_config
from loopwright.layout import Array
from loopwright.ops.attributes import NodeAttr
from loopwright.runtime.cpu.kernel import CpuDevice, Module
from loopwright.templates.apply import good_config

Wide = npt.NDArray[np.longdouble]
COUNT = 16
BOUND = 4.0
"""Units in the last place."""
VANISHING = {"float32": 2.0**-120, "float64": 2.0**-1000}
"""Where exp may take less as 0: an error of a few units of this is rounding."""


def below_zero(x: Wide, alpha: float) -> Wide:
    return np.where(x > 0, x, alpha * np.expm1(np.minimum(x, 0)))


def softplus(x: Wide) -> Wide:
    return np.logaddexp(x, np.longdouble(0))


FUNCTIONS: Mapping[str, tuple[Callable[[Wide], Wide], Mapping[str, NodeAttr]]] = {
    "exp": (np.exp, {}),
    "expm1": (np.expm1, {}),
    "log": (np.log, {}),
    "log1p": (np.log1p, {}),
    "sqrt": (np.sqrt, {}),
    "reciprocal": (lambda x: 1 / x, {}),
    "sinh": (np.sinh, {}),
    "cosh": (np.cosh, {}),
    "tanh": (np.tanh, {}),
    "sigmoid": (lambda x: 1 / (1 + np.exp(-x)), {}),
    "softplus": (softplus, {}),
    "softsign": (lambda x: x / (1 + abs(x)), {}),
    "mish": (lambda x: x * np.tanh(softplus(x)), {}),
    "silu": (lambda x: x / (1 + np.exp(-x)), {}),
    "elu": (lambda x: below_zero(x, 1.5), {"alpha": 1.5}),
    "selu": (lambda x: 1.25 * below_zero(x, 1.5), {"alpha": 1.5, "gamma": 1.25}),
    "celu": (lambda x: np.where(x > 0, x, 0.5 * np.expm1(np.minimum(x, 0) / 0.5)), {"alpha": 0.5}),
}
SPECIAL = (0.0, -0.0, np.inf, -np.inf, np.nan, 0.5, -0.5, 88.0, -80.0, 89.2, -89.2, 1e30, -1e30)
TINY = st.floats(-1, 1, width=32).map(lambda x: x * 1e-6)
VALUES = (
    st.sampled_from(SPECIAL)
    | st.floats(-85, 85, width=32)
    | st.floats(-1, 1, width=32)
    | TINY
    | st.floats(width=32)
)
COLUMNS = st.lists(VALUES, min_size=COUNT, max_size=COUNT)


@pytest.fixture(scope="module")
def kernels() -> Iterator[Callable[[str, str], Module]]:
    with CpuDevice() as device:
        made: dict[tuple[str, str], Module] = {}

        def kernel(op: str, dtype: str) -> Module:
            if (op, dtype) not in made:
                workload = workload_of(op, (np.zeros(COUNT, dtype),), **FUNCTIONS[op][1])
                task = lw.task(workload)
                made[op, dtype] = device.module(compile_config(task, good_config(task)))
            return made[op, dtype]

        yield kernel


def ulps(found: Array, wanted: Wide) -> Array:
    """How far each number is off, in units in the last place of `wanted` rounded."""
    rounded = wanted.astype(found.dtype)
    same = (found == rounded) | (np.isnan(found) & np.isnan(rounded))
    least = np.asarray(VANISHING[found.dtype.name], found.dtype)
    unit = np.maximum(np.spacing(np.abs(rounded)).astype(np.longdouble), least)
    off: Array = np.where(same, 0, np.abs(found.astype(np.longdouble) - wanted) / unit)
    return off


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("op", FUNCTIONS)
@settings(deadline=None, max_examples=30)
@example(values=[*SPECIAL, 1e-7, -1e-7, 3e-4])
@example(values=[-1e-3, 1e-20, -1e-20, -0.1, 0.3, -15.0, -17.0, 15.0, -0.7, 0.7, *[20.0] * 6])
@given(values=COLUMNS)
def test_a_function_is_right_to_a_few_units_in_the_last_place(
    kernels: Callable[[str, str], Module], op: str, dtype: str, values: list[float]
) -> None:
    x = np.array(values, dtype)
    function, _ = FUNCTIONS[op]
    with np.errstate(all="ignore"):
        wanted = function(x.astype(np.longdouble))
        off = ulps(np.asarray(kernels(op, dtype)(x)), wanted)
    assert not (off > BOUND).any(), f"{x[off > BOUND]}: {off[off > BOUND]} units"
    assert not np.isnan(off).any(), f"{x[np.isnan(off)]}"
