"""The language of tensor expressions in one place; `loopwright.te` is this module."""

from __future__ import annotations

from loopwright.ir.expr import cast
from loopwright.te.functions import (
    abs,  # noqa: A004  # the field's names for them
    all,  # noqa: A004
    any,  # noqa: A004
    ceil,
    cos,
    erf,
    exp,
    float_min,
    floor,
    if_then_else,
    log,
    max,  # noqa: A004
    maximum,
    min,  # noqa: A004
    minimum,
    power,
    prod,
    round,  # noqa: A004
    rsqrt,
    sigmoid,
    sin,
    sqrt,
    sum,  # noqa: A004
    tanh,
)
from loopwright.te.tensor import Tensor, compute, placeholder, reduce_axis
from loopwright.te.workload import Workload, workload

__all__ = [
    "Tensor",
    "Workload",
    "abs",
    "all",
    "any",
    "cast",
    "ceil",
    "compute",
    "cos",
    "erf",
    "exp",
    "float_min",
    "floor",
    "if_then_else",
    "log",
    "max",
    "maximum",
    "min",
    "minimum",
    "placeholder",
    "power",
    "prod",
    "reduce_axis",
    "round",
    "rsqrt",
    "sigmoid",
    "sin",
    "sqrt",
    "sum",
    "tanh",
    "workload",
]
