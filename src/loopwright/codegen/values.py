"""Values of expressions during emission: the text of a value, and what is known about it.

float16 and bfloat16 are computed in float32 and are halves in memory only. A value of one lane is a
scalar and stands for the same number in every lane.
"""

from __future__ import annotations

from typing import NamedTuple, TypeAlias

import ml_dtypes
import numpy as np

from loopwright.ir.dtype import DType, DTypeKind

Number: TypeAlias = int | float | bool


class CodeValue(NamedTuple):
    """`text` is a name, or a literal when `const` is set; `lanes` is 1 for a scalar."""

    text: str
    dtype: DType
    lanes: int = 1
    const: Number | None = None


def rounded(value: Number, dtype: DType) -> Number:
    """`value` as `dtype` holds it: floats rounded, integers wrapped around."""
    if dtype.is_float:
        if dtype.kind is DTypeKind.BFLOAT:
            return float(ml_dtypes.bfloat16(value))
        with np.errstate(over="ignore"):
            return float(dtype.numpy.type(value))
    if dtype.is_bool:
        return bool(value)
    wrapped = int(value) & ((1 << dtype.bits) - 1)
    if dtype.kind is DTypeKind.INT and wrapped >> (dtype.bits - 1):
        wrapped -= 1 << dtype.bits
    return wrapped
