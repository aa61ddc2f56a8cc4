"""ATen's operators that move elements, by views, slices, padding, gathering, or make new ones."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

import numpy as np

from loopwright.frontends.torch.rules.call import Handler, NodeMaker, Ref, TorchCall
from loopwright.ir.dtype import I64


def _view(make: NodeMaker, call: TorchCall) -> Ref:
    """A view of other dimensions, given by the shape of its result."""
    x = call.ref("input" if "input" in call.given else "self")
    if x.dtype != call.dtype:
        raise call.refuse(f"of the bytes of {x.dtype} as {call.dtype}")
    return make.reshape(x, call.shape)


def _permute(make: NodeMaker, call: TorchCall) -> Ref:
    x = call.ref("self")
    return make.transpose(x, tuple(d % x.rank for d in call.ints("dims")))


def _transpose(make: NodeMaker, call: TorchCall) -> Ref:
    x = call.ref("self")
    first = call.axis("dim0", x.rank, 0)
    second = call.axis("dim1", x.rank, 1 if x.rank > 1 else 0)
    perm = list(range(x.rank))
    if perm:
        perm[first], perm[second] = second, first
    return make.transpose(x, perm)


def _movedim(make: NodeMaker, call: TorchCall) -> Ref:
    x = call.ref("self")
    sources = [d % x.rank for d in call.ints("source")]
    targets = [d % x.rank for d in call.ints("destination")]
    kept = [d for d in range(x.rank) if d not in sources]
    perm = [
        sources[targets.index(place)] if place in targets else kept.pop(0)
        for place in range(x.rank)
    ]
    return make.transpose(x, perm)


def _expand(make: NodeMaker, call: TorchCall) -> Ref:
    x = call.ref("self")
    return x if x.shape == call.shape else make.node("expand", [x], shape=call.shape)


def window(make: NodeMaker, x: Ref, axis: int, start: int, size: int, step: int = 1) -> Ref:
    """`size` elements of `x` along `axis`, `step` apart."""
    if start == 0 and step == 1 and size == x.shape[axis]:
        return x
    starts, steps, sizes = [0] * x.rank, [1] * x.rank, list(x.shape)
    starts[axis], steps[axis], sizes[axis] = start, step, size
    return make.node("slice", [x], starts=tuple(starts), steps=tuple(steps), sizes=tuple(sizes))


def _bounds(call: TorchCall, extent: int) -> tuple[int, int]:
    """The first element of a slice and the one after its last."""
    start, end = call.integer("start", 0), call.integer("end", extent)
    start, end = (v + extent if v < 0 else v for v in (start, end))
    start = min(max(start, 0), extent)
    return start, min(max(end, start), extent)


def _slice(make: NodeMaker, call: TorchCall) -> Ref:
    x = call.ref("self")
    axis = call.axis("dim", x.rank, 0)
    start, _ = _bounds(call, x.shape[axis])
    return window(make, x, axis, start, call.shape[axis], call.integer("step", 1))


def _narrow(make: NodeMaker, call: TorchCall) -> Ref:
    x = call.ref("self")
    axis = call.axis("dim", x.rank)
    start = call.integer("start")
    start += x.shape[axis] if start < 0 else 0
    return window(make, x, axis, start, call.integer("length"))


def _select(make: NodeMaker, call: TorchCall) -> Ref:
    x = call.ref("self")
    axis = call.axis("dim", x.rank)
    found = window(make, x, axis, call.integer("index") % x.shape[axis], 1)
    return make.reshape(found, call.shape)


def _split(make: NodeMaker, call: TorchCall) -> tuple[Ref, ...]:
    x = call.ref("self")
    axis = call.axis("dim", x.rank, 0)
    sizes = [value.shape[axis] for value in call.results if value is not None]
    starts = itertools.accumulate(sizes, initial=0)
    return tuple(window(make, x, axis, s, n) for s, n in zip(starts, sizes, strict=False))


def _unbind(make: NodeMaker, call: TorchCall) -> tuple[Ref, ...]:
    x = call.ref("self")
    axis = call.axis("dim", x.rank, 0)
    shape = (*x.shape[:axis], *x.shape[axis + 1 :])
    parts = (window(make, x, axis, at, 1) for at in range(x.shape[axis]))
    return tuple(make.reshape(part, shape) for part in parts)


def _cat(make: NodeMaker, call: TorchCall) -> Ref:
    parts = [r for r in call.refs("tensors") if r is not None and r.shape != (0,)]
    axis = call.axis("dim", len(call.shape), 0)
    return _joined(make, [make.cast(p, call.dtype) for p in parts], axis)


def _joined(make: NodeMaker, parts: Sequence[Ref], axis: int) -> Ref:
    full = [p for p in parts if p.shape[axis]]
    return full[0] if len(full) == 1 else make.node("concat", full, axis=axis)


def _stack(make: NodeMaker, call: TorchCall) -> Ref:
    axis = call.axis("dim", len(call.shape), 0)
    parts = [make.cast(r, call.dtype) for r in call.refs("tensors") if r is not None]
    longer = [make.reshape(p, (*p.shape[:axis], 1, *p.shape[axis:])) for p in parts]
    return _joined(make, longer, axis)


def _slice_scatter(make: NodeMaker, call: TorchCall) -> Ref:
    x, source = call.ref("self"), make.cast(call.ref("src"), call.dtype)
    axis = call.axis("dim", x.rank, 0)
    extent = x.shape[axis]
    if "index" in call.given:  # select_scatter: one element of the axis
        start = call.integer("index") % extent
        end = start + 1
        source = make.reshape(source, (*source.shape[:axis], 1, *source.shape[axis:]))
    else:
        start, end = _bounds(call, extent)
    if call.integer("step", 1) != 1:
        raise call.refuse("with a step other than 1")
    parts = [source] if end > start else []
    parts = [window(make, x, axis, 0, start), *parts] if start else parts
    parts = [*parts, window(make, x, axis, end, extent - end)] if end < extent else parts
    return _joined(make, parts, axis)


def _copy(make: NodeMaker, call: TorchCall) -> Ref:
    source = make.cast(call.ref("src"), call.dtype)
    return source if source.shape == call.shape else make.node("expand", [source], shape=call.shape)


def _pad(mode: str, name: str = "padding") -> Handler:
    """Padding; ATen counts pairs (before, after) from the last dimension."""

    def handler(make: NodeMaker, call: TorchCall) -> Ref:
        x = call.ref("self")
        given = call.ints(name)
        begins, ends = [0] * x.rank, [0] * x.rank
        for place in range(len(given) // 2):
            begins[-1 - place], ends[-1 - place] = given[2 * place], given[2 * place + 1]
        pads = (*begins, *ends)
        if not any(pads):
            return x
        return make.node("pad", [x], pads=pads, mode=mode, value=call.number("value", 0.0))

    return handler


def _repeat(make: NodeMaker, call: TorchCall) -> Ref:
    x = call.ref("self")
    name = "repeats" if "repeats" in call.given else "dims"
    repeats = call.ints(name)
    repeats = (*(1 for _ in range(x.rank - len(repeats))), *repeats)
    x = make.reshape(x, (*(1 for _ in range(len(repeats) - x.rank)), *x.shape))
    return make.node("tile", [x], repeats=repeats) if set(repeats) != {1} else x


def _flip(make: NodeMaker, call: TorchCall) -> Ref:
    x = call.ref("self")
    axes = {d % x.rank for d in call.ints("dims")}
    starts = tuple(n - 1 if d in axes else 0 for d, n in enumerate(x.shape))
    steps = tuple(-1 if d in axes else 1 for d in range(x.rank))
    return make.node("slice", [x], starts=starts, steps=steps, sizes=x.shape)


def _roll(make: NodeMaker, call: TorchCall) -> Ref:
    x, dims = call.ref("self"), call.ints("dims")
    shape = x.shape
    if not dims:
        x, dims = make.reshape(x, (int(np.prod(shape)),)), (0,)
    for dim, shift in zip(dims, call.ints("shifts"), strict=True):
        axis = dim % x.rank
        cut = -shift % x.shape[axis]
        if cut:
            after = window(make, x, axis, cut, x.shape[axis] - cut)
            x = make.node("concat", [after, window(make, x, axis, 0, cut)], axis=axis)
    return make.reshape(x, shape)


def _pixel_shuffle(make: NodeMaker, call: TorchCall) -> Ref:
    x, r = call.ref("self"), call.integer("upscale_factor")
    *batch, channels, height, width = x.shape
    n = len(batch)
    split = make.reshape(x, (*batch, channels // r // r, r, r, height, width))
    moved = make.transpose(split, (*range(n), n, n + 3, n + 1, n + 4, n + 2))
    return make.reshape(moved, call.shape)


def _pixel_unshuffle(make: NodeMaker, call: TorchCall) -> Ref:
    x, r = call.ref("self"), call.integer("downscale_factor")
    *batch, channels, height, width = x.shape
    n = len(batch)
    split = make.reshape(x, (*batch, channels, height // r, r, width // r, r))
    moved = make.transpose(split, (*range(n), n, n + 2, n + 4, n + 1, n + 3))
    return make.reshape(moved, call.shape)


def _embedding(make: NodeMaker, call: TorchCall) -> Ref:
    return make.node("gather", [call.ref("weight"), call.ref("indices")], axis=0)


def _index_select(make: NodeMaker, call: TorchCall) -> Ref:
    x, indices = call.ref("self"), call.ref("index")
    return make.reshape(
        make.node("gather", [x, indices], axis=call.axis("dim", x.rank)), call.shape
    )


def _gather(make: NodeMaker, call: TorchCall) -> Ref:
    x = call.ref("self")
    return make.node("gather_elements", [x, call.ref("index")], axis=call.axis("dim", x.rank))


def _index(make: NodeMaker, call: TorchCall) -> Ref:
    """`x[i, j, ...]` by integer tensors side by side: one gather over their joint axis."""
    x, given = call.ref("self"), call.refs("indices")
    found = [(place, ref) for place, ref in enumerate(given) if ref is not None]
    places = [place for place, _ in found]
    if any(ref.dtype.is_bool for _, ref in found):
        raise call.refuse("by a bool mask: the shape of the result depends on the data")
    if places != list(range(places[0], places[0] + len(places))):
        raise call.refuse("by tensors with a slice between them")
    first, extents = places[0], [x.shape[place] for place in places]
    flat = positive(make, make.cast(found[0][1], I64), extents[0])
    for (_, ref), extent in zip(found[1:], extents[1:], strict=True):
        rows = make.node("mul", [flat, make.scalar(extent, I64)])
        flat = make.node("add", [rows, positive(make, make.cast(ref, I64), extent)])
    if len(places) > 1:
        after = x.shape[first + len(places) :]
        x = make.reshape(x, (*x.shape[:first], int(np.prod(extents)), *after))
    return make.node("gather", [x, flat], axis=first)


def positive(make: NodeMaker, indices: Ref, extent: int) -> Ref:
    """Indices counted from the first element."""
    known = make.constants.get(indices.name)
    if known is not None:
        return make.new_constant(np.where(known.astype(np.int64) < 0, known + extent, known))
    return make.node("mod", [indices, make.scalar(extent, I64)], fmod=0)


def _full(value: float | None) -> Handler:
    """A tensor of one value, `fill_value` when it is None."""

    def handler(make: NodeMaker, call: TorchCall) -> Ref:
        name = "fill_value" if "fill_value" in call.given else "value"
        given = call.number(name) if value is None else value
        return make.full(call.shape, given, call.dtype)

    return handler


_VIEWS = (
    "view.default _unsafe_view.default reshape.default flatten.using_ints unflatten.int "
    "squeeze.dim squeeze.dims squeeze.default unsqueeze.default view_copy.default "
    "view_as.default reshape_as.default"
)

TABLE: Mapping[str, Handler] = {f"aten.{name}": _view for name in _VIEWS.split()} | {
    "aten.permute.default": _permute,
    "aten.transpose.int": _transpose,
    "aten.t.default": _transpose,
    "aten.numpy_T.default": lambda make, call: make.transpose(
        call.ref("self"), tuple(reversed(range(call.ref("self").rank)))
    ),
    "aten.swapaxes.default": _transpose,
    "aten.movedim.intlist": _movedim,
    "aten.movedim.int": _movedim,
    "aten.expand.default": _expand,
    "aten.expand_as.default": _expand,
    "aten.broadcast_to.default": _expand,
    "aten.slice.Tensor": _slice,
    "aten.narrow.default": _narrow,
    "aten.select.int": _select,
    "aten.split.Tensor": _split,
    "aten.split_with_sizes.default": _split,
    "aten.chunk.default": _split,
    "aten.unbind.int": _unbind,
    "aten.cat.default": _cat,
    "aten.stack.default": _stack,
    "aten.slice_scatter.default": _slice_scatter,
    "aten.select_scatter.default": _slice_scatter,
    "aten.copy.default": _copy,
    "aten.constant_pad_nd.default": _pad("constant", "pad"),
    "aten.reflection_pad1d.default": _pad("reflect"),
    "aten.reflection_pad2d.default": _pad("reflect"),
    "aten.reflection_pad3d.default": _pad("reflect"),
    "aten.replication_pad1d.default": _pad("edge"),
    "aten.replication_pad2d.default": _pad("edge"),
    "aten.replication_pad3d.default": _pad("edge"),
    "aten.repeat.default": _repeat,
    "aten.tile.default": _repeat,
    "aten.flip.default": _flip,
    "aten.roll.default": _roll,
    "aten.pixel_shuffle.default": _pixel_shuffle,
    "aten.pixel_unshuffle.default": _pixel_unshuffle,
    "aten.embedding.default": _embedding,
    "aten.index_select.default": _index_select,
    "aten.gather.default": _gather,
    "aten.index.Tensor": _index,
    "aten.full.default": _full(None),
    "aten.full_like.default": _full(None),
    "aten.new_full.default": _full(None),
    "aten.fill.Scalar": _full(None),
    "aten.zeros.default": _full(0.0),
    "aten.zeros_like.default": _full(0.0),
    "aten.new_zeros.default": _full(0.0),
    "aten.ones.default": _full(1.0),
    "aten.ones_like.default": _full(1.0),
    "aten.new_ones.default": _full(1.0),
}
"""The function that translates each operator."""
