"""ATen's layers: convolutions, matrix products, norms, pools, attention, resizing."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from loopwright.frontends.torch.rules.call import Handler, NodeMaker, Ref, TorchCall
from loopwright.ir.dtype import DType
from loopwright.ops.attributes import NodeAttr


def _convolution(make: NodeMaker, call: TorchCall) -> Ref:
    x, weight, bias = call.ref("input"), call.ref("weight"), call.maybe_ref("bias")
    space = weight.rank - 2
    padding = _per_axis(call.ints("padding"), space)
    attrs: dict[str, NodeAttr] = {
        "strides": _per_axis(call.ints("stride"), space),
        "pads": (*padding, *padding),
        "dilations": _per_axis(call.ints("dilation"), space),
        "groups": call.integer("groups", 1),
    }
    inputs = [x, weight] if bias is None else [x, weight, bias]
    if x.rank == space + 1:  # without a batch
        inputs[0] = make.reshape(x, (1, *x.shape))
    if call.integer("transposed", int("output_padding" in call.given)):
        attrs["output_padding"] = _per_axis(call.ints("output_padding"), space)
        found = make.node("conv_transpose", inputs, **attrs)
    else:
        found = make.node("conv", inputs, **attrs)
    return make.reshape(found, call.shape)


def _per_axis(given: tuple[int, ...], count: int) -> tuple[int, ...]:
    """One number per axis: a single one holds for all."""
    return given * count if len(given) == 1 else given


def _linear(make: NodeMaker, call: TorchCall) -> Ref:
    """`input @ weight.T + bias`: a gemm of two matrices, else a product with the transpose."""
    x, weight, bias = call.ref("input"), call.ref("weight"), call.maybe_ref("bias")
    if x.rank == 2 and weight.rank == 2:
        inputs = [x, weight] if bias is None else [x, weight, bias]
        return make.node("gemm", inputs, alpha=1.0, beta=1.0, trans_a=0, trans_b=1)
    perm = tuple(reversed(range(weight.rank)))
    product = make.node("matmul", [x, make.transpose(weight, perm)])
    return product if bias is None else make.node("add", [product, bias])


def _addmm(make: NodeMaker, call: TorchCall) -> Ref:
    bias, a, b = call.ref("self"), call.ref("mat1"), call.ref("mat2")
    scales = {"alpha": call.number("alpha", 1.0), "beta": call.number("beta", 1.0)}
    if scales["beta"] == 0.0:
        return make.node("gemm", [a, b], alpha=scales["alpha"], beta=1.0, trans_a=0, trans_b=0)
    return make.node("gemm", [a, b, bias], **scales, trans_a=0, trans_b=0)


def _baddbmm(make: NodeMaker, call: TorchCall) -> Ref:
    names = ("batch1", "batch2") if "batch1" in call.given else ("mat", "vec")
    product = make.node("matmul", [call.ref(n) for n in names])
    alpha, beta = call.number("alpha", 1.0), call.number("beta", 1.0)
    if alpha != 1.0:
        product = make.node("mul", [product, make.scalar(alpha, call.dtype)])
    if beta == 0.0:
        return product
    added = call.ref("self")
    if beta != 1.0:
        added = make.node("mul", [added, make.scalar(beta, call.dtype)])
    return make.node("add", [product, added])


def _product(first: str, second: str) -> Handler:
    """The matrix product of two arguments."""
    return lambda make, call: make.node("matmul", [call.ref(first), call.ref(second)])


def _batch_norm(make: NodeMaker, call: TorchCall) -> Ref:
    if call.integer("training", 0) or not call.has("running_mean"):
        raise call.refuse("in training; call eval() on the model first")
    x = call.ref("input")
    mean, var = call.ref("running_mean"), call.ref("running_var")
    scale, bias = _affine(make, call, mean.shape, x.dtype)
    return make.node("batch_norm", [x, scale, bias, mean, var], epsilon=call.number("eps"))


def _batch_norm_first(make: NodeMaker, call: TorchCall) -> tuple[Ref | None, ...]:
    return (_batch_norm(make, call), None, None)


def _affine(
    make: NodeMaker, call: TorchCall, shape: tuple[int, ...], dtype: DType
) -> tuple[Ref, Ref]:
    """The arguments weight and bias, ones and zeros where they are left out."""
    weight, bias = call.maybe_ref("weight"), call.maybe_ref("bias")
    scale = make.full(shape, 1.0, dtype) if weight is None else weight
    return scale, make.full(shape, 0.0, dtype) if bias is None else bias


def _layer_norm(make: NodeMaker, call: TorchCall) -> Ref:
    x, shape = call.ref("input"), call.ints("normalized_shape")
    weight, bias = call.maybe_ref("weight"), call.maybe_ref("bias")
    scale = make.full(shape, 1.0, x.dtype) if weight is None else weight
    inputs = [x, scale] if bias is None else [x, scale, bias]
    return make.node(
        "layer_norm", inputs, axis=x.rank - len(shape), epsilon=call.number("eps", 1e-5)
    )


def _layer_norm_first(make: NodeMaker, call: TorchCall) -> tuple[Ref | None, ...]:
    return (_layer_norm(make, call), None, None)


def _instance_norm(make: NodeMaker, call: TorchCall) -> Ref:
    x = call.ref("input")
    if not call.integer("use_input_stats", 1):
        return _batch_norm(make, call)
    scale, bias = _affine(make, call, (x.shape[1],), x.dtype)
    return make.node("instance_norm", [x, scale, bias], epsilon=call.number("eps"))


def _own_statistics(make: NodeMaker, call: TorchCall) -> tuple[Ref | None, ...]:
    """A batch norm by the statistics of its input: an instance norm when the batch is one."""
    x = call.ref("input")
    if x.shape[0] != 1:
        raise call.refuse("with the statistics of a batch; call eval() on the model first")
    scale, bias = _affine(make, call, (x.shape[1],), x.dtype)
    found = make.node("instance_norm", [x, scale, bias], epsilon=call.number("eps"))
    return (found, None, None)


def _group_norm(make: NodeMaker, call: TorchCall) -> Ref:
    """An instance norm over groups of channels, then the scale and bias of each channel."""
    x = call.ref("input")
    groups = call.integer("group" if "group" in call.given else "num_groups")
    parts = make.reshape(x, (x.shape[0], groups, math.prod(x.shape[1:]) // groups))
    ones, zeros = (make.full((groups,), value, x.dtype) for value in (1.0, 0.0))
    normed = make.node("instance_norm", [parts, ones, zeros], epsilon=call.number("eps", 1e-5))
    found = make.reshape(normed, x.shape)
    each = (x.shape[1], *(1 for _ in x.shape[2:]))
    for name, op in (("weight", "mul"), ("bias", "add")):
        if call.has(name):
            found = make.node(op, [found, make.reshape(call.ref(name), each)])
    return found


def _group_norm_first(make: NodeMaker, call: TorchCall) -> tuple[Ref | None, ...]:
    return (_group_norm(make, call), None, None)


def _pool_attrs(call: TorchCall, space: int) -> dict[str, NodeAttr]:
    kernel = _per_axis(call.ints("kernel_size"), space)
    strides, padding = call.ints("stride"), _per_axis(call.ints("padding") or (0,), space)
    return {
        "kernel": kernel,
        "strides": _per_axis(strides, space) if strides else kernel,
        "pads": (*padding, *padding),
        "ceil_mode": call.integer("ceil_mode", 0),
    }


def _batched(make: NodeMaker, x: Ref, space: int) -> Ref:
    """`x` with a batch dimension."""
    return x if x.rank == space + 2 else make.reshape(x, (1, *x.shape))


def _max_pool(space: int) -> Handler:
    def handler(make: NodeMaker, call: TorchCall) -> Ref:
        attrs = _pool_attrs(call, space)
        attrs["dilations"] = _per_axis(call.ints("dilation") or (1,), space)
        x = _batched(make, call.ref("self"), space)
        return make.reshape(make.node("max_pool", [x], **attrs), call.shape)

    return handler


def _max_pool_values(space: int) -> Handler:
    """The pool without the indices, which nothing must read."""
    pool = _max_pool(space)

    def handler(make: NodeMaker, call: TorchCall) -> tuple[Ref | None, ...]:
        found = pool(make, call)
        return (found if isinstance(found, Ref) else None, None)

    return handler


def _average_pool(space: int) -> Handler:
    def handler(make: NodeMaker, call: TorchCall) -> Ref:
        attrs = _pool_attrs(call, space)
        attrs["count_include_pad"] = call.integer("count_include_pad", 1)
        x = _batched(make, call.ref("self"), space)
        if not call.has("divisor_override"):
            return make.reshape(make.node("average_pool", [x], **attrs), call.shape)
        if attrs["ceil_mode"]:
            raise call.refuse("with divisor_override and ceil_mode")
        attrs["count_include_pad"] = 1
        kernel = _per_axis(call.ints("kernel_size"), space)
        scale = make.scalar(math.prod(kernel) / call.number("divisor_override"), x.dtype)
        found = make.node("mul", [make.node("average_pool", [x], **attrs), scale])
        return make.reshape(found, call.shape)

    return handler


def _adaptive_average(space: int) -> Handler:
    """A mean, a pool when the size divides, else a product with the weights of each axis."""

    def handler(make: NodeMaker, call: TorchCall) -> Ref:
        x = call.ref("self")
        sizes, wanted = x.shape[-space:], call.shape[-space:]
        axes = tuple(range(x.rank - space, x.rank))
        if all(n == 1 for n in wanted):
            return make.node("reduce_mean", [x], axes=axes, keepdims=1)
        if all(n % w == 0 for n, w in zip(sizes, wanted, strict=True)):
            kernel = tuple(n // w for n, w in zip(sizes, wanted, strict=True))
            pads = (0,) * (2 * space)
            found = make.node(
                "average_pool",
                [_batched(make, x, space)],
                kernel=kernel,
                strides=kernel,
                pads=pads,
                ceil_mode=0,
                count_include_pad=0,
            )
            return make.reshape(found, call.shape)
        return _weighted(make, x, axes, wanted)

    return handler


def _weighted(make: NodeMaker, x: Ref, axes: tuple[int, ...], wanted: tuple[int, ...]) -> Ref:
    """The means of uneven windows, one axis after the other."""
    for axis, out in zip(axes, wanted, strict=True):
        size = x.shape[axis]
        if size == out:
            continue
        weights = np.zeros((size, out), x.dtype.numpy)
        for at in range(out):
            start, end = at * size // out, -(-(at + 1) * size // out)
            weights[start:end, at] = 1.0 / (end - start)
        perm = [d for d in range(x.rank) if d != axis] + [axis]
        back = [perm.index(d) for d in range(x.rank)]
        turned = make.node("matmul", [make.transpose(x, perm), make.new_constant(weights)])
        x = make.transpose(turned, back)
    return x


def _adaptive_max(space: int) -> Handler:
    def handler(make: NodeMaker, call: TorchCall) -> tuple[Ref | None, ...]:
        x = call.ref("self")
        sizes, wanted = x.shape[-space:], call.shape[-space:]
        if any(n % w for n, w in zip(sizes, wanted, strict=True)):
            raise call.refuse(f"from {list(sizes)} to {list(wanted)}: the sizes do not divide")
        kernel = tuple(n // w for n, w in zip(sizes, wanted, strict=True))
        found = make.node(
            "max_pool",
            [_batched(make, x, space)],
            kernel=kernel,
            strides=kernel,
            pads=(0,) * (2 * space),
            dilations=(1,) * space,
            ceil_mode=0,
        )
        return (make.reshape(found, call.shape), None)

    return handler


def _attention(make: NodeMaker, call: TorchCall) -> Ref:
    """`softmax(q @ k.T * scale + mask) @ v`; rows that the mask hides wholly are 0."""
    query, key, value = (call.ref(n) for n in ("query", "key", "value"))
    if call.number("dropout_p", 0.0):
        raise call.refuse("with dropout; call eval() on the model first")
    if call.integer("enable_gqa", 0):
        key, value = (_repeated(make, r, query.shape[-3]) for r in (key, value))
    scale = call.number("scale", 1.0 / math.sqrt(query.shape[-1]))
    turned = make.transpose(key, (*range(key.rank - 2), key.rank - 1, key.rank - 2))
    scores = make.node("matmul", [query, turned])
    scores = make.node("mul", [scores, make.scalar(scale, scores.dtype)])
    mask = call.maybe_ref("attn_mask")
    if call.integer("is_causal", 0):
        mask = make.new_constant(np.tri(*scores.shape[-2:], dtype=np.bool_))
    shares = _shares(make, scores, mask)
    return make.node("matmul", [shares, value])


def _shares(make: NodeMaker, scores: Ref, mask: Ref | None) -> Ref:
    """The softmax of the last dimension of `scores` where `mask` lets it."""
    axis = scores.rank - 1
    if mask is None:
        return make.node("softmax", [scores], axis=axis)
    known = make.constants.get(mask.name)
    lowest = make.scalar(-math.inf, scores.dtype)
    if mask.dtype.is_bool:
        seen = known
        if known is not None:
            added = np.where(known, 0.0, -math.inf).astype(scores.dtype.numpy)
            scores = make.node("add", [scores, make.new_constant(added)])
        else:
            scores = make.node("where", [mask, scores, lowest])
    else:
        mask = make.cast(mask, scores.dtype)
        scores = make.node("add", [scores, mask])
        seen = None if known is None else known != -math.inf
    found = make.node("softmax", [scores], axis=axis)
    if seen is not None and bool(np.asarray(seen).any(axis=-1).all()):
        return found  # no row is hidden wholly
    hidden = make.node("equal", [scores, lowest])
    return make.node("where", [hidden, make.scalar(0.0, scores.dtype), found])


def _repeated(make: NodeMaker, x: Ref, heads: int) -> Ref:
    """`x` with each of its heads repeated, so that there are `heads`."""
    *batch, own, length, width = x.shape
    if own == heads:
        return x
    longer = make.reshape(x, (*batch, own, 1, length, width))
    longer = make.node("expand", [longer], shape=(*batch, own, heads // own, length, width))
    return make.reshape(longer, (*batch, heads, length, width))


def _attention_first(make: NodeMaker, call: TorchCall) -> tuple[Ref | None, ...]:
    return (_attention(make, call), *(None for _ in call.results[1:]))


def _resize(mode: str) -> Handler:
    """Upsampling to the shape of the result."""

    def handler(make: NodeMaker, call: TorchCall) -> Ref:
        x = call.ref("input" if "input" in call.given else "self")
        sizes = call.shape
        space = x.rank - 2
        factors = _factors(call, space)
        scales = [n / m for n, m in zip(sizes, x.shape, strict=True)]
        if factors:
            scales[2:] = factors
        if mode == "linear":
            kept = call.integer("align_corners", 0)
            rule = {"coordinate": "align_corners" if kept else "half_pixel"}
        elif "exact" in call.target:
            rule = {"coordinate": "half_pixel", "nearest": "round_prefer_ceil"}
        else:
            rule = {"coordinate": "asymmetric", "nearest": "floor"}
        return make.node("resize", [x], sizes=sizes, mode=mode, scales=tuple(scales), **rule)

    return handler


def _factors(call: TorchCall, space: int) -> tuple[float, ...]:
    """The scale factors of an upsampling, none when its sizes say them."""
    if call.has("output_size") and not any(n.startswith("scales") for n in call.given):
        return ()
    found = call.numbers("scale_factors")
    if not found:
        names = [n for n in ("scales_d", "scales_h", "scales_w", "scales") if call.has(n)]
        found = tuple(call.number(n) for n in names)
    return found if len(found) == space else ()


def _table() -> dict[str, Handler]:
    table: dict[str, Handler] = {}
    for space, name in ((1, "linear1d"), (2, "bilinear2d"), (3, "trilinear3d")):
        for overload in ("vec", "default"):
            table[f"aten.upsample_{name}.{overload}"] = _resize("linear")
            table[f"aten.upsample_nearest{space}d.{overload}"] = _resize("nearest")
            table[f"aten._upsample_nearest_exact{space}d.{overload}"] = _resize("nearest")
        table[f"aten.max_pool{space}d_with_indices.default"] = _max_pool_values(space)
        table[f"aten.max_pool{space}d.default"] = _max_pool(space)
        table[f"aten.avg_pool{space}d.default"] = _average_pool(space)
        table[f"aten.adaptive_avg_pool{space}d.default"] = _adaptive_average(space)
        table[f"aten._adaptive_avg_pool{space}d.default"] = _adaptive_average(space)
        table[f"aten.adaptive_max_pool{space}d.default"] = _adaptive_max(space)
    return table


TABLE: Mapping[str, Handler] = _table() | {
    "aten.convolution.default": _convolution,
    "aten.conv1d.default": _convolution,
    "aten.conv2d.default": _convolution,
    "aten.conv3d.default": _convolution,
    "aten.conv_transpose1d.default": _convolution,
    "aten.conv_transpose2d.input": _convolution,
    "aten.conv_transpose3d.input": _convolution,
    "aten.linear.default": _linear,
    "aten.addmm.default": _addmm,
    "aten.baddbmm.default": _baddbmm,
    "aten.addbmm.default": _baddbmm,
    "aten.addmv.default": _baddbmm,
    "aten.mm.default": _product("self", "mat2"),
    "aten.bmm.default": _product("self", "mat2"),
    "aten.mv.default": _product("self", "vec"),
    "aten.dot.default": _product("self", "tensor"),
    "aten.matmul.default": _product("self", "other"),
    "aten.batch_norm.default": _batch_norm,
    "aten._native_batch_norm_legit_no_training.default": _batch_norm_first,
    "aten.native_batch_norm.default": _batch_norm_first,
    "aten._native_batch_norm_legit.no_stats": _own_statistics,
    "aten.instance_norm.default": _instance_norm,
    "aten.layer_norm.default": _layer_norm,
    "aten.native_layer_norm.default": _layer_norm_first,
    "aten.group_norm.default": _group_norm,
    "aten.native_group_norm.default": _group_norm_first,
    "aten.scaled_dot_product_attention.default": _attention,
    "aten._scaled_dot_product_flash_attention_for_cpu.default": _attention_first,
}
"""The function that translates each operator."""
