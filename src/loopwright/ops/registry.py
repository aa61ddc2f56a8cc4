"""The operators that can be asked for by name."""

from __future__ import annotations

from collections.abc import Mapping

from loopwright.errors import UnsupportedError
from loopwright.ops.attrs import AttrValue, OpDef, checked
from loopwright.ops.conv import CONV2D, DEPTHWISE_CONV2D
from loopwright.ops.dense import BATCH_MATMUL, DENSE, MATMUL
from loopwright.ops.separable import SEPARABLE_CONV2D
from loopwright.te.workload import Workload

OPERATORS: Mapping[str, OpDef] = {
    op.name: op for op in (CONV2D, DEPTHWISE_CONV2D, SEPARABLE_CONV2D, DENSE, MATMUL, BATCH_MATMUL)
}


def attributes(name: str, **attrs: object) -> tuple[tuple[str, AttrValue], ...]:
    """All attributes of an operator, checked, defaults filled in, in declared order.

    Raises: UnsupportedError naming the operators there are; ShapeError for an attribute that is
        wrong.
    """
    return tuple(checked(_operator(name), attrs).items())


def build(name: str, **attrs: object) -> Workload:
    """The workload of an operator: `build("conv2d", data=(1, 64, 56, 56), weight=(64, 64, 3, 3))`.

    Raises: UnsupportedError naming the operators there are; ShapeError for an attribute that is
        wrong.
    """
    return _operator(name).build(dict(attributes(name, **attrs)))


def _operator(name: str) -> OpDef:
    if name not in OPERATORS:
        raise UnsupportedError(f"unknown operator {name!r}; use one of {', '.join(OPERATORS)}")
    return OPERATORS[name]
