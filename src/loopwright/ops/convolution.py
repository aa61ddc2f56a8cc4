"""Convolutions of any number of dimensions, and the forms that are asked for by name.

A convolution is a padded copy of the data, then one sum over (ic, kernel taps), or over the taps
alone where every channel has its own kernels. The forms (`conv2d`, `depthwise_conv2d`,
`separable_conv2d`) have NCHW data and OIHW weights as arguments, and an epilogue.

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
from loopwright.ops.attributes import (
    Attr,
    Attrs,
    NodeAttrs,
    float_dtype,
    integer,
    integers,
    shape_of,
)
from loopwright.ops.epilogue import ATTRS, ContractionArgs, apply, extras, finished, parse
from loopwright.ops.opdef import (
    Channels,
    Inputs,
    OpDef,
    OpKind,
    Outputs,
    TaskForm,
    given,
    optional,
    read,
)
from loopwright.ops.padding import Pair, padded, pairs
from loopwright.te import functions as te
from loopwright.te.tensor import Tensor, compute, placeholder, reduce_axis
from loopwright.te.workload import Workload

_TAPS = {1: ("kw",), 2: ("kh", "kw"), 3: ("kd", "kh", "kw")}


@dataclass(frozen=True, slots=True)
class _Window:
    """The attributes that both directions have, one entry for each spatial dimension."""

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    pads: tuple[Pair, ...]
    dilations: tuple[int, ...]
    groups: int = 1

    @property
    def reach(self) -> tuple[int, ...]:
        """How many elements a kernel spans."""
        return tuple(d * (k - 1) + 1 for d, k in zip(self.dilations, self.kernel, strict=True))


@dataclass(frozen=True, slots=True)
class _Stage:
    """The names of the stage of the sums and of its axes: those of a graph's node are i0, i1, ...

    `own` says that every channel has its own kernels. `divides` says that the channels of a group
    are counted by a division even where there is one, as the keys of records have it.
    """

    name: str
    axes: tuple[str, ...] = ()
    taps: tuple[str, ...] = ()
    own: bool = False
    divides: bool = False


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
    groups = window.groups
    if data.shape[1] // groups != weight.shape[1] or weight.shape[0] % groups:
        raise ShapeError(
            f"in {groups} groups the weight must be (o * {groups}, {data.shape[1] // groups}, ...)"
        )
    source = padded(data, window.pads, 0, f"{prefix}.pad")
    if any(n < r for n, r in zip(source.shape[2:], window.reach, strict=True)):
        raise ShapeError(f"the kernel {window.kernel} does not fit {source.shape[2:]} elements")
    direct = bias is None and accumulator(data.dtype) == data.dtype
    own = groups > 1 and weight.shape[1] == 1
    stage = _Stage(prefix if direct else f"{prefix}.conv", own=own)
    product = _sums(source, weight, window, stage)
    return (product if direct else _biased(product, bias, data, prefix),)


def _sums(source: Tensor, weight: Tensor, window: _Window, stage: _Stage) -> Tensor:
    """The sums of a convolution of `source`, which is padded already, in the dtype of sums."""
    own, inputs = stage.own, weight.shape[1]
    per_group = weight.shape[0] // window.groups
    ic = reduce_axis(inputs, "ic")
    names = stage.taps or _TAPS[len(window.kernel)]
    taps = [reduce_axis(k, name) for k, name in zip(window.kernel, names, strict=True)]
    kept = accumulator(weight.dtype)

    def body(*index: Expr) -> Expr:
        n, o, *place = index
        at = [
            _at(*part) for part in zip(place, window.strides, taps, window.dilations, strict=True)
        ]
        group = o if per_group == 1 and not stage.divides else o // per_group
        channel = group if own else ic if window.groups == 1 else group * inputs + ic
        value = read(source, (n, channel, *at)).astype(kept)
        factor = read(weight, (o, 0 if own else ic, *taps)).astype(kept)
        return te.sum(value * factor, axis=taps if own else (ic, *taps))

    out = [
        (extent - reach) // stride + 1
        for extent, reach, stride in zip(
            source.shape[2:], window.reach, window.strides, strict=True
        )
    ]
    shape = (source.shape[0], weight.shape[0], *out)
    return compute(shape, body, stage.name, stage.axes)


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
    count = last - first + 1
    return _Phases(stride, before, out, first=first, count=count, taps=taps, pads=around)


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
    names = _TAPS[rank]
    taps = [reduce_axis(p.taps, name) for p, name in zip(phases, names, strict=True)]
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


# by name


def _asked(op: str, weight: tuple[int, ...], attrs: Attrs, groups: int = 1) -> _Window:
    """The window that `attrs` describe. Raises: ShapeError when the kernel does not fit."""
    data, strides, dilation = (shape_of(attrs[name]) for name in ("data", "strides", "dilation"))
    top, left, bottom, right = shape_of(attrs["padding"])
    window = _Window(weight[2:], strides, ((top, bottom), (left, right)), dilation, groups)
    room = (data[2] + top + bottom, data[3] + left + right)
    if any(extent < reach for extent, reach in zip(room, window.reach, strict=True)):
        raise ShapeError(
            f"{op}: the kernel {weight[2]}x{weight[3]} with dilation {dilation} does not fit data "
            f"{data[2]}x{data[3]} with padding {(top, left, bottom, right)}"
        )
    return window


def _padded(data: Tensor, window: _Window) -> Tensor:
    """The data with zeros around, as a stage of its own."""
    return padded(data, window.pads, 0.0, "data.pad", ("n", "c", "y", "x"))


def _conv2d(attrs: Attrs) -> Workload:
    data_shape, weight_shape = shape_of(attrs["data"]), shape_of(attrs["weight"])
    groups = attrs["groups"]
    dtype = float_dtype("conv2d", attrs["dtype"])
    if not isinstance(groups, int) or data_shape[1] % groups or weight_shape[0] % groups:
        raise ShapeError(
            f"conv2d: groups={groups} does not divide {data_shape[1]} input and {weight_shape[0]} "
            "output channels"
        )
    if data_shape[1] // groups != weight_shape[1]:
        raise ShapeError(
            f"conv2d: data {data_shape} in {groups} groups has {data_shape[1] // groups} channels "
            f"each, weight {weight_shape} expects {weight_shape[1]}"
        )
    window = _asked("conv2d", weight_shape, attrs, groups)
    data = placeholder(data_shape, dtype, "data")
    weight = placeholder(weight_shape, dtype, "weight")
    stage = _Stage("conv", ("n", "o", "y", "x"), divides=True)
    conv = _sums(_padded(data, window), weight, window, stage)
    return finished("conv2d", conv, attrs, ContractionArgs((data, weight), ("weight",)))


def _depthwise(attrs: Attrs) -> Workload:
    data_shape, weight_shape = shape_of(attrs["data"]), shape_of(attrs["weight"])
    dtype = float_dtype("depthwise_conv2d", attrs["dtype"])
    channels = data_shape[1]
    if weight_shape[0] % channels or weight_shape[1] != 1:
        raise ShapeError(
            f"depthwise_conv2d: weight {weight_shape} must be (k*{channels}, 1, kh, kw) for data "
            f"{data_shape}"
        )
    data = placeholder(data_shape, dtype, "data")
    weight = placeholder(weight_shape, dtype, "weight")
    conv = _depthwise_sums("depthwise_conv2d", data, weight, attrs, "conv")
    return finished("depthwise_conv2d", conv, attrs, ContractionArgs((data, weight), ("weight",)))


def _depthwise_sums(op: str, data: Tensor, weight: Tensor, attrs: Attrs, name: str) -> Tensor:
    """The sums of a depthwise convolution. Raises: ShapeError when the kernel does not fit."""
    window = _asked(op, weight.shape, attrs, data.shape[1])
    stage = _Stage(name, ("n", "c", "y", "x"), own=True)
    return _sums(_padded(data, window), weight, window, stage)


def _separable(attrs: Attrs) -> Workload:
    """A depthwise convolution and the 1x1 convolution that reads it.

    As one operator the values between them need not go through memory
    (`templates/cpu/separable.py`).
    """
    data_shape, depth_shape = shape_of(attrs["data"]), shape_of(attrs["depthwise"])
    weight_shape = shape_of(attrs["weight"])
    dtype = float_dtype("separable_conv2d", attrs["dtype"])
    channels = data_shape[1]
    if depth_shape[:2] != (channels, 1):
        raise ShapeError(
            f"separable_conv2d: depthwise {depth_shape} must be ({channels}, 1, kh, kw) for data "
            f"{data_shape}"
        )
    if weight_shape[1:] != (channels, 1, 1):
        raise ShapeError(
            f"separable_conv2d: weight {weight_shape} must be (channels, {channels}, 1, 1) for "
            f"data {data_shape}"
        )
    data = placeholder(data_shape, dtype, "data")
    depthwise = placeholder(depth_shape, dtype, "depthwise")
    depth = _depthwise_sums("separable_conv2d", data, depthwise, attrs, "depth")
    between, biases = _between(depth, attrs, dtype.name)
    weight = placeholder(weight_shape, dtype, "weight")
    window = _Window((1, 1), (1, 1), ((0, 0), (0, 0)), (1, 1))
    conv = _sums(between, weight, window, _Stage("conv", ("n", "o", "y", "x"), ("pkh", "pkw")))
    constants = ("depthwise", "weight", *(tensor.name for tensor in biases))
    ending = ContractionArgs((data, depthwise, *biases, weight), constants)
    return finished("separable_conv2d", conv, attrs, ending)


def _between(depth: Tensor, attrs: Attrs, dtype: str) -> tuple[Tensor, list[Tensor]]:
    """What the 1x1 convolution reads, and the inputs that are added before it.

    It stays in the dtype of sums, so that nothing is rounded on the way.
    """
    steps = parse(str(attrs["depthwise_epilogue"]))
    if any(extra is not None for extra in extras(steps)):
        raise ShapeError(
            f"separable_conv2d: depthwise_epilogue {attrs['depthwise_epilogue']!r} has a step that "
            "reads an input; only steps without one can stand there"
        )
    bias = placeholder((depth.shape[1],), dtype, "depthwise_bias")
    biased = bool(attrs["depthwise_bias"])
    if not (biased or steps):
        return depth, []

    def body(n: Expr, c: Expr, y: Expr, x: Expr) -> Expr:
        value = depth[n, c, y, x]
        if biased:
            value = value + bias[c].astype(depth.dtype)
        return apply(value, steps, [None] * len(steps))

    return compute(depth.shape, body, name="between"), [bias] if biased else []


_SHAPES = (
    Attr("data", tuple, length=4, least=1),
    Attr("weight", tuple, length=4, least=1),
    Attr("strides", tuple, (1, 1), length=2, least=1),
    Attr("padding", tuple, (0, 0, 0, 0), length=4),
    Attr("dilation", tuple, (1, 1), length=2, least=1),
)
CONV2D = TaskForm(
    name="conv2d",
    attrs=(*_SHAPES, Attr("groups", int, 1, least=1), *ATTRS),
    build=_conv2d,
    summary="convolution of NCHW data with an OIHW weight, optional bias and relu",
    onnx="Conv",
    torch="conv2d",
)
DEPTHWISE_CONV2D = TaskForm(
    name="depthwise_conv2d",
    attrs=(*_SHAPES, *ATTRS),
    build=_depthwise,
    summary="convolution of every channel with its own kernels, weight (C*k, 1, kh, kw)",
    onnx="Conv",
    torch="conv2d",
)
SEPARABLE_CONV2D = TaskForm(
    name="separable_conv2d",
    attrs=(
        *_SHAPES,
        Attr("depthwise", tuple, length=4, least=1),
        Attr("depthwise_bias", bool, default=False),
        Attr("depthwise_epilogue", str, ""),
        *ATTRS,
    ),
    build=_separable,
    summary="depthwise convolution, weight (C, 1, kh, kw), and the 1x1 convolution after it",
    onnx="Conv",
    torch="",
)
_WINDOW = frozenset({"strides", "pads", "dilations", "groups"})
OPS: tuple[OpDef, ...] = (
    OpDef(
        name="conv",
        kind=OpKind.CONTRACTION,
        define=_conv,
        onnx="Conv",
        torch="convolution",
        channels=Channels.MIXED,
        least=2,
        most=3,
        attrs=_WINDOW,
        forms=(CONV2D, DEPTHWISE_CONV2D, SEPARABLE_CONV2D),
    ),
    OpDef(
        name="conv_transpose",
        kind=OpKind.CONTRACTION,
        define=_conv_transpose,
        onnx="ConvTranspose",
        torch="conv_transpose2d",
        channels=Channels.MIXED,
        least=2,
        most=3,
        attrs=_WINDOW | {"output_padding"},
    ),
)
