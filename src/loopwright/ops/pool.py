"""Pools over windows of any number of dimensions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from loopwright.errors import ShapeError
from loopwright.ir.dtype import DType, accumulator
from loopwright.ir.expr import Combiner, Expr, identity
from loopwright.ops.attributes import NodeAttrs, integer, integers
from loopwright.ops.opdef import Channels, Inputs, OpDef, OpKind, Outputs, given, read
from loopwright.ops.padding import padded, pairs
from loopwright.te import functions as te
from loopwright.te.tensor import Tensor, compute, reduce_axis


@dataclass(frozen=True, slots=True)
class _Dim:
    """A window along one dimension of `extent` elements."""

    extent: int
    kernel: int
    stride: int
    before: int
    after: int
    dilation: int
    out: int

    @property
    def padding(self) -> tuple[int, int]:
        """What to put around the data so that every window lies inside; less than 0: cut off."""
        reach = (self.out - 1) * self.stride + self.dilation * (self.kernel - 1) + 1
        return self.before, max(0, reach - self.before - self.extent)

    def count(self, place: Expr, *, with_pads: bool) -> Expr | int:
        """How many taps of the window at `place` are elements, or pads too."""
        start, end = (
            (0, self.before + self.extent + self.after)
            if with_pads
            else (
                self.before,
                self.before + self.extent,
            )
        )
        last = (self.out - 1) * self.stride + self.dilation * (self.kernel - 1)
        if start == 0 and last < end:
            return self.kernel
        first = place * self.stride
        skipped = te.maximum(_ceildiv(start - first, self.dilation), 0)
        passed = te.minimum(_ceildiv(end - first, self.dilation), self.kernel)
        return passed - skipped


def _ceildiv(value: Expr, divisor: int) -> Expr:
    return value if divisor == 1 else (value + (divisor - 1)) // divisor


def _dims(data: Tensor, attrs: NodeAttrs) -> tuple[_Dim, ...]:
    kernel = integers(attrs, "kernel")
    rank = len(kernel)
    if rank < 1 or data.ndim != rank + 2:
        raise ShapeError(f"a kernel {kernel} needs data of {rank + 2} dimensions")
    strides = integers(attrs, "strides", (1,) * rank)
    dilations = integers(attrs, "dilations", (1,) * rank)
    if len(strides) != rank or len(dilations) != rank or min(*strides, *dilations, *kernel) < 1:
        raise ShapeError(f"kernel, strides and dilations need {rank} numbers of at least 1")
    pads = pairs(integers(attrs, "pads", ()), rank)
    ceil = bool(integer(attrs, "ceil_mode", 0))
    return tuple(
        _Dim(n, k, s, *around, d, _out(n, k, s, around, d, ceil=ceil))
        for n, k, s, around, d in zip(data.shape[2:], kernel, strides, pads, dilations, strict=True)
    )


def _out(
    extent: int, kernel: int, stride: int, pads: tuple[int, int], dilation: int, *, ceil: bool
) -> int:
    """How many windows there are; one that would start in the pads behind the data does not count.

    Source: ONNX, MaxPool-22 and AveragePool-22.
    """
    room = extent + sum(pads) - dilation * (kernel - 1) - 1
    if room < 0 and not (ceil and room > -stride):
        raise ShapeError(f"a kernel of {kernel} does not fit {extent} elements with pads {pads}")
    if not ceil:
        return room // stride + 1
    out = -(-room // stride) + 1
    return out - 1 if (out - 1) * stride >= extent + pads[0] else out


def _fold(
    data: Tensor, dims: Sequence[_Dim], combiner: Combiner, kept: DType, name: str, pad: str
) -> Tensor:
    """The windows of `data`, folded in `kept`."""
    fill = identity(combiner, data.dtype).value
    source = padded(data, [dim.padding for dim in dims], fill, pad)
    names = ("kh", "kw") if len(dims) == 2 else [f"k{d}" for d in range(len(dims))]
    taps = [reduce_axis(dim.kernel, k) for dim, k in zip(dims, names, strict=True)]
    reduction = te.max if combiner is Combiner.MAX else te.sum

    def body(*index: Expr) -> Expr:
        n, c, *place = index
        at = [i * d.stride + k * d.dilation for i, d, k in zip(place, dims, taps, strict=True)]
        return reduction(read(source, (n, c, *at)).astype(kept), axis=taps)

    return compute((*data.shape[:2], *(dim.out for dim in dims)), body, name)


def _max_pool(inputs: Inputs, attrs: NodeAttrs, prefix: str) -> Outputs:
    data = given(inputs)
    dims = _dims(data, attrs)
    return (_fold(data, dims, Combiner.MAX, data.dtype, prefix, f"{prefix}.pad"),)


def _average_pool(inputs: Inputs, attrs: NodeAttrs, prefix: str) -> Outputs:
    data = given(inputs)
    dims = _dims(data, attrs)
    with_pads = bool(integer(attrs, "count_include_pad", 0))
    kept = accumulator(data.dtype)
    total = _fold(data, dims, Combiner.SUM, kept, f"{prefix}.sum", f"{prefix}.pad")

    def body(*i: Expr) -> Expr:
        counts = [d.count(p, with_pads=with_pads) for d, p in zip(dims, i[2:], strict=True)]
        fixed = math.prod(c for c in counts if isinstance(c, int))
        moving = [c for c in counts if not isinstance(c, int)]
        value = read(total, i)
        if not moving:
            return (value * (1.0 / fixed)).astype(data.dtype)
        count = moving[0] * fixed if fixed > 1 else moving[0]
        for other in moving[1:]:
            count = count * other
        return (value / count.astype(kept)).astype(data.dtype)

    return (compute(total.shape, body, prefix),)


_WINDOW = frozenset({"kernel", "strides", "pads", "dilations", "ceil_mode"})

OPS: tuple[OpDef, ...] = (
    OpDef(
        name="max_pool",
        kind=OpKind.REDUCTION,
        define=_max_pool,
        onnx="MaxPool",
        torch="max_pool2d",
        channels=Channels.KEPT,
        attrs=_WINDOW,
    ),
    OpDef(
        name="average_pool",
        kind=OpKind.REDUCTION,
        define=_average_pool,
        onnx="AveragePool",
        torch="avg_pool2d",
        channels=Channels.KEPT,
        attrs=_WINDOW | {"count_include_pad"},
    ),
)
