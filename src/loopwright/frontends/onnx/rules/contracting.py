"""ONNX operators that are sums of products: convolutions and matrix products."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from loopwright.frontends.onnx.rules.call import OnnxCall, Rule


def windows(
    call: OnnxCall, kernel: Sequence[int]
) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
    """Strides, pads (begins, then ends) and dilations of a convolution or pool over input 0."""
    rank = len(kernel)
    strides = call.integers("strides", (1,) * rank)
    dilations = call.integers("dilations", (1,) * rank)
    image = call.shape()[2:]
    if not len(image) == len(strides) == len(dilations) == rank:
        raise call.wrong(
            f"data {call.shape()}, kernel {tuple(kernel)}, strides {strides} and dilations "
            f"{dilations} do not fit together"
        )
    mode = call.text("auto_pad", "NOTSET")
    if mode in ("SAME_UPPER", "SAME_LOWER"):
        totals = [
            max(0, (-(-extent // step) - 1) * step + (size - 1) * spread + 1 - extent)
            for extent, size, step, spread in zip(image, kernel, strides, dilations, strict=True)
        ]
        return strides, _shared(totals, upper=mode == "SAME_UPPER"), dilations
    pads = (0,) * (2 * rank) if mode == "VALID" else call.integers("pads", (0,) * (2 * rank))
    if len(pads) != 2 * rank:
        raise call.wrong(f"it has {len(pads)} pads for {rank} dimensions; two each are needed")
    return strides, pads, dilations


def _shared(totals: Sequence[int], *, upper: bool) -> tuple[int, ...]:
    """`totals` split between beginnings and ends; the odd one goes to the end if `upper`."""
    small = [total // 2 for total in totals]
    large = [total - total // 2 for total in totals]
    return (*small, *large) if upper else (*large, *small)


def _conv(call: OnnxCall) -> tuple[str]:
    kernel = call.shape(1)[2:]
    strides, pads, dilations = windows(call, call.integers("kernel_shape", kernel))
    groups = call.integer("group", 1)
    operands = [call.x(0), call.x(1), *([call.x(2)] if call.has(2) else [])]
    made = call.emit(
        "conv", *operands, strides=strides, pads=pads, dilations=dilations, groups=groups
    )
    return (made,)


def _conv_transpose(call: OnnxCall) -> tuple[str]:
    kernel = call.shape(1)[2:]
    rank = len(kernel)
    strides = call.integers("strides", (1,) * rank)
    dilations = call.integers("dilations", (1,) * rank)
    extra = list(call.integers("output_padding", (0,) * rank))
    pads = call.integers("pads", (0,) * (2 * rank))
    mode = call.text("auto_pad", "NOTSET")
    image = call.shape()[2:]
    wanted: tuple[int, ...] = ()
    if mode in ("SAME_UPPER", "SAME_LOWER"):
        wanted = tuple(extent * step for extent, step in zip(image, strides, strict=True))
    elif mode == "VALID":
        pads = (0,) * (2 * rank)
    wanted = call.integers("output_shape", wanted)[-rank:]
    if wanted:
        totals = []
        for d in range(rank):
            reach = (kernel[d] - 1) * dilations[d] + 1
            total = strides[d] * (image[d] - 1) + extra[d] + reach - wanted[d]
            totals.append(max(total, 0))
            extra[d] += max(-total, 0)
        pads = _shared(totals, upper=mode == "SAME_UPPER")
    operands = [call.x(0), call.x(1), *([call.x(2)] if call.has(2) else [])]
    made = call.emit(
        "conv_transpose",
        *operands,
        strides=strides,
        pads=pads,
        dilations=dilations,
        groups=call.integer("group", 1),
        output_padding=tuple(extra),
    )
    return (made,)


def _matmul(call: OnnxCall) -> tuple[str]:
    return (call.emit("matmul", call.x(0), call.x(1)),)


def _gemm(call: OnnxCall) -> tuple[str]:
    operands = [call.x(0), call.x(1), *([call.x(2)] if call.has(2) else [])]
    made = call.emit(
        "gemm",
        *operands,
        alpha=call.number("alpha", 1.0),
        beta=call.number("beta", 1.0),
        trans_a=call.integer("transA", 0),
        trans_b=call.integer("transB", 0),
    )
    return (made,)


RULES: Mapping[str, Rule] = {
    "Conv": _conv,
    "ConvTranspose": _conv_transpose,
    "Gemm": _gemm,
    "MatMul": _matmul,
}
