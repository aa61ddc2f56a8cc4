"""The input data of a measurement: the same bytes on every machine, every time.

The measuring process fills a kernel's arguments with them and the oracle computes from them; each
generates its own. Values are small, so that sums keep their digits: floats in [-1, 1], integers in
[-4, 4], unsigned in [0, 8], bool 0 or 1. This module knows dtypes by name, so that the measuring
process needs no `ir`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from loopwright.errors import UnsupportedError

Array: TypeAlias = npt.NDArray[np.generic]

STORAGE: dict[str, np.dtype[np.generic]] = {
    "float16": np.dtype(np.float16),
    "float32": np.dtype(np.float32),
    "float64": np.dtype(np.float64),
    "bfloat16": np.dtype(np.uint16),
    "int8": np.dtype(np.int8),
    "int16": np.dtype(np.int16),
    "int32": np.dtype(np.int32),
    "int64": np.dtype(np.int64),
    "uint8": np.dtype(np.uint8),
    "uint16": np.dtype(np.uint16),
    "uint32": np.dtype(np.uint32),
    "uint64": np.dtype(np.uint64),
    "bool": np.dtype(np.uint8),
}
"""The NumPy dtype in which each dtype is stored here; view it as the real one where needed."""


def generate(dtype: str, shape: Sequence[int], seed: int, index: int) -> Array:
    """Plain data of `shape` for argument `index`, as STORAGE[dtype]; equal for equal arguments.

    Raises: UnsupportedError for a dtype that is not in STORAGE.
    """
    if dtype not in STORAGE:
        raise UnsupportedError(f"no input data for dtype {dtype!r}; there are {', '.join(STORAGE)}")
    rng = np.random.Generator(np.random.Philox(key=np.array([seed, index], np.uint64)))
    count = math.prod(shape)
    kind = STORAGE[dtype]
    if dtype == "bool":
        flat: Array = rng.integers(0, 2, count, np.uint8)
    elif dtype.startswith("uint"):
        flat = rng.integers(0, 9, count, np.uint8).astype(kind)
    elif kind.kind == "i":
        flat = rng.integers(-4, 5, count, np.int8).astype(kind)
    elif dtype == "float64":
        flat = rng.random(count) * 2 - 1
    else:
        unit = rng.random(count, np.float32)
        unit *= 2
        unit -= 1
        flat = (unit.view(np.uint32) >> 16).astype(kind) if dtype == "bfloat16" else unit
        flat = flat.astype(kind, copy=False)
    return flat.reshape(tuple(shape))
