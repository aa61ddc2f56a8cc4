"""Sums of products as matrix products: the fast path of the NumPy reference.

A body `A[affine] * B[affine]` summed over reduce axes is one (batched) matrix product of strided
views: a convolution's data is viewed with a stride for each output position and each kernel tap,
and no element is gathered by index. Axes that are read through `axis // c` or `axis % c` (the
channels of a grouped convolution) are split first.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from loopwright.ir import walk
from loopwright.ir.dtype import F32, F64, DType
from loopwright.ir.expr import Binary, Cast, Combiner, Const, Expr, Load, Op, Reduce, Var
from loopwright.ir.simplify import affine
from loopwright.layout import Array
from loopwright.te.tensor import Compute, Tensor

_MAX_COPY = 1 << 26
"""Elements of a gathered operand held at once; longer products run in pieces."""


@dataclass(frozen=True, slots=True)
class _Axis:
    name: str
    extent: int


@dataclass(frozen=True, slots=True)
class _Operand:
    """A strided view: element stride of each axis by name, and the offset of the first element."""

    array: Array
    strides: Mapping[str, int]
    offset: int

    def view(self, axes: Sequence[_Axis]) -> Array:
        flat = self.array.reshape(-1)[self.offset :]
        item = flat.itemsize
        strides = tuple(self.strides.get(a.name, 0) * item for a in axes)
        shape = tuple(a.extent for a in axes)
        return np.lib.stride_tricks.as_strided(flat, shape, strides, writeable=False)


def contract(tensor: Tensor, arrays: Mapping[str, Array], *, precise: bool) -> Array | None:
    """The value of `tensor` if it is a sum of products of two affine reads; None if it is not.

    Args:
        arrays: plain arrays of what it reads, by name.
        precise: accumulate floats in float64 rather than float32.
    """
    if not isinstance(tensor.op, Compute) or not isinstance(tensor.op.body, Reduce):
        return None
    reduce = tensor.op.body
    factors = _factors(reduce)
    if factors is None:
        return None
    working = _working(tensor.dtype, factors, reduce, precise=precise)
    if working is None:
        return None
    spatial = [_Axis(v.name, e) for v, e in zip(tensor.op.axes, tensor.shape, strict=True)]
    reduced = [_Axis(a.var.name, a.extent) for a in reduce.axes]
    spatial, mapping = _split_axes(spatial, reduce.body)
    operands = [_operand(f, arrays, mapping, [*spatial, *reduced], working) for f in factors]
    left, right = operands
    if left is None or right is None:
        return None
    total = _product(left, right, spatial, reduced)
    if tensor.dtype.is_float:
        return total.reshape(tensor.shape).astype(tensor.dtype.numpy)
    return total.reshape(tensor.shape).astype(np.int64).astype(tensor.dtype.numpy)


def _factors(reduce: Reduce) -> tuple[Expr, Expr] | None:
    body = reduce.body
    if reduce.combiner is not Combiner.SUM or not isinstance(body, Binary) or body.op is not Op.MUL:
        return None
    if _read(body.lhs) is None or _read(body.rhs) is None:
        return None
    return body.lhs, body.rhs


def _read(factor: Expr) -> Load | None:
    """The load under the casts of `factor`."""
    while isinstance(factor, Cast):
        factor = factor.value
    return factor if isinstance(factor, Load) else None


def _working(
    dtype: DType, factors: Sequence[Expr], reduce: Reduce, *, precise: bool
) -> np.dtype[np.generic] | None:
    """The dtype to multiply in; None for integers too wide for float64 to sum exactly."""
    if dtype.is_float:
        return F64.numpy if precise or dtype == F64 else F32.numpy
    bits = [read.dtype.bits for read in map(_read, factors) if read is not None]
    if dtype.is_bool or any(f.dtype.is_float for f in factors):
        return None
    terms = math.prod(a.extent for a in reduce.axes)
    return F64.numpy if sum(bits) + terms.bit_length() <= 52 else None


def _split_axes(axes: Sequence[_Axis], body: Expr) -> tuple[list[_Axis], dict[str, Expr]]:
    """Axes with each one that is divided by a constant replaced by quotient and remainder axes."""
    divisors: dict[str, int] = {}
    for node in walk.visit(body):
        match node:
            case Binary(
                op=Op.FLOORDIV | Op.FLOORMOD, lhs=Var(name=name), rhs=Const(value=value)
            ) if value > 1:
                divisors.setdefault(name, int(value))
    result: list[_Axis] = []
    mapping: dict[str, Expr] = {}
    for axis in axes:
        size = divisors.get(axis.name, axis.extent)
        if axis.extent % size or size == axis.extent:
            result.append(axis)
            continue
        outer, inner = _Axis(f"{axis.name}.o", axis.extent // size), _Axis(f"{axis.name}.i", size)
        result += [outer, inner]
        mapping[axis.name] = Var(outer.name) * size + Var(inner.name)
    return result, mapping


def _operand(
    factor: Expr,
    arrays: Mapping[str, Array],
    mapping: Mapping[str, Expr],
    axes: Sequence[_Axis],
    working: np.dtype[np.generic],
) -> _Operand | None:
    """The view that `factor` reads; None if an index is not affine or leaves the array."""
    read = _read(factor)
    if read is None:
        return None
    ranges = {a.name: (0, a.extent - 1) for a in axes}
    strides: dict[str, int] = {}
    offset = 0
    step = 1
    for index, extent in zip(reversed(read.indices), reversed(read.buffer.shape), strict=True):
        form = affine(walk.substitute(index, mapping), ranges)
        reach = None if form is None else form.bounds(ranges.__getitem__)
        if form is None or reach is None or reach[0] < 0 or reach[1] >= extent:
            return None
        for name, coeff in form.terms.items():
            strides[name] = strides.get(name, 0) + coeff * step
        offset += form.const * step
        step *= extent
    return _Operand(_converted(factor, arrays[read.buffer.name], working), strides, offset)


def _converted(factor: Expr, array: Array, working: np.dtype[np.generic]) -> Array:
    """The whole array after the casts of `factor`, in the working dtype, contiguous."""
    casts: list[DType] = []
    while isinstance(factor, Cast):
        casts.append(factor.dtype)
        factor = factor.value
    for dtype in reversed(casts):
        array = array.astype(dtype.numpy)
    return np.ascontiguousarray(array, dtype=working)


def _product(
    left: _Operand, right: _Operand, spatial: Sequence[_Axis], reduced: Sequence[_Axis]
) -> Array:
    """The sum over `reduced` of left * right, with one dimension for each of `spatial`."""
    batch: list[_Axis] = []
    rows: list[_Axis] = []
    columns: list[_Axis] = []
    for axis in spatial:
        in_left, in_right = left.strides.get(axis.name, 0), right.strides.get(axis.name, 0)
        (batch if in_left and in_right else columns if in_right else rows).append(axis)
    order = [*batch, *rows, *columns]
    outer = [a.extent for a in batch]
    row_count, column_count, depth = (
        math.prod(a.extent for a in group) for group in (rows, columns, reduced)
    )
    a = left.view([*batch, *rows, *reduced])
    b = right.view([*batch, *columns, *reduced]).reshape(*outer, column_count, depth)
    b = np.swapaxes(b, -1, -2)
    if a.size <= _MAX_COPY or batch or not rows:
        total = np.matmul(a.reshape(*outer, row_count, depth), b)
    else:
        pieces = -(-a.size // _MAX_COPY)
        total = np.concatenate(
            [np.matmul(p.reshape(-1, depth), b) for p in np.array_split(a, pieces, axis=0)]
        )
    shaped: Array = total.reshape([axis.extent for axis in order])
    return shaped.transpose([order.index(axis) for axis in spatial])
