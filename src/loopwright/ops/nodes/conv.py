"""Convolutions of any number of dimensions, and transposed ones.

A convolution has the stages that `ops.conv` gives it, so that the same templates fit: a padded copy
of the data, then one sum over (ic, kernel taps), or over the taps alone where every channel has its
own kernels.

A transposed convolution of stride s is s plain ones in each dimension, one for each phase of the
output: with y + pad = s * q + r, element y is the sum over j of data[q - j] * weight[s * j + r].
So its sum has the dimensions (n, o, r..., q...), reads nothing that does not count, and the output
picks its elements.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from loopwright.errors import ShapeError
from loopwright.ir.dtype import accumulator
from loopwright.ir.expr import Expr, ReduceAxis
from loopwright.ops.nodes.attributes import NodeAttrs, integer, integers
from loopwright.ops.nodes.node import Inputs, Kind, NodeDef, Outputs, given, optional, read
from loopwright.ops.nodes.padding import Pair, padded, pairs
from loopwright.te import functions as te
from loopwright.te.tensor import Tensor, compute, reduce_axis

_TAPS = {1: ("kw",), 2: ("kh", "kw"), 3: ("kd", "kh", "kw")}


@dataclass(frozen=True, slots=True)
class _Window:
    """The attributes that both directions have, one entry for each spatial dimension."""

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    pads: tuple[Pair, ...]
    dilations: tuple[int, ...]
    groups: int

    @property
    def reach(self) -> tuple[int, ...]:
        """How many elements a kernel spans."""
        return tuple(d * (k - 1) + 1 for d, k in zip(self.dilations, self.kernel, strict=True))


def _window(data: Tensor, weight: Tensor, attrs: NodeAttrs) -> _Window:
    rank = data.ndim - 2
    if rank not in _TAPS or weight.ndim != data.ndim:
        raise ShapeError("data and weight need 1 to 3 spatial dimensions, both as many")
    ones = (1,) * rank
    window = _Window(
        weight.shape[2:],
        integers(attrs, "strides", ones),
        pairs(integers(attrs, "pads", ()), rank),
        integers(attrs, "dilations", ones),
        integer(attrs, "groups", 1),
    )
    if len(window.strides) != rank or len(window.dilations) != rank:
        raise ShapeError(f"strides {window.strides} and dilations need {rank} numbers each")
    if min(*window.strides, *window.dilations, window.groups) < 1:
        raise ShapeError("strides, dilations and groups must be at least 1")
    if data.shape[1] % window.groups:
        raise ShapeError(f"{window.groups} groups do not divide {data.shape[1]} channels")
    return window


def _biased(product: Tensor, bias: Tensor | None, data: Tensor, prefix: str) -> Tensor:
    """The output: `product` and the bias of its channel, in the data's dtype."""
    if bias is not None and bias.shape != product.shape[1:2]:
        raise ShapeError(f"the bias {list(bias.shape)} does not fit {product.shape[1]} channels")

    def body(*i: Expr) -> Expr:
        value = product[i]
        if bias is not None:
            value = value + bias[i[1]].astype(product.dtype)
        return value.astype(data.dtype)

    return compute(product.shape, body, prefix)


def _conv(inputs: Inputs, attrs: NodeAttrs, prefix: str) -> Outputs:
    data, weight, bias = given(inputs, 0), given(inputs, 1), optional(inputs, 2)
    window = _window(data, weight, attrs)
    groups, per_group = window.groups, weight.shape[0] // window.groups
    if data.shape[1] // groups != weight.shape[1] or weight.shape[0] % groups:
        raise ShapeError(
            f"in {groups} groups the weight must be (o * {groups}, {data.shape[1] // groups}, ...)"
        )
    source = padded(data, window.pads, 0, f"{prefix}.pad")
    out = [
        (n - r) // s + 1
        for n, r, s in zip(source.shape[2:], window.reach, window.strides, strict=True)
    ]
    if min(out) < 1:
        raise ShapeError(f"the kernel {window.kernel} does not fit {source.shape[2:]} elements")
    own = groups > 1 and weight.shape[1] == 1
    ic = reduce_axis(weight.shape[1], "ic")
    taps = _taps(window.kernel)
    kept = accumulator(data.dtype)

    def body(*index: Expr) -> Expr:
        n, o, *place = index
        at = [
            _at(*part) for part in zip(place, window.strides, taps, window.dilations, strict=True)
        ]
        group = o if per_group == 1 else o // per_group
        channel = group if own else ic if groups == 1 else group * weight.shape[1] + ic
        value = read(source, (n, channel, *at)).astype(kept)
        factor = read(weight, (o, 0 if own else ic, *taps)).astype(kept)
        return te.sum(value * factor, axis=taps if own else (ic, *taps))

    direct = bias is None and kept == data.dtype
    name = prefix if direct else f"{prefix}.conv"
    product = compute((data.shape[0], weight.shape[0], *out), body, name)
    return (product if direct else _biased(product, bias, data, prefix),)


def _taps(kernel: Sequence[int]) -> list[ReduceAxis]:
    return [reduce_axis(k, name) for k, name in zip(kernel, _TAPS[len(kernel)], strict=True)]


def _at(position: Expr, stride: int, tap: ReduceAxis, dilation: int) -> Expr:
    """The place that a tap reads."""
    start = position if stride == 1 else position * stride
    return start + (tap if dilation == 1 else tap * dilation)


def _conv_transpose(inputs: Inputs, attrs: NodeAttrs, prefix: str) -> Outputs:
    data, weight, bias = given(inputs, 0), given(inputs, 1), optional(inputs, 2)
    window = _window(data, weight, attrs)
    if weight.shape[0] != data.shape[1]:
        raise ShapeError(f"the weight must have {data.shape[1]} input channels")
    phases = _phases(data, window, attrs)
    around = tuple(phase.pads for phase in phases)
    source = padded(data, around, 0, f"{prefix}.pad")
    spread = _spread(weight, window, [phase.extent for phase in phases], f"{prefix}.weight")
    sums = _phase_sums(source, spread, window, phases, prefix)
    shape = (data.shape[0], weight.shape[1] * window.groups, *(phase.out for phase in phases))

    def body(*i: Expr) -> Expr:
        n, o, *place = i
        moved = [y + p.before if p.before else y for y, p in zip(place, phases, strict=True)]
        remainders = [
            0 if p.stride == 1 else m % p.stride for m, p in zip(moved, phases, strict=True)
        ]
        quotients = [
            (m if p.stride == 1 else m // p.stride) - p.first
            for m, p in zip(moved, phases, strict=True)
        ]
        value = read(sums, (n, o, *remainders, *quotients))
        if bias is not None:
            value = value + bias[o].astype(sums.dtype)
        return value.astype(data.dtype)

    if bias is not None and bias.shape != shape[1:2]:
        raise ShapeError(f"the bias {list(bias.shape)} does not fit {shape[1]} channels")
    return (compute(shape, body, prefix),)


@dataclass(frozen=True, slots=True)
class _Phases:
    """One dimension of a transposed convolution.

    `first` is the least q, `count` how many there are; each phase has `taps` taps, and element 0 of
    the padded data is element `low` of the data.
    """

    stride: int
    before: int
    out: int
    first: int
    count: int
    taps: int
    pads: Pair

    @property
    def extent(self) -> int:
        """Elements of the weight with those that the last phases lack."""
        return self.taps * self.stride


def _phases(data: Tensor, window: _Window, attrs: NodeAttrs) -> tuple[_Phases, ...]:
    rank = data.ndim - 2
    extra = integers(attrs, "output_padding", (0,) * rank)
    if len(extra) != rank:
        raise ShapeError(f"output_padding {extra} needs {rank} numbers")
    return tuple(map(_phase, data.shape[2:], window.reach, window.strides, window.pads, extra))


def _phase(extent: int, reach: int, stride: int, pads: Pair, extra: int) -> _Phases:
    before, after = pads
    out = (extent - 1) * stride + reach - before - after + extra
    if out < 1:
        raise ShapeError(f"pads {pads} leave nothing of {(extent - 1) * stride + reach} elements")
    first = before // stride
    last = (out - 1 + before) // stride
    taps = -(-reach // stride)
    around = (taps - 1 - first, last - (extent - 1))
    return _Phases(stride, before, out, first, last - first + 1, taps, around)


def _spread(weight: Tensor, window: _Window, extents: Sequence[int], name: str) -> Tensor:
    """The weight with zeros between dilated taps and behind them; itself where that adds none."""
    if tuple(extents) == window.kernel:
        return weight

    def body(*index: Expr) -> Expr:
        c, o, *place = index
        inside: list[Expr] = []
        taps: list[Expr] = []
        for i, kernel, dilation, extent in zip(
            place, window.kernel, window.dilations, extents, strict=True
        ):
            if dilation > 1:
                inside.append((i % dilation).equal(0))
            if extent > dilation * (kernel - 1) + 1:
                inside.append(i <= dilation * (kernel - 1))
            taps.append(i if dilation == 1 else i // dilation)
        return te.if_then_else(te.all(*inside), read(weight, (c, o, *taps)), 0)

    return compute((*weight.shape[:2], *extents), body, name)


def _phase_sums(
    source: Tensor, weight: Tensor, window: _Window, phases: Sequence[_Phases], prefix: str
) -> Tensor:
    """The sums of all phases: (n, o, r..., q...)."""
    rank, groups, outputs = len(phases), window.groups, weight.shape[1]
    inputs = weight.shape[0] // groups
    ic = reduce_axis(inputs, "ic")
    taps = _taps([phase.taps for phase in phases])
    kept = accumulator(source.dtype)

    def body(*index: Expr) -> Expr:
        n, o, *place = index
        remainders, quotients = place[:rank], place[rank:]
        # data[first + t - j] lies `taps - 1 - first` further on in the padded copy.
        at = [q + (p.taps - 1) - j for q, p, j in zip(quotients, phases, taps, strict=True)]
        tap = [
            j if p.stride == 1 else j * p.stride + r
            for j, p, r in zip(taps, phases, remainders, strict=True)
        ]
        channel = ic if groups == 1 else (o // outputs) * inputs + ic
        value = read(source, (n, channel, *at)).astype(kept)
        factor = read(weight, (channel, o if groups == 1 else o % outputs, *tap)).astype(kept)
        return te.sum(value * factor, axis=(ic, *taps))

    sizes = (*(phase.stride for phase in phases), *(phase.count for phase in phases))
    return compute((source.shape[0], outputs * groups, *sizes), body, f"{prefix}.sum")


_WINDOW = frozenset({"strides", "pads", "dilations", "groups"})

NODES: tuple[NodeDef, ...] = (
    NodeDef("conv", Kind.CONTRACTION, _conv, 2, 3, _WINDOW),
    NodeDef(
        "conv_transpose", Kind.CONTRACTION, _conv_transpose, 2, 3, _WINDOW | {"output_padding"}
    ),
)
