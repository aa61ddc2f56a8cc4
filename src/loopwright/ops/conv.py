"""Convolutions as tensor expressions: NCHW data, OIHW weights, padding as a stage of its own."""

from __future__ import annotations

from collections.abc import Callable

from loopwright.errors import ShapeError
from loopwright.ir import dtype as dt
from loopwright.ir.expr import Expr, ReduceAxis
from loopwright.ops.attrs import Attr, Attrs, AttrValue, OpDef, float_dtype
from loopwright.ops.epilogue import apply, extras, parse
from loopwright.te import functions as te
from loopwright.te.tensor import Tensor, compute, placeholder, reduce_axis
from loopwright.te.workload import Workload, workload

COMMON = (
    Attr("data", tuple, length=4, least=1),
    Attr("weight", tuple, length=4, least=1),
    Attr("strides", tuple, (1, 1), length=2, least=1),
    Attr("padding", tuple, (0, 0, 0, 0), length=4),
    Attr("dilation", tuple, (1, 1), length=2, least=1),
)
EPILOGUE = (
    Attr("bias", bool, default=False),
    Attr("relu", bool, default=False),
    Attr("dtype", str, "float32"),
    Attr("epilogue", str, ""),
)


def shape_of(value: AttrValue) -> tuple[int, ...]:
    """The attribute `value`, integers."""
    if not isinstance(value, tuple):
        raise ShapeError(f"{value!r} is not a tuple")
    return value


def output_extent(
    extent: int, kernel: int, stride: int, before: int, after: int, dilation: int
) -> int:
    """The extent of a convolution's output; less than 1 when the kernel does not fit."""
    return (extent + before + after - dilation * (kernel - 1) - 1) // stride + 1


def pad2d(data: Tensor, padding: tuple[int, ...], name: str) -> Tensor:
    """`data` (NCHW) with `padding` (top, left, bottom, right) zeros around; itself without any."""
    top, left, bottom, right = padding
    if not any(padding):
        return data
    batch, channels, h, w = data.shape

    def body(n: Expr, c: Expr, y: Expr, x: Expr) -> Expr:
        inside = []
        if top:
            inside.append(y >= top)
        if bottom:
            inside.append(y < top + h)
        if left:
            inside.append(x >= left)
        if right:
            inside.append(x < left + w)
        return te.if_then_else(te.all(*inside), data[n, c, y - top, x - left], 0.0)

    return compute((batch, channels, h + top + bottom, w + left + right), body, name=name)


def epilogue(
    product: Tensor, attrs: Attrs, channel_dim: int
) -> tuple[Tensor, list[Tensor], list[str]]:
    """The output after bias, epilogue and relu, in the data's dtype.

    Returns: the output, the inputs that were added, and the names of those that are constants.
    Raises: ShapeError for an epilogue that cannot be read.
    """
    dtype = str(attrs["dtype"])
    steps = parse(str(attrs["epilogue"]))
    if not (attrs["bias"] or attrs["relu"] or steps) and product.dtype.name == dtype:
        return product, [], []
    extent = (product.shape[channel_dim],)
    bias = placeholder(extent, dtype, "bias") if attrs["bias"] else None
    read = [
        None
        if extra is None
        else placeholder(extent if extra.per_channel else product.shape, dtype, extra.name)
        for extra in extras(steps)
    ]

    def element(tensor: Tensor | None, index: tuple[Expr, ...]) -> Expr | None:
        if tensor is None:
            return None
        at = index if tensor.ndim > 1 else (index[channel_dim],)
        return tensor[at].astype(product.dtype)

    def body(*index: Expr) -> Expr:
        value = product[index]
        added = element(bias, index)
        if added is not None:
            value = value + added
        value = apply(value, steps, [element(tensor, index) for tensor in read])
        if attrs["relu"]:
            value = te.maximum(value, 0.0)
        return value.astype(dtype)

    names = "n o y x" if product.ndim == 4 else "m n" if product.ndim == 2 else "b m n"
    output = compute(product.shape, _named(body, names.split()), name="out")
    inputs = [tensor for tensor in (bias, *read) if tensor is not None]
    return output, inputs, [tensor.name for tensor in inputs if tensor.ndim == 1]


def _named(body: Callable[..., Expr], names: list[str]) -> Callable[..., Expr]:
    """`body` with as many parameters, so called, as the output has dimensions."""
    if len(names) == 4:
        return lambda n, o, y, x: body(n, o, y, x)
    if len(names) == 2:
        return lambda m, n: body(m, n)
    return lambda b, m, n: body(b, m, n)


def _spatial(
    op: str, data: tuple[int, ...], weight: tuple[int, ...], attrs: Attrs
) -> tuple[int, int]:
    """The rows and columns of the output."""
    strides, dilation = shape_of(attrs["strides"]), shape_of(attrs["dilation"])
    top, left, bottom, right = shape_of(attrs["padding"])
    height = output_extent(data[2], weight[2], strides[0], top, bottom, dilation[0])
    width = output_extent(data[3], weight[3], strides[1], left, right, dilation[1])
    if height < 1 or width < 1:
        raise ShapeError(
            f"{op}: the kernel {weight[2]}x{weight[3]} with dilation {dilation} does not fit data "
            f"{data[2]}x{data[3]} with padding {(top, left, bottom, right)}"
        )
    return height, width


def _at(position: Expr, stride: int, tap: ReduceAxis, dilation: int) -> Expr:
    """The row or column that a kernel tap reads."""
    start = position if stride == 1 else position * stride
    return start + (tap if dilation == 1 else tap * dilation)


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
    height, width = _spatial("conv2d", data_shape, weight_shape, attrs)
    (sh, sw), (dh, dw) = shape_of(attrs["strides"]), shape_of(attrs["dilation"])
    data = placeholder(data_shape, dtype, "data")
    weight = placeholder(weight_shape, dtype, "weight")
    padded = pad2d(data, shape_of(attrs["padding"]), "data.pad")
    ic = reduce_axis(weight_shape[1], "ic")
    kh, kw = reduce_axis(weight_shape[2], "kh"), reduce_axis(weight_shape[3], "kw")
    kept = dt.accumulator(dt.parse(dtype))
    per_group = weight_shape[0] // groups

    def body(n: Expr, o: Expr, y: Expr, x: Expr) -> Expr:
        channel = ic if groups == 1 else (o // per_group) * weight_shape[1] + ic
        value = padded[n, channel, _at(y, sh, kh, dh), _at(x, sw, kw, dw)].astype(kept)
        return te.sum(value * weight[o, ic, kh, kw].astype(kept), axis=(ic, kh, kw))

    conv = compute((data_shape[0], weight_shape[0], height, width), body, name="conv")
    output, added, constants = epilogue(conv, attrs, 1)
    return workload(
        output,
        [data, weight, *added, output],
        name="conv2d",
        constants=["weight", *constants],
    )


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
    padded = pad2d(data, shape_of(attrs["padding"]), "data.pad")
    conv = depthwise_sum("depthwise_conv2d", padded, weight, data_shape, attrs, "conv")
    output, added, constants = epilogue(conv, attrs, 1)
    return workload(
        output,
        [data, weight, *added, output],
        name="depthwise_conv2d",
        constants=["weight", *constants],
    )


def depthwise_sum(
    op: str, padded: Tensor, weight: Tensor, data: tuple[int, ...], attrs: Attrs, name: str
) -> Tensor:
    """The sums of a depthwise convolution of `padded`, which is data of that shape with padding.

    Raises: ShapeError when the kernel does not fit.
    """
    height, width = _spatial(op, data, weight.shape, attrs)
    (sh, sw), (dh, dw) = shape_of(attrs["strides"]), shape_of(attrs["dilation"])
    kh, kw = reduce_axis(weight.shape[2], "kh"), reduce_axis(weight.shape[3], "kw")
    kept = dt.accumulator(weight.dtype)
    multiplier = weight.shape[0] // data[1]

    def body(n: Expr, c: Expr, y: Expr, x: Expr) -> Expr:
        source = c if multiplier == 1 else c // multiplier
        value = padded[n, source, _at(y, sh, kh, dh), _at(x, sw, kw, dw)].astype(kept)
        return te.sum(value * weight[c, 0, kh, kw].astype(kept), axis=(kh, kw))

    return compute((data[0], weight.shape[0], height, width), body, name=name)


CONV2D = OpDef(
    "conv2d",
    (*COMMON, Attr("groups", int, 1, least=1), *EPILOGUE),
    _conv2d,
    "convolution of NCHW data with an OIHW weight, optional bias and relu",
)
DEPTHWISE_CONV2D = OpDef(
    "depthwise_conv2d",
    (*COMMON, *EPILOGUE),
    _depthwise,
    "convolution of every channel with its own kernels, weight (C*k, 1, kh, kw)",
)
