"""Functions made of exponentials and logarithms that keep the precision of a float's dtype.

Near 0 a difference of exponentials cancels, and at the ends of the range a power overflows before
the function does.
"""

from __future__ import annotations

from loopwright.ir.expr import Expr, const
from loopwright.te import functions as te

_LARGE = 20.0
"""From here on, exp(-x) is nothing beside exp(x), and exp(x / 2) squared overflows as late as it
may."""


def expm1(x: Expr) -> Expr:
    """`exp(x) - 1`; near 0, where that cancels, its series, which has a dtype's precision there."""
    series: Expr = const(1.0, x.dtype)
    for n in range(15 if x.dtype.bits == 64 else 9, 1, -1):
        series = x * (1.0 / n) * series + 1.0
    return te.if_then_else(te.abs(x) < 0.5, x * series, te.exp(x) - 1.0)


def log1p(x: Expr) -> Expr:
    """`log(1 + x)`, with what `1 + x` was rounded by.

    Source: D. Goldberg, What every computer scientist should know about floating-point arithmetic
    (1991), theorem 4.
    """
    total = x + 1.0
    lost = (x - (total - 1.0)) / total
    return te.log(total) + te.if_then_else(te.abs(x) < 1.0, lost, const(0.0, x.dtype))


def softplus(x: Expr) -> Expr:
    """`log(1 + exp(x))`, which does not overflow."""
    return te.maximum(x, 0.0) + log1p(te.exp(-te.abs(x)))


def sinh(x: Expr) -> Expr:
    """`(exp(x) - exp(-x)) / 2`."""
    size = te.abs(x)
    half, small = te.exp(size * 0.5), expm1(size)
    near = (small + small / (small + 1.0)) * 0.5
    grown = te.if_then_else(size < _LARGE, near, half * 0.5 * half)
    return te.if_then_else(x < 0, -grown, te.if_then_else(x > 0, grown, x))


def cosh(x: Expr) -> Expr:
    """`(exp(x) + exp(-x)) / 2`."""
    size = te.abs(x)
    half = te.exp(size * 0.5)
    power = half * half
    near = (power + 1.0 / power) * 0.5
    return te.if_then_else(size < _LARGE, near, half * 0.5 * half)
