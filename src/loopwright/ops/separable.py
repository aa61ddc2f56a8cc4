"""Depthwise separable convolution: a depthwise convolution and the 1x1 convolution that reads it.

As one operator the values between them need not go through memory (`templates/cpu/separable.py`).
"""

from __future__ import annotations

from loopwright.errors import ShapeError
from loopwright.ir import dtype as dt
from loopwright.ir.expr import Expr
from loopwright.ops.attrs import Attr, Attrs, OpDef, float_dtype
from loopwright.ops.conv import COMMON, EPILOGUE, depthwise_sum, epilogue, pad2d, shape_of
from loopwright.ops.epilogue import apply, extras, parse
from loopwright.te import functions as te
from loopwright.te.tensor import Tensor, compute, placeholder, reduce_axis
from loopwright.te.workload import Workload, workload


def _separable(attrs: Attrs) -> Workload:
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
    padded = pad2d(data, shape_of(attrs["padding"]), "data.pad")
    depth = depthwise_sum("separable_conv2d", padded, depthwise, data_shape, attrs, "depth")
    between, inner = _between(depth, attrs, dtype)
    weight = placeholder(weight_shape, dtype, "weight")
    ic = reduce_axis(channels, "ic")
    kh, kw = reduce_axis(1, "pkh"), reduce_axis(1, "pkw")
    kept = dt.accumulator(dt.parse(dtype))

    def body(n: Expr, o: Expr, y: Expr, x: Expr) -> Expr:
        value = between[n, ic, y + kh, x + kw].astype(kept)
        return te.sum(value * weight[o, ic, kh, kw].astype(kept), axis=(ic, kh, kw))

    batch, _, height, width = depth.shape
    conv = compute((batch, weight_shape[0], height, width), body, name="conv")
    output, added, constants = epilogue(conv, attrs, 1)
    return workload(
        output,
        [data, depthwise, *inner, weight, *added, output],
        name="separable_conv2d",
        constants=["depthwise", "weight", *(tensor.name for tensor in inner), *constants],
    )


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


SEPARABLE_CONV2D = OpDef(
    "separable_conv2d",
    (
        *COMMON,
        Attr("depthwise", tuple, length=4, least=1),
        Attr("depthwise_bias", bool, default=False),
        Attr("depthwise_epilogue", str, ""),
        *EPILOGUE,
    ),
    _separable,
    "depthwise convolution, weight (C, 1, kh, kw), with the 1x1 convolution that follows it",
)
