"""Operators that move elements: transposed, cut, joined, padded, gathered, in another shape."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

from loopwright.errors import ShapeError, UnsupportedError
from loopwright.ir.dtype import I64
from loopwright.ir.expr import Expr, const
from loopwright.ops.attributes import NodeAttrs, exact, integer, integers, text
from loopwright.ops.opdef import (
    Channels,
    Define,
    Inputs,
    OpDef,
    OpKind,
    Outputs,
    broadcast,
    element,
    given,
    read,
)
from loopwright.ops.padding import padded, pairs
from loopwright.ops.reduction import dimension
from loopwright.te import functions as te
from loopwright.te.tensor import Tensor, compute

MAX_PARTS = 4096
"""Tensors that one concatenation takes."""


def _transpose(inputs: Inputs, attrs: NodeAttrs, prefix: str) -> Outputs:
    x = given(inputs)
    perm = integers(attrs, "perm", tuple(reversed(range(x.ndim))))
    if sorted(perm) != list(range(x.ndim)):
        raise ShapeError(f"perm={perm} is not a permutation of {x.ndim} dimensions")
    shape = [x.shape[d] for d in perm]
    return (compute(shape, lambda *i: read(x, [i[perm.index(d)] for d in range(x.ndim)]), prefix),)


def _reshape(inputs: Inputs, attrs: NodeAttrs, prefix: str) -> Outputs:
    x, shape = given(inputs), integers(attrs, "shape")
    if math.prod(shape) != math.prod(x.shape):
        raise ShapeError(f"shape={shape} has another number of elements")
    groups = _matched(x.shape, shape)

    def body(*index: Expr) -> Expr:
        source: list[Expr] = [const(0)] * x.ndim
        for old, new in groups:
            for d, i in zip(old, _regrouped(x.shape, old, shape, new, index), strict=True):
                source[d] = i
        return read(x, source)

    return (compute(shape, body, prefix),)


def _matched(old: Sequence[int], new: Sequence[int]) -> list[tuple[list[int], list[int]]]:
    """Groups of dimensions, of extents other than 1, that hold the same elements in both shapes."""
    olds = [d for d, n in enumerate(old) if n > 1]
    news = [d for d, n in enumerate(new) if n > 1]
    groups: list[tuple[list[int], list[int]]] = []
    while olds:
        left, right = [olds.pop(0)], [news.pop(0)]
        while (have := math.prod(old[d] for d in left)) != (
            want := math.prod(new[d] for d in right)
        ):
            if have < want:
                left.append(olds.pop(0))
            else:
                right.append(news.pop(0))
        groups.append((left, right))
    return groups


def _regrouped(
    old: Sequence[int],
    left: Sequence[int],
    new: Sequence[int],
    right: Sequence[int],
    index: Sequence[Expr],
) -> list[Expr]:
    """The indices of the dimensions `left` at the place that `right` of `index` say."""
    flat = index[right[0]]
    for d in right[1:]:
        flat = flat * new[d] + index[d]
    if len(left) == 1:
        return [flat]
    found: list[Expr] = []
    step = math.prod(old[d] for d in left)
    for place, d in enumerate(left):
        step //= old[d]
        part = flat if place == 0 else flat % (step * old[d])
        found.append(part // step if step > 1 else part)
    return found


def _expand(inputs: Inputs, attrs: NodeAttrs, prefix: str) -> Outputs:
    x = given(inputs)
    shape = broadcast((x.shape, integers(attrs, "shape")))
    return (compute(shape, lambda *i: element(x, i, shape), prefix),)


def _tile(inputs: Inputs, attrs: NodeAttrs, prefix: str) -> Outputs:
    x, repeats = given(inputs), integers(attrs, "repeats")
    if len(repeats) != x.ndim or any(r < 1 for r in repeats):
        raise ShapeError(f"repeats={repeats} needs {x.ndim} numbers of at least 1")

    def source(i: Expr, extent: int, repeat: int) -> Expr:
        return i if repeat == 1 else const(0) if extent == 1 else i % extent

    def body(*index: Expr) -> Expr:
        return read(x, [source(*part) for part in zip(index, x.shape, repeats, strict=True)])

    return (compute([n * r for n, r in zip(x.shape, repeats, strict=True)], body, prefix),)


def _slice(inputs: Inputs, attrs: NodeAttrs, prefix: str) -> Outputs:
    x = given(inputs)
    starts, sizes = integers(attrs, "starts"), integers(attrs, "sizes")
    steps = integers(attrs, "steps", (1,) * x.ndim)
    if not len(starts) == len(sizes) == len(steps) == x.ndim:
        raise ShapeError(f"starts, steps and sizes need {x.ndim} numbers each")
    for start, step, size, extent in zip(starts, steps, sizes, x.shape, strict=True):
        if size < 1 or not (0 <= start < extent and 0 <= start + step * (size - 1) < extent):
            raise ShapeError(
                f"{size} elements from {start} in steps of {step} are not among {extent}"
            )

    def body(*index: Expr) -> Expr:
        moved = [i if step == 1 else i * step for i, step in zip(index, steps, strict=True)]
        return read(x, [i + s if s else i for i, s in zip(moved, starts, strict=True)])

    return (compute(sizes, body, prefix),)


def _concat(inputs: Inputs, attrs: NodeAttrs, prefix: str) -> Outputs:
    parts = [given(inputs, n) for n in range(len(inputs))]
    first = parts[0]
    axis = dimension(attrs, "axis", first.ndim)
    others = (first.shape[:axis], first.shape[axis + 1 :], first.dtype)
    if any((p.shape[:axis], p.shape[axis + 1 :], p.dtype) != others for p in parts):
        raise ShapeError(f"the inputs differ in more than dimension {axis}")
    total = sum(part.shape[axis] for part in parts)

    def body(*index: Expr) -> Expr:
        def element_of(part: Tensor, start: int) -> Expr:
            place = index[axis] - start if start else index[axis]
            return read(part, (*index[:axis], place, *index[axis + 1 :]))

        end = total - parts[-1].shape[axis]
        value = element_of(parts[-1], end)
        for part in reversed(parts[:-1]):
            start = end - part.shape[axis]
            value = te.if_then_else(index[axis] < end, element_of(part, start), value)
            end = start
        return value

    return (compute((*first.shape[:axis], total, *first.shape[axis + 1 :]), body, prefix),)


def _pad(inputs: Inputs, attrs: NodeAttrs, prefix: str) -> Outputs:
    x = given(inputs)
    around = pairs(integers(attrs, "pads"), x.ndim)
    mode = text(attrs, "mode", "constant")
    shape = [n + b + a for n, (b, a) in zip(x.shape, around, strict=True)]
    if any(n < 1 for n in shape):
        raise ShapeError(f"pads leave the shape {shape}")
    if mode == "constant":
        made = padded(x, around, exact(attrs, "value", 0.0), prefix)
        return (compute(x.shape, lambda *i: read(x, i), prefix) if made is x else made,)
    if mode not in _SOURCES:
        raise UnsupportedError(f"pad mode {mode!r}: use constant, {', '.join(_SOURCES)}")
    place = _SOURCES[mode]

    def body(*index: Expr) -> Expr:
        return read(
            x,
            [
                i if before == after == 0 else place(i - before if before else i, extent)
                for i, extent, (before, after) in zip(index, x.shape, around, strict=True)
            ],
        )

    return (compute(shape, body, prefix),)


def _reflected(i: Expr, extent: int) -> Expr:
    if extent == 1:
        return const(0)
    period = 2 * (extent - 1)
    return te.minimum(i % period, period - i % period)


_SOURCES: Mapping[str, Callable[[Expr, int], Expr]] = {
    "reflect": _reflected,
    "edge": lambda i, extent: te.minimum(te.maximum(i, 0), extent - 1),
    "wrap": lambda i, extent: i % extent,
}


def _depth_to_space(inputs: Inputs, attrs: NodeAttrs, prefix: str) -> Outputs:
    """Channel `(by * block + bx) * C + c` goes to channel c of row by, column bx of a block."""
    x, block = given(inputs), integer(attrs, "block")
    if x.ndim != 4 or block < 1 or x.shape[1] % (block * block):
        raise ShapeError(f"block={block} needs 4 dimensions and channels that it divides twice")
    n, depth, height, width = x.shape
    channels = depth // (block * block)

    def body(n: Expr, c: Expr, y: Expr, x_: Expr) -> Expr:
        plane = (y % block) * block + x_ % block
        return x[n, plane * channels + c, y // block, x_ // block]

    return (compute((n, channels, height * block, width * block), body, prefix),)


def _place(indices: Tensor, at: tuple[Expr, ...], extent: int) -> Expr:
    """The index that `indices` holds, counted from the end below 0.

    One that is out of bounds reads the nearest element: nothing outside of the tensor is touched.
    """
    found = read(indices, at).astype(I64)
    counted = te.if_then_else(found < 0, found + extent, found)
    return te.maximum(te.minimum(counted, extent - 1), 0)


def _check(indices: Tensor) -> None:
    if not indices.dtype.is_int:
        raise ShapeError(f"the indices are {indices.dtype}, not integers")


def _gather(inputs: Inputs, attrs: NodeAttrs, prefix: str) -> Outputs:
    x, indices = given(inputs, 0), given(inputs, 1)
    _check(indices)
    axis = dimension(attrs, "axis", x.ndim, 0)
    shape = (*x.shape[:axis], *indices.shape, *x.shape[axis + 1 :])
    behind = axis + indices.ndim

    def body(*i: Expr) -> Expr:
        place = _place(indices, i[axis:behind], x.shape[axis])
        return read(x, (*i[:axis], place, *i[behind:]))

    return (compute(shape, body, prefix),)


def _gather_elements(inputs: Inputs, attrs: NodeAttrs, prefix: str) -> Outputs:
    x, indices = given(inputs, 0), given(inputs, 1)
    _check(indices)
    axis = dimension(attrs, "axis", x.ndim, 0)
    if indices.ndim != x.ndim or any(
        n > m for d, (n, m) in enumerate(zip(indices.shape, x.shape, strict=True)) if d != axis
    ):
        raise ShapeError("the indices must fit into the input, but for the axis")

    def body(*i: Expr) -> Expr:
        place = _place(indices, i, x.shape[axis])
        return read(x, (*i[:axis], place, *i[axis + 1 :]))

    return (compute(indices.shape, body, prefix),)


def _row(
    define: Define,
    names: tuple[str, str, str],
    attrs: frozenset[str],
    channels: Channels = Channels.MIXED,
    most: int = 1,
    *,
    least: int = 1,
) -> OpDef:
    """A row of the table; `names` are ours and those in ONNX and torch."""
    return OpDef(
        name=names[0],
        kind=OpKind.MOVE,
        define=define,
        onnx=names[1],
        torch=names[2],
        channels=channels,
        alone=names[0] in ("reshape", "concat"),
        least=least,
        most=most,
        attrs=attrs,
    )


_SHAPE, _AXIS = frozenset({"shape"}), frozenset({"axis"})
OPS: tuple[OpDef, ...] = (
    _row(
        _depth_to_space,
        ("depth_to_space", "DepthToSpace", "pixel_shuffle"),
        frozenset({"block"}),
        Channels.KEPT,
    ),
    _row(_transpose, ("transpose", "Transpose", "permute"), frozenset({"perm"})),
    _row(_reshape, ("reshape", "Reshape", "reshape"), _SHAPE),
    _row(_expand, ("expand", "Expand", "expand"), _SHAPE),
    _row(_tile, ("tile", "Tile", "repeat"), frozenset({"repeats"})),
    _row(
        _slice,
        ("slice", "Slice", "slice"),
        frozenset({"starts", "steps", "sizes"}),
        Channels.UNMOVED,
    ),
    _row(_concat, ("concat", "Concat", "cat"), _AXIS, Channels.JOINED, MAX_PARTS),
    _row(
        _pad,
        ("pad", "Pad", "constant_pad_nd"),
        frozenset({"pads", "mode", "value"}),
        Channels.UNMOVED,
    ),
    _row(_gather, ("gather", "Gather", "index_select"), _AXIS, most=2, least=2),
    _row(_gather_elements, ("gather_elements", "GatherElements", "gather"), _AXIS, most=2, least=2),
)
