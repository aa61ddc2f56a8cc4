"""Resizing by nearest or linear interpolation, or by weights, one dimension after another.

Where an element lies in the source is a fraction (a * i + b) / c of small integers for nearly every
model, so that places are integer arithmetic and tiles stay affine. Scales that are not such a
fraction are computed in float64 as ONNX does.

Source: ONNX, Resize-19.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fractions import Fraction

from loopwright.errors import ShapeError, UnsupportedError
from loopwright.ir.dtype import F64, I64, accumulator
from loopwright.ir.expr import Expr, const
from loopwright.ops.attributes import NodeAttrs, integers, numbers, text
from loopwright.ops.opdef import Channels, Inputs, OpDef, OpKind, Outputs, given, read
from loopwright.ops.reduction import dimension
from loopwright.te import functions as te
from loopwright.te.tensor import Tensor, compute, reduce_axis

_LARGEST = 1 << 30
"""Of the integers of a fraction, so that products with an extent fit 62 bits."""


@dataclass(frozen=True, slots=True)
class _Line:
    """Where element i lies in the source: `shift + (i + offset) * factor / divisor`."""

    offset: float
    factor: float
    divisor: float
    shift: float

    def at(self, i: int) -> float:
        """The place of element i, rounded as float64 arithmetic does."""
        return self.shift + (i + self.offset) * self.factor / self.divisor

    def exactly(self, divisor: Fraction) -> tuple[int, int, int]:
        """The integers a, b, c of `(a * i + b) / c`, with another divisor."""
        slope = Fraction(self.factor) / divisor
        start = Fraction(self.shift) + Fraction(self.offset) * slope
        c = math.lcm(slope.denominator, start.denominator)
        return int(slope * c), int(start * c), c

    def expr(self, i: Expr) -> Expr:
        """The place of element i in float64."""
        moved = i.astype(F64) + self.offset if self.offset else i.astype(F64)
        scaled = moved * self.factor / self.divisor if self.factor != 1 else moved / self.divisor
        return scaled + self.shift if self.shift else scaled


def _line(coordinate: str, extent: int, out: int, scale: float) -> _Line:
    """Where the elements of a dimension lie.

    Raises: UnsupportedError for a coordinate transformation that is not known.
    """
    width = scale * extent
    match coordinate:
        case "half_pixel":
            return _Line(0.5, 1.0, scale, -0.5)
        case "pytorch_half_pixel":
            return _Line(0.5, 1.0, scale, -0.5) if width != 1 else _Line(0.0, 0.0, 1.0, -0.5)
        case "half_pixel_symmetric":
            return _Line(0.5, 1.0, scale, extent / 2 * (1 - out / width) - 0.5)
        case "asymmetric":
            return _Line(0.0, 1.0, scale, 0.0)
        case "align_corners":
            return _Line(0.0, extent - 1, max(out - 1, 1), 0.0)
        case _:
            raise UnsupportedError(
                f"resize coordinate {coordinate!r}: use half_pixel, pytorch_half_pixel, "
                "half_pixel_symmetric, asymmetric or align_corners"
            )


@dataclass(frozen=True, slots=True)
class _Nearest:
    """Which integer a place is rounded to: of a float, of a float expression, of a fraction.

    The fraction is given as numerator and denominator, of which the floor is taken at the end.
    """

    number: Callable[[float], int]
    expr: Callable[[Expr], Expr]
    fraction: Callable[[Expr, int], Expr]


def _prefer_floor(x: float) -> int:
    return math.floor(x) if x - math.floor(x) <= 0.5 else math.ceil(x)


def _prefer_ceil(x: float) -> int:
    return math.floor(x) if x - math.floor(x) < 0.5 else math.ceil(x)


_NEAREST: Mapping[str, _Nearest] = {
    "floor": _Nearest(math.floor, te.floor, lambda a, c: a // c),
    "ceil": _Nearest(math.ceil, te.ceil, lambda a, c: (a + (c - 1)) // c),
    "round_prefer_floor": _Nearest(
        _prefer_floor, lambda x: te.ceil(x - 0.5), lambda a, c: (a * 2 + (c - 1)) // (2 * c)
    ),
    "round_prefer_ceil": _Nearest(
        _prefer_ceil, lambda x: te.floor(x + 0.5), lambda a, c: (a * 2 + c) // (2 * c)
    ),
}


@dataclass(frozen=True, slots=True)
class _Axis:
    """One dimension that is resized; `fraction` is (a, b, c) where the places are one."""

    extent: int
    out: int
    line: _Line
    fraction: tuple[int, int, int] | None

    def clamped(self, place: Expr, low: int, high: int) -> Expr:
        """`place`, which lies in low..high, moved into the source."""
        found = te.maximum(place, 0) if low < 0 else place
        return te.minimum(found, self.extent - 1) if high >= self.extent else found

    def nearest(self, i: Expr, rule: _Nearest) -> Expr:
        """The element that element i takes."""
        ends = [rule.number(self.line.at(k)) for k in (0, self.out - 1)]
        if self.fraction is None:
            place = rule.expr(self.line.expr(i)).astype(I64)
            return self.clamped(place, min(ends) - 1, max(ends) + 1)
        a, b, c = self.fraction
        return self.clamped(rule.fraction(i * a + b, c), *ends)

    def linear(self, i: Expr) -> tuple[Expr, Expr, Expr]:
        """The elements below and above the place of i, and the float32 share of the one above."""
        if self.fraction is None:
            place = self.line.expr(i)
            floor = te.floor(place)
            low, share = floor.astype(I64), (place - floor).astype("float32")
        else:
            a, b, c = self.fraction
            whole = i * a + b
            low = whole // c
            share = (whole % c).astype("float32") * (1.0 / c)
        first, last = (math.floor(self.line.at(k)) for k in (0, self.out - 1))
        below = self.clamped(low, first - 1, last + 1)
        return below, self.clamped(low + 1, first, last + 2), share


def _axis(
    extent: int, out: int, line: _Line, divisor: Fraction | None, rule: _Nearest | None
) -> _Axis:
    """The dimension, with a fraction if that gives the places that float64 gives."""
    known = None if divisor is None else _fraction(line, divisor)
    if known is None or not all(_agrees(line, known, i, rule) for i in range(out)):
        return _Axis(extent, out, line, None)
    return _Axis(extent, out, line, known)


def _fraction(line: _Line, divisor: Fraction) -> tuple[int, int, int] | None:
    a, b, c = line.exactly(divisor)
    return (a, b, c) if max(abs(a), abs(b), c) < _LARGEST else None


def _agrees(line: _Line, known: tuple[int, int, int], i: int, rule: _Nearest | None) -> bool:
    a, b, c = known
    place, exact = line.at(i), Fraction(a * i + b, c)
    if rule is None:
        return abs(place - exact) < 1e-6
    return rule.number(place) == _rounded(rule, a * i + b, c)


def _rounded(rule: _Nearest, numerator: int, denominator: int) -> int:
    """What the rule makes of an exact fraction, all in integers."""
    floor, rest = divmod(numerator, denominator)
    if not rest:
        return floor
    return floor + rule.number(_side(rest, denominator))


def _side(rest: int, denominator: int) -> float:
    """A number between 0 and 1 on the same side of a half."""
    return 0.5 if 2 * rest == denominator else 0.25 if 2 * rest < denominator else 0.75


def _resize(inputs: Inputs, attrs: NodeAttrs, prefix: str) -> Outputs:
    x = given(inputs)
    sizes = integers(attrs, "sizes")
    mode, coordinate = text(attrs, "mode", "nearest"), text(attrs, "coordinate", "half_pixel")
    rounding = text(attrs, "nearest", "round_prefer_floor")
    given_scales = numbers(attrs, "scales", ()) or tuple(
        out / n for out, n in zip(sizes, x.shape, strict=False)
    )
    if len(sizes) != x.ndim or len(given_scales) != x.ndim or min((*sizes, 1)) < 1:
        raise ShapeError(f"sizes={sizes} and scales need {x.ndim} positive numbers each")
    if mode not in ("nearest", "linear"):
        raise UnsupportedError(f"resize mode {mode!r}: use nearest or linear")
    if rounding not in _NEAREST:
        raise UnsupportedError(f"resize nearest {rounding!r}: use one of {', '.join(_NEAREST)}")
    rule = _NEAREST[rounding] if mode == "nearest" else None
    axes = [
        None if n == out and scale == 1 else _resized(n, out, scale, coordinate, rule)
        for n, out, scale in zip(x.shape, sizes, given_scales, strict=True)
    ]
    if rule is None:
        return (_linear(x, sizes, axes, prefix),)

    def body(*index: Expr) -> Expr:
        return read(
            x,
            [
                i if axis is None else axis.nearest(i, rule)
                for i, axis in zip(index, axes, strict=True)
            ],
        )

    return (compute(sizes, body, prefix),)


def _resized(extent: int, out: int, scale: float, coordinate: str, rule: _Nearest | None) -> _Axis:
    """The first reading of the scale as a fraction that gives the right places, if one does."""
    line = _line(coordinate, extent, out, scale)
    corners = coordinate == "align_corners"
    exact = Fraction(out - 1) if corners else Fraction(out, extent)
    readings = (exact, Fraction(line.divisor).limit_denominator(1000), Fraction(line.divisor))
    for divisor in readings:
        if divisor:
            found = _axis(extent, out, line, divisor, rule)
            if found.fraction is not None:
                return found
    return _axis(extent, out, line, None, rule)


def _linear(x: Tensor, sizes: tuple[int, ...], axes: list[_Axis | None], prefix: str) -> Tensor:
    """Each element from its neighbours, two in each dimension that is resized."""
    kept = accumulator(x.dtype) if x.dtype.is_float else None
    if kept is None:
        raise ShapeError(f"linear interpolation needs floats, not {x.dtype}")

    def body(*index: Expr) -> Expr:
        sides = [
            ((i, None),) if axis is None else _neighbours(axis, i)
            for i, axis in zip(index, axes, strict=True)
        ]
        total: Expr | None = None
        for corner in itertools.product(*sides):
            value = read(x, [place for place, _ in corner]).astype(kept)
            for _, share in corner:
                value = value if share is None else value * share.astype(kept)
            total = value if total is None else total + value
        return const(0.0, x.dtype) if total is None else total.astype(x.dtype)

    return compute(sizes, body, prefix)


def _neighbours(axis: _Axis, i: Expr) -> tuple[tuple[Expr, Expr | None], ...]:
    """The two elements next to the place of i, each with its share."""
    below, above, share = axis.linear(i)
    return (below, 1.0 - share), (above, share)


def _weighted(inputs: Inputs, attrs: NodeAttrs, prefix: str) -> Outputs:
    """Each element along a dimension from a few of its line, `places`, by their `weights`.

    Both are [the new extent, how many]; a place of -1 counts nothing.
    """
    x, places, weights = (given(inputs, n) for n in range(3))
    axis = dimension(attrs, "axis", x.ndim)
    if places.ndim != 2 or places.shape != weights.shape or not places.dtype.is_int:
        raise ShapeError(f"places {list(places.shape)} and weights {list(weights.shape)} differ")
    out, count = places.shape
    kept = accumulator(x.dtype)

    def body(*i: Expr) -> Expr:
        k = reduce_axis(count, "k")
        place = read(places, (i[axis], k.var)).astype(I64)
        inside = te.maximum(te.minimum(place, x.shape[axis] - 1), 0)
        value = read(x, (*i[:axis], inside, *i[axis + 1 :])).astype(kept)
        part = value * read(weights, (i[axis], k.var)).astype(kept)
        return te.sum(te.if_then_else(place < 0, const(0, kept), part), axis=k)

    total = compute((*x.shape[:axis], out, *x.shape[axis + 1 :]), body, f"{prefix}.sum")
    return (compute(total.shape, lambda *i: read(total, i).astype(x.dtype), prefix),)


OPS: tuple[OpDef, ...] = (
    OpDef(
        name="weighted_resize",
        kind=OpKind.REDUCTION,
        define=_weighted,
        onnx="Resize",
        torch="",
        channels=Channels.MIXED,
        least=3,
        most=3,
        attrs=frozenset({"axis"}),
    ),
    OpDef(
        name="resize",
        kind=OpKind.MOVE,
        define=_resize,
        onnx="Resize",
        torch="upsample_nearest2d",
        channels=Channels.UNMOVED,
        attrs=frozenset({"sizes", "scales", "mode", "coordinate", "nearest"}),
    ),
)
