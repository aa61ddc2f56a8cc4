"""Inverse trigonometric and hyperbolic functions of a float32 or float64, as expressions.

Each keeps the precision of its dtype near 0 and at the ends of its range; beyond them it is NaN.
"""

from __future__ import annotations

import math

from loopwright.ir.expr import Expr, const
from loopwright.ops.exponential import log1p
from loopwright.te import functions as te

_LARGE = 1e10
"""From here on, 1 is nothing beside x squared, which float32 still has."""


def _like(size: Expr, x: Expr) -> Expr:
    """`size`, which is not negative, with the sign of `x`; a zero stays as it is."""
    return te.if_then_else(x < 0, -size, te.if_then_else(x.equal(0.0), x, size))


def atan(x: Expr) -> Expr:
    """The series of a small tangent; halving the angle makes it small.

    `atan(x) = pi / 2 - atan(1 / x)`, and `atan(x) = 2 atan(x / (1 + sqrt(1 + x * x)))`.
    """
    size = te.abs(x)
    steep = size > 1.0
    tangent = te.if_then_else(steep, 1.0 / size, size)
    halvings, terms = (2, 12) if x.dtype.bits == 64 else (1, 10)
    for _ in range(halvings):
        tangent = tangent / (te.sqrt(tangent * tangent + 1.0) + 1.0)
    square = tangent * tangent
    series = const(0.0, x.dtype)
    for n in reversed(range(terms)):
        series = series * square + (-1) ** n / (2 * n + 1)
    angle = tangent * series * float(2**halvings)
    return _like(te.if_then_else(steep, math.pi / 2 - angle, angle), x)


def asin(x: Expr) -> Expr:
    """The angle whose tangent is `x / sqrt(1 - x * x)`."""
    return atan(x / te.sqrt((1.0 - x) * (x + 1.0)))


def acos(x: Expr) -> Expr:
    """Twice the angle of half the arc: `tan(a / 2) = sqrt((1 - cos a) / (1 + cos a))`."""
    return atan(te.sqrt((1.0 - x) / (x + 1.0))) * 2.0


def asinh(x: Expr) -> Expr:
    """`log(x + sqrt(x * x + 1))`, with the sign of `x`."""
    size = te.abs(x)
    square = size * size
    near = log1p(size + square / (te.sqrt(square + 1.0) + 1.0))
    far = te.log(size) + math.log(2.0)
    return _like(te.if_then_else(size < _LARGE, near, far), x)


def acosh(x: Expr) -> Expr:
    """`log(x + sqrt(x * x - 1))`."""
    above = x - 1.0
    near = log1p(above + te.sqrt(above) * te.sqrt(x + 1.0))
    return te.if_then_else(x < _LARGE, near, te.log(x) + math.log(2.0))


def atanh(x: Expr) -> Expr:
    """`log((1 + x) / (1 - x)) / 2`."""
    size = te.abs(x)
    return _like(log1p(size * 2.0 / (1.0 - size)) * 0.5, x)
