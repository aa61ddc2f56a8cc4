"""ATen's operators that put elements in other places, or in order."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from loopwright.frontends.torch.rules.call import Handler, NodeMaker, Ref, TorchCall
from loopwright.frontends.torch.rules.moves import positive, window
from loopwright.ir.dtype import BOOL, I32, I64

_REDUCTIONS = {
    "sum": "add", "add": "add", "prod": "mul", "multiply": "mul", "amax": "max", "amin": "min",
}  # fmt: skip


def _lines(make: NodeMaker, x: Ref) -> Ref:
    """`x`, which has one dimension at least."""
    return x if x.rank else make.reshape(x, (1,))


def _scatter(kind: str) -> Handler:
    """Updates along `dim`, put in place or combined by `kind`, or by the argument `reduce`."""

    def handler(make: NodeMaker, call: TorchCall) -> Ref:
        x, index = _lines(make, call.ref("self")), _lines(make, call.ref("index"))
        reduction = _REDUCTIONS.get(call.text("reduce", ""), kind)
        if call.text("reduce", "sum") not in _REDUCTIONS or not call.integer("include_self", 1):
            raise call.refuse(
                f"with reduce={call.text('reduce', '')!r}, include_self="
                f"{bool(call.integer('include_self', 1))}; use {', '.join(_REDUCTIONS)} with it"
            )
        source = call.given.get("src")
        if isinstance(source, Ref):
            updates = _first(make, _lines(make, source), index.shape)
        else:
            updates = make.full(index.shape, call.number("value"), x.dtype)
        axis = call.axis("dim", x.rank)
        made = make.node("scatter", [x, index, updates], axis=axis, reduction=reduction)
        return make.reshape(made, call.shape)

    return handler


def _first(make: NodeMaker, x: Ref, shape: tuple[int, ...]) -> Ref:
    """The first elements of `x` in each dimension."""
    for axis, size in enumerate(shape):
        x = window(make, x, axis, 0, size)
    return x


def _index_rows(kind: str) -> Handler:
    """Slices along `dim`, put in place or combined by `kind`."""

    def handler(make: NodeMaker, call: TorchCall) -> Ref:
        x, index = _lines(make, call.ref("self")), call.ref("index")
        axis = call.axis("dim", x.rank)
        count = index.shape[0] if index.rank else 1
        line = tuple(count if d == axis else 1 for d in range(x.rank))
        rows = tuple(count if d == axis else n for d, n in enumerate(x.shape))
        source = call.given.get("source")
        if isinstance(source, Ref):
            updates = make.reshape(make.cast(source, x.dtype), rows)
        else:
            updates = make.full(rows, call.number("value"), x.dtype)
        if call.number("alpha", 1.0) != 1.0:
            factor = make.operand(call, "alpha", x.dtype)
            updates = make.node("mul", [updates, factor])
        index = make.reshape(index, line)
        made = make.node("scatter", [x, index, updates], axis=axis, reduction=kind)
        return make.reshape(made, call.shape)

    return handler


def _index_put(make: NodeMaker, call: TorchCall) -> Ref:
    """`x[i, j, ...] = values`: the dimensions that are indexed come first, as one."""
    x, given = call.ref("self"), call.refs("indices")
    values = make.cast(call.ref("values"), x.dtype)
    found = {place: ref for place, ref in enumerate(given) if ref is not None}
    if any(ref.dtype == BOOL for ref in found.values()):
        return _masked_put(make, call, x, found, values)
    places = sorted(found)
    shape = np.broadcast_shapes(*(ref.shape for ref in found.values()))
    rest = [d for d in range(x.rank) if d not in found]
    together = places == list(range(places[0], places[0] + len(places)))
    before = [d for d in rest if d < places[0]] if together else []
    after = [d for d in rest if d not in before]
    spread = (*(x.shape[d] for d in before), *shape, *(x.shape[d] for d in after))
    values = values if values.shape == spread else make.node("expand", [values], shape=spread)
    middle = range(len(before), len(before) + len(shape))
    order = [*middle, *range(len(before)), *range(middle.stop, len(spread))]
    flat = _flat(make, x, found, shape)
    count, width = int(np.prod(shape)), int(np.prod([x.shape[d] for d in rest]))
    perm = [*places, *rest]
    rows = make.reshape(make.transpose(x, perm), (int(np.prod(x.shape)) // width, width))
    updates = make.reshape(make.transpose(values, order), (count, width))
    kind = "add" if call.integer("accumulate", 0) else "none"
    made = make.node("scatter", [rows, flat, updates], axis=0, reduction=kind)
    made = make.reshape(made, [x.shape[d] for d in perm])
    return make.transpose(made, [perm.index(d) for d in range(x.rank)])


def _flat(make: NodeMaker, x: Ref, found: Mapping[int, Ref], shape: tuple[int, ...]) -> Ref:
    """Indices of several dimensions as one of them flattened, [count, 1]."""
    first, *others = sorted(found)
    flat = positive(make, make.cast(found[first], I64), x.shape[first])
    for place in others:
        index = positive(make, make.cast(found[place], I64), x.shape[place])
        scaled = make.node("mul", [flat, make.scalar(x.shape[place], I64)])
        flat = make.node("add", [scaled, index])
    if flat.shape != shape:
        flat = make.node("expand", [flat], shape=shape)
    return make.reshape(flat, (int(np.prod(shape)), 1))


def _masked_put(
    make: NodeMaker, call: TorchCall, x: Ref, found: Mapping[int, Ref], values: Ref
) -> Ref:
    """`x[mask] = value`."""
    if len(found) != 1 or int(np.prod(values.shape)) != 1:
        raise call.refuse("by a bool mask with more than one value; use torch.where")
    ((place, mask),) = found.items()
    if call.integer("accumulate", 0):
        values = make.node("add", [x, make.reshape(values, ())])
    else:
        values = make.reshape(values, ())
    after = x.rank - place - mask.rank
    return make.node(
        "where", [make.reshape(mask, (*mask.shape, *(1 for _ in range(after)))), values, x]
    )


def _ordered(
    make: NodeMaker, call: TorchCall, count: int | None, *, largest: int
) -> tuple[Ref, Ref]:
    """The first `count` elements along `dim` in order, all of them without, and their places."""
    x = _lines(make, call.ref("self"))
    axis = call.axis("dim", x.rank, -1)
    keys = make.cast(x, I32) if x.dtype == BOOL else x
    total = x.shape[axis] if count is None else count
    places = make.node("order", [keys], axis=axis, count=total, largest=largest)
    return make.node("gather_elements", [x, places], axis=axis), places


def _top_k(make: NodeMaker, call: TorchCall) -> tuple[Ref, Ref]:
    largest = call.integer("largest", 1)
    values, places = _ordered(make, call, call.integer("k"), largest=largest)
    return make.reshape(values, call.shape), make.reshape(places, call.shape)


def _sort(make: NodeMaker, call: TorchCall) -> tuple[Ref, Ref]:
    values, places = _ordered(make, call, None, largest=call.integer("descending", 0))
    return make.reshape(values, call.shape), make.reshape(places, call.shape)


def _argsort(make: NodeMaker, call: TorchCall) -> Ref:
    return _sort(make, call)[1]


TABLE: Mapping[str, Handler] = {
    "aten.scatter.src": _scatter("none"),
    "aten.scatter.value": _scatter("none"),
    "aten.scatter.reduce": _scatter("none"),
    "aten.scatter.value_reduce": _scatter("none"),
    "aten.scatter_add.default": _scatter("add"),
    "aten.scatter_reduce.two": _scatter("none"),
    "aten.index_copy.default": _index_rows("none"),
    "aten.index_add.default": _index_rows("add"),
    "aten.index_fill.int_Scalar": _index_rows("none"),
    "aten.index_put.default": _index_put,
    "aten.topk.default": _top_k,
    "aten.sort.default": _sort,
    "aten.sort.stable": _sort,
    "aten.argsort.default": _argsort,
    "aten.argsort.stable": _argsort,
}
"""The function that translates each operator."""
