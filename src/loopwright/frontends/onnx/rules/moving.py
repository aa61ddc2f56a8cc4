"""ONNX operators that move elements: shapes, slices, concatenations, gathers, padding, resizing."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from loopwright.frontends.onnx.rules.call import OnnxCall, Rule


def _reshape(call: OnnxCall) -> tuple[str]:
    old = call.shape()
    wanted = list(call.known(1, "the new shape"))
    if not call.integer("allowzero", 0):
        for place, extent in enumerate(wanted):
            if extent == 0 and place >= len(old):
                raise call.wrong(f"shape {wanted}: there is no dimension {place} to keep")
            wanted[place] = old[place] if extent == 0 else extent
    return (call.reshape(call.x(), _filled(call, wanted, math.prod(old))),)


def _filled(call: OnnxCall, wanted: Sequence[int], total: int) -> tuple[int, ...]:
    """`wanted` with its -1 replaced by what is left of `total` elements."""
    rest = math.prod(e for e in wanted if e != -1)
    if wanted.count(-1) > 1 or (-1 in wanted and (not rest or total % rest)):
        raise call.wrong(f"{total} elements do not fit the shape {list(wanted)}")
    shape = tuple(total // rest if extent == -1 else extent for extent in wanted)
    if math.prod(shape) != total:
        raise call.wrong(f"{total} elements do not fit the shape {list(wanted)}")
    return shape


def _flatten(call: OnnxCall) -> tuple[str]:
    shape, axis = call.shape(), call.integer("axis", 1)
    if not -len(shape) <= axis <= len(shape):
        raise call.wrong(f"the axis {axis} is not there: it has {len(shape)} dimensions")
    axis = axis + len(shape) if axis < 0 else axis
    return (call.reshape(call.x(), (math.prod(shape[:axis]), math.prod(shape[axis:]))),)


def _axes(call: OnnxCall, place: int) -> tuple[int, ...] | None:
    """The axes at input `place`, or before opset 13 the attribute; None without."""
    if call.has(place):
        return call.known(place, "the list of axes")
    return call.integers("axes") if "axes" in call.attrs else None


def _squeeze(call: OnnxCall) -> tuple[str]:
    shape, axes = call.shape(), _axes(call, 1)
    dropped = (
        {d for d, extent in enumerate(shape) if extent == 1}
        if axes is None
        else set(call.normal(axes, len(shape)))
    )
    if any(shape[d] != 1 for d in dropped):
        raise call.wrong(f"the axes {sorted(dropped)} of {shape} are not all of extent 1")
    return (call.reshape(call.x(), [e for d, e in enumerate(shape) if d not in dropped]),)


def _unsqueeze(call: OnnxCall) -> tuple[str]:
    axes = _axes(call, 1)
    if axes is None:
        raise call.wrong("its axes are missing")
    old = list(call.shape())
    shape = [0] * (len(old) + len(axes))
    for axis in call.normal(axes, len(shape)):
        shape[axis] = 1
    left = iter(old)
    return (call.reshape(call.x(), [e or next(left, 1) for e in shape]),)


def _transpose(call: OnnxCall) -> tuple[str]:
    backwards = tuple(reversed(range(call.rank())))
    return (call.transpose(call.x(), call.integers("perm", backwards)),)


def _concat(call: OnnxCall) -> tuple[str]:
    rank = call.rank()
    axis = call.axis(0, rank)
    parts = [x for x in call.inputs if 0 not in call.shape_of(x)] or [call.x()]
    if len(parts) == 1:
        return (parts[0],)
    return (call.emit("concat", *parts, axis=axis),)


def _split(call: OnnxCall) -> tuple[str, ...]:
    axis = call.axis(0, call.rank())
    extent = call.shape()[axis]
    if call.has(1):
        sizes = call.known(1, "the sizes of the parts")
    elif "split" in call.attrs:
        sizes = call.integers("split")
    else:
        parts = call.integer("num_outputs", len(call.used))
        size = -(-extent // parts)
        sizes = tuple(min(size, extent - at) for at in range(0, size * parts, size))
    if sum(sizes) != extent or min(sizes, default=0) < 0:
        raise call.wrong(f"parts of {list(sizes)} do not make up {extent}")
    starts = [sum(sizes[:n]) for n in range(len(sizes))]
    return tuple(
        call.slice(call.x(), axis, at, size) if used else ""
        for at, size, used in zip(starts, sizes, call.used, strict=False)
    )


def _slice(call: OnnxCall) -> tuple[str]:
    shape = call.shape()
    if call.opset < 10:
        begins, ends = call.integers("starts"), call.integers("ends")
        axes = call.integers("axes", tuple(range(len(begins))))
    else:
        begins, ends = call.known(1, "the list of starts"), call.known(2, "the list of ends")
        axes = call.known(3, "the list of axes") if call.has(3) else tuple(range(len(begins)))
    strides = call.known(4, "the list of steps") if call.has(4) else (1,) * len(begins)
    if not len(begins) == len(ends) == len(axes) == len(strides):
        raise call.wrong(f"starts {begins}, ends {ends}, axes {axes}, steps {strides} differ")
    starts, steps, sizes = [0] * len(shape), [1] * len(shape), list(shape)
    for d, begin, end, step in zip(
        call.normal(axes, len(shape)), begins, ends, strides, strict=True
    ):
        if step == 0:
            raise call.wrong("a step is 0")
        places = range(*slice(begin, end, step).indices(shape[d]))
        starts[d], steps[d], sizes[d] = places.start, step, len(places)
    if tuple(sizes) == shape and all(step == 1 for step in steps):
        return (call.x(),)
    if 0 in sizes:
        return (call.constant(np.zeros(sizes, call.dtype().numpy)),)
    made = call.emit(
        "slice", call.x(), starts=tuple(starts), steps=tuple(steps), sizes=tuple(sizes)
    )
    return (made,)


def _gather(call: OnnxCall) -> tuple[str]:
    axis = call.axis(0, call.rank())
    indices = counted(call, call.x(1), call.shape()[axis])
    return (call.emit("gather", call.x(), indices, axis=axis),)


def _gather_elements(call: OnnxCall) -> tuple[str]:
    axis = call.axis(0, call.rank())
    indices = counted(call, call.x(1), call.shape()[axis])
    return (call.emit("gather_elements", call.x(), indices, axis=axis),)


def counted(call: OnnxCall, indices: str, extent: int) -> str:
    """Constant `indices` counted from the front, and checked; others stay as they are."""
    constant = call.builder.array(indices)
    if constant is None:
        return indices
    known: npt.NDArray[np.int64] = constant.astype(np.int64)
    if known.size and not (-extent <= known.min() and known.max() < extent):
        raise call.wrong(f"an index is outside of {extent} entries")
    if not (known < 0).any():
        return indices
    return call.constant(np.where(known < 0, known + extent, known))


def _pad(call: OnnxCall) -> tuple[str]:
    rank = call.rank()
    given = call.integers("pads") if call.opset < 11 else call.known(1, "the list of pads")
    axes = call.known(3, "the list of axes") if call.has(3) else tuple(range(rank))
    if len(given) != 2 * len(axes):
        raise call.wrong(
            f"it has {len(given)} pads for {len(axes)} dimensions; two each are needed"
        )
    pads = [0] * (2 * rank)
    for place, axis in enumerate(call.normal(axes, rank)):
        pads[axis], pads[axis + rank] = given[place], given[place + len(axes)]
    if not any(pads):
        return (call.x(),)
    mode = call.text("mode", "constant")
    value = call.scalar(2, "the padding value") if call.has(2) else call.number("value", 0.0)
    return (call.emit("pad", call.x(), pads=tuple(pads), mode=mode, value=value),)


def _expand(call: OnnxCall) -> tuple[str]:
    wanted = call.known(1, "the new shape")
    try:
        shape = np.broadcast_shapes(call.shape(), wanted)
    except ValueError as error:
        raise call.wrong(f"the shape {call.shape()} does not broadcast to {wanted}") from error
    return (call.x() if shape == call.shape() else call.emit("expand", call.x(), shape=shape),)


def _tile(call: OnnxCall) -> tuple[str]:
    repeats = call.known(1, "the numbers of repeats")
    if len(repeats) != call.rank():
        raise call.wrong(f"repeats {repeats} do not fit the shape {call.shape()}")
    if all(count == 1 for count in repeats):
        return (call.x(),)
    return (call.emit("tile", call.x(), repeats=repeats),)


def _depth_to_space(call: OnnxCall) -> tuple[str]:
    n, c, h, w = call.shape()
    block = call.integer("blocksize")
    less = c // block**2
    if call.text("mode", "DCR") == "DCR":
        split, perm = (n, block, block, less, h, w), (0, 3, 4, 1, 5, 2)
    else:
        split, perm = (n, less, block, block, h, w), (0, 1, 4, 2, 5, 3)
    moved = call.transpose(call.reshape(call.x(), split), perm)
    return (call.reshape(moved, (n, less, h * block, w * block)),)


def _space_to_depth(call: OnnxCall) -> tuple[str]:
    n, c, h, w = call.shape()
    block = call.integer("blocksize")
    split = call.reshape(call.x(), (n, c, h // block, block, w // block, block))
    if call.text("mode", "DCR") == "DCR":
        moved = call.transpose(split, (0, 3, 5, 1, 2, 4))
    else:
        moved = call.transpose(split, (0, 1, 3, 5, 2, 4))
    return (call.reshape(moved, (n, c * block**2, h // block, w // block)),)


def _trilu(call: OnnxCall) -> tuple[str]:
    rows, columns = call.shape()[-2:]
    shift = call.known(1, "the diagonal")[0] if call.has(1) else 0
    ones = np.ones((rows, columns), np.bool_)
    mask = np.triu(ones, shift) if call.integer("upper", 1) else np.tril(ones, shift)
    zero = call.constant(0, call.dtype())
    return (call.emit("where", call.constant(mask), call.x(), zero),)


RULES: Mapping[str, Rule] = {
    "Concat": _concat,
    "DepthToSpace": _depth_to_space,
    "Expand": _expand,
    "Flatten": _flatten,
    "Gather": _gather,
    "GatherElements": _gather_elements,
    "Pad": _pad,
    "Reshape": _reshape,
    "Slice": _slice,
    "SpaceToDepth": _space_to_depth,
    "Split": _split,
    "Squeeze": _squeeze,
    "Tile": _tile,
    "Transpose": _transpose,
    "Trilu": _trilu,
    "Unsqueeze": _unsqueeze,
}
