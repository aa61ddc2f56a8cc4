"""NaN and infinities in reductions, pools, prefix sums and resizing: where they stay, and spread.

The oracles are NumPy, onnxruntime and the reference of ONNX, which share no definition with ours.
"""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from node_cases import agree, compiled, floats, meaning, reference

from loopwright.layout import Array

SPECIAL = st.sampled_from([np.nan, np.inf, -np.inf, -0.0, 1e-42, 3e38])
VALUES = SPECIAL | st.floats(-10, 10, width=32)
MATRICES = hnp.arrays(np.float32, (5, 7), elements=VALUES)
IMAGES = hnp.arrays(np.float32, (1, 2, 6, 5), elements=VALUES)
FOLDS = {"reduce_max": np.max, "reduce_min": np.min, "argmax": np.argmax, "argmin": np.argmin}


@pytest.mark.parametrize("op", FOLDS)
@settings(deadline=None, max_examples=60)
@given(x=MATRICES)
def test_an_extremum_of_what_holds_a_nan_is_nan(op: str, x: Array) -> None:
    chosen = {"axis": 1} if op.startswith("arg") else {"axes": (1,)}
    found = meaning(op, [x], keepdims=0, **chosen)
    np.testing.assert_array_equal(found, FOLDS[op](x, axis=1))


@pytest.mark.parametrize("op", FOLDS)
def test_kernels_of_extrema_keep_a_nan(op: str) -> None:
    x = floats(5, 7)
    x[1, 2], x[2, 0], x[3, 6], x[4, 3] = np.nan, np.nan, np.nan, -np.inf
    compiled(op, [x], keepdims=0, **({"axis": 1} if op.startswith("arg") else {"axes": (1,)}))


@settings(deadline=None, max_examples=60)
@given(x=IMAGES)
def test_a_window_that_holds_a_nan_is_nan(x: Array) -> None:
    found = meaning("max_pool", [x], kernel=(3, 2), strides=(2, 1), pads=(1, 0, 1, 1))
    wide = np.pad(x, ((0, 0), (0, 0), (1, 1), (0, 1)), constant_values=-np.inf)
    windows = np.lib.stride_tricks.sliding_window_view(wide, (3, 2), axis=(2, 3))[:, :, ::2]
    np.testing.assert_array_equal(found, windows.max(axis=(4, 5)))


def test_a_kernel_of_a_pool_keeps_a_nan() -> None:
    x = floats(1, 3, 9, 17)
    x[0, 0, 4, 4], x[0, 1, 0, 16], x[0, 2, 8, 0] = np.nan, np.nan, np.inf
    compiled("max_pool", [x], kernel=(3, 3), strides=(2, 2), pads=(1, 1, 1, 1))


@settings(deadline=None, max_examples=80)
@given(
    shape=st.sampled_from([(3,), (64,), (65,), (200, 2), (2, 129), (2, 3, 5)]),
    axis=st.integers(-1, 2),
    exclusive=st.integers(0, 1),
    reverse=st.integers(0, 1),
    seed=st.integers(0, 99),
)
def test_prefix_sums_are_those_of_onnx(
    shape: tuple[int, ...], axis: int, exclusive: int, reverse: int, seed: int
) -> None:
    x = floats(*shape, seed=seed)
    if seed % 2:
        x[tuple(n // 2 for n in shape)] = np.inf
    axis = min(axis, len(shape) - 1)
    flags = {"exclusive": exclusive, "reverse": reverse}
    wanted = reference("CumSum", [x, np.array(axis)], opset=14, **flags)
    agree("cumsum", meaning("cumsum", [x], axis=axis, **flags), wanted, 1e-4)


@pytest.mark.parametrize("dtype", ["float32", "float16", "int64", "int32"])
def test_kernels_of_prefix_sums(dtype: str) -> None:
    x = (floats(2, 150) * 4).astype(dtype)
    compiled("cumsum", [x], axis=1)
    wanted = np.cumsum(x, axis=1)
    if x.dtype.kind == "i":
        np.testing.assert_array_equal(meaning("cumsum", [x], axis=1), wanted)
