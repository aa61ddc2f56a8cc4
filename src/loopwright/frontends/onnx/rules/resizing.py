"""ONNX's Resize and Upsample.

Nearest and linear interpolation are the operator resize of graphs. What else there is (cubic,
antialiased, of a crop) is a weighted sum of a few elements of a line for each dimension.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from loopwright.frontends.onnx.rules.call import OnnxCall, Rule

_PLAIN = frozenset(
    {"half_pixel", "pytorch_half_pixel", "half_pixel_symmetric", "asymmetric", "align_corners"}
)


@dataclass(frozen=True, slots=True)
class _Line:
    """A dimension that is resized: from `extent` to `out` elements, `scale` as the model says.

    `crop` is where the first and the last element lie, as shares of the extent.
    """

    axis: int
    extent: int
    out: int
    scale: float
    crop: tuple[float, float]


def _resize(call: OnnxCall) -> tuple[str]:
    shape, mode = call.shape(), call.text("mode", "nearest")
    lines = _lines(call, shape)
    if call.opset < 11:
        return (_before_opset_11(call, lines, mode),)
    coordinate = call.text("coordinate_transformation_mode", "half_pixel")
    shrinks = any(line.scale < 1 for line in lines) and call.integer("antialias", 0)
    plain = mode in ("nearest", "linear") and coordinate in _PLAIN and not shrinks
    if plain and (mode == "nearest" or not call.integer("exclude_outside", 0)):
        nearest = call.text("nearest_mode", "round_prefer_floor")
        return (_emitted(call, call.x(), lines, mode, coordinate, nearest),)
    return (_by_weights(call, lines, coordinate),)


def _emitted(
    call: OnnxCall,
    value: str,
    lines: Sequence[_Line],
    mode: str,
    coordinate: str,
    nearest: str,
) -> str:
    """`value` with `lines` resized, by the operator resize."""
    sizes = list(call.shape_of(value))
    scales = [1.0] * len(sizes)
    for line in lines:
        sizes[line.axis], scales[line.axis] = line.out, line.scale
    return call.emit(
        "resize",
        value,
        sizes=tuple(sizes),
        scales=tuple(scales),
        mode=mode,
        coordinate=coordinate,
        nearest=nearest,
    )


def _before_opset_11(call: OnnxCall, lines: Sequence[_Line], mode: str) -> str:
    """Resize-10, as onnxruntime has it: of the nearest, the one before, or after where it shrinks.

    Where elements lie was not an attribute: at `i / scale`.
    """
    value = call.x()
    for nearest, shrinks in (("floor", False), ("ceil", True)):
        chosen = [line for line in lines if (line.scale < 1) is shrinks]
        if chosen:
            value = _emitted(call, value, chosen, mode, "asymmetric", nearest)
    return value


def _upsample(call: OnnxCall) -> tuple[str]:
    shape = call.shape()
    if call.has(1):
        scales = tuple(float(s) for s in call.array(1, "the list of scales").reshape(-1))
    else:
        scales = tuple(float(s) for s in _floats(call, "scales"))
    made = call.emit(
        "resize",
        call.x(),
        sizes=tuple(math.floor(n * s) for n, s in zip(shape, scales, strict=True)),
        scales=scales,
        mode=call.text("mode", "nearest"),
        coordinate="asymmetric",
        nearest="floor",
    )
    return (made,)


def _floats(call: OnnxCall, name: str) -> tuple[float, ...]:
    value = call.attrs.get(name)
    if not isinstance(value, tuple):
        raise call.wrong(f"its attribute {name} is missing")
    return tuple(float(v) for v in value)


def _lines(call: OnnxCall, shape: Sequence[int]) -> tuple[_Line, ...]:
    """The dimensions that are resized, from the scales or the sizes that are given."""
    axes = call.normal(call.integers("axes", tuple(range(len(shape)))), len(shape))
    extents = [shape[axis] for axis in axes]
    where_scales = 1 if call.opset < 11 else 2
    choices = (where_scales, 3)
    given = [place for place in choices if call.has(place) and call.shape(place) != (0,)]
    if len(given) != 1:
        raise call.wrong("either scales or sizes must be given")
    if given[0] == where_scales:
        scales = [float(s) for s in call.array(where_scales, "the list of scales").reshape(-1)]
        sizes = [math.floor(n * s) for n, s in zip(extents, scales, strict=True)]
    else:
        sizes = list(call.known(3, "the list of sizes"))
        scales = [size / n for n, size in zip(extents, sizes, strict=True)]
        policy = call.text("keep_aspect_ratio_policy", "stretch")
        if policy != "stretch":
            scales = [min(scales) if policy == "not_larger" else max(scales)] * len(scales)
            sizes = [math.floor(n * s + 0.5) for n, s in zip(extents, scales, strict=True)]
    crop = [0.0] * len(axes) + [1.0] * len(axes)
    if call.text("coordinate_transformation_mode", "half_pixel") == "tf_crop_and_resize":
        crop = [float(v) for v in call.array(1, "the region").reshape(-1)]
    return tuple(
        _Line(axis, n, size, scale, (crop[k], crop[k + len(axes)]))
        for k, (axis, n, size, scale) in enumerate(zip(axes, extents, sizes, scales, strict=True))
        if n != size or scale != 1 or crop[k] != 0 or crop[k + len(axes)] != 1
    )


def _by_weights(call: OnnxCall, lines: Sequence[_Line], coordinate: str) -> str:
    """Input 0 with each line resized by weights; elements outside of a crop are replaced."""
    value, dtype, rank = call.x(), call.dtype(), call.rank()
    inside = np.ones((1,) * rank, np.bool_)
    for line in lines:
        places = _places(call, line, coordinate)
        taps = _table([_taps(call, line, place) for place in places])
        constants = [call.constant(taps[0]), call.constant(taps[1].astype(dtype.numpy))]
        value = call.emit("weighted_resize", value, *constants, axis=line.axis)
        shape = [1] * rank
        shape[line.axis] = line.out
        within = (places >= 0) & (places <= line.extent - 1)
        inside = inside & within.reshape(shape)
    if coordinate != "tf_crop_and_resize" or bool(np.all(inside)):
        return value
    outside = call.constant(call.number("extrapolation_value", 0.0), dtype)
    return call.emit("where", call.constant(inside), value, outside)


def _places(call: OnnxCall, line: _Line, coordinate: str) -> npt.NDArray[np.float64]:
    """Where the elements of the result lie in the source."""
    i = np.arange(line.out, dtype=np.float64)
    width = line.scale * line.extent
    centred = (i + 0.5) / line.scale - 0.5
    match coordinate:
        case "half_pixel":
            return centred
        case "pytorch_half_pixel":
            return centred if width > 1 else np.full(line.out, -0.5)
        case "half_pixel_symmetric":
            return line.extent / 2 * (1 - line.out / width) + centred
        case "asymmetric":
            return i / line.scale
        case "align_corners":
            return i * (line.extent - 1) / max(line.out - 1, 1)
        case "tf_half_pixel_for_nn":
            return (i + 0.5) / line.scale
        case "tf_crop_and_resize":
            first, last = (share * (line.extent - 1) for share in line.crop)
            if line.out == 1:
                return np.full(1, (first + last) / 2)
            return first + i * (last - first) / (line.out - 1)
        case _:
            raise call.refuse(f"the coordinate transformation {coordinate!r} is not supported")


_Taps: TypeAlias = tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]
"""Elements of a line, and how much each is part of a result."""


def _table(taps: Sequence[_Taps]) -> _Taps:
    """Lists of elements and their weights as tables with a row each, padded by elements -1."""
    longest = max(len(near) for near, _ in taps)
    places = np.full((len(taps), longest), -1, np.int64)
    weights = np.zeros((len(taps), longest))
    for row, (near, part) in enumerate(taps):
        places[row, : len(near)], weights[row, : len(near)] = near, part
    return places, weights


def _taps(call: OnnxCall, line: _Line, place: float) -> _Taps:
    """The elements of the source that the one at `place` is made of."""
    mode = call.text("mode", "nearest")
    if mode == "nearest":
        return np.array([min(max(_nearest(call, place), 0), line.extent - 1)]), np.ones(1)
    if mode not in ("linear", "cubic"):
        raise call.refuse(f"the mode {mode!r} is not supported")
    stretch = min(line.scale, 1.0) if call.integer("antialias", 0) else 1.0
    reach = 1 if mode == "linear" else 2
    first = math.floor(place - reach / stretch) + 1
    near = np.arange(first, math.floor(place + reach / stretch) + 1)
    away = np.abs(near - place) * stretch
    slope = call.number("cubic_coeff_a", -0.75)
    part = np.clip(1 - away, 0, 1) if mode == "linear" else _cubic(away, slope)
    if call.integer("exclude_outside", 0):
        within = (near >= 0) & (near < line.extent)
        near, part = near[within], part[within]
    return np.clip(near, 0, line.extent - 1), part / part.sum()


def _cubic(away: npt.NDArray[np.float64], a: float) -> npt.NDArray[np.float64]:
    """The weights of elements at such distances.

    Source: R. Keys, Cubic Convolution Interpolation for Digital Image Processing, 1981, eq. 15.
    """
    inner = ((a + 2) * away - (a + 3)) * away**2 + 1
    outer = ((a * away - 5 * a) * away + 8 * a) * away - 4 * a
    return np.where(away <= 1, inner, np.where(away < 2, outer, 0))


def _nearest(call: OnnxCall, place: float) -> int:
    match call.text("nearest_mode", "round_prefer_floor"):
        case "floor":
            return math.floor(place)
        case "ceil":
            return math.ceil(place)
        case "round_prefer_ceil":
            return math.floor(place + 0.5)
        case _:
            return math.ceil(place - 0.5)


RULES: Mapping[str, Rule] = {"Resize": _resize, "Upsample": _upsample}
