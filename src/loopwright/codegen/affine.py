"""Index expressions as sums, and their values at the current point of emission.

`parts` splits an int64 expression once into variables and atoms; an atom is any part that is not
affine (division, remainder, a product of variables, a loaded index). `Idx` is the value of such a
sum in one instance: unrolled variables have become part of the constant, the variable of the
vectorized loop is `lane`, everything else is a scalar.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from loopwright.ir.expr import Expr, Var
from loopwright.ir.linear import Linear, collect

UNKNOWN = 1 << 62
"""Bounds of a value about which nothing is known: -UNKNOWN..UNKNOWN."""


class Parts(NamedTuple):
    """An index as `variables + atoms`; the constant is that of `variables`."""

    variables: Linear[str]
    atoms: Linear[Expr]


class LoopFrame:
    """An open loop or a function's body, at whose head loop-invariant values are computed.

    `head` are the lines at its start; `memo` finds what they already compute.
    """

    __slots__ = ("depth", "head", "memo")

    def __init__(self, depth: int) -> None:
        self.depth = depth
        self.head: list[str] = []
        self.memo: dict[tuple[object, ...], str] = {}


class Scalar:
    """An i64 in an SSA name with the values it can take, lo <= value <= hi.

    `frame` is the innermost loop that it changes with; None: it was computed in the middle of a
    body.
    """

    __slots__ = ("frame", "hi", "lo", "text")

    def __init__(self, text: str, frame: LoopFrame | None, lo: int, hi: int) -> None:
        self.text = text
        self.frame = frame
        self.lo = lo
        self.hi = hi

    @staticmethod
    def interval(scalar: Scalar) -> tuple[int, int]:
        """The inclusive bounds of `scalar`."""
        return scalar.lo, scalar.hi


class Lanes(NamedTuple):
    """An index that is not affine in the lane: an i64 vector (name or literal), its bounds."""

    text: str
    lo: int
    hi: int


class Idx(NamedTuple):
    """`total + lane * (number of the lane) + vec`."""

    total: Linear[Scalar]
    lane: int = 0
    vec: Lanes | None = None

    @property
    def const(self) -> int:
        """The constant of the sum."""
        return self.total.const

    @property
    def terms(self) -> Mapping[Scalar, int]:
        """The coefficients of the scalars."""
        return self.total.terms

    @property
    def is_const(self) -> bool:
        """True when the value is `const`, the same in every lane."""
        return not self.total.terms and not self.lane and self.vec is None

    @property
    def is_scalar(self) -> bool:
        """True when every lane has the same value."""
        return not self.lane and self.vec is None


def constant(value: int, lane: int = 0) -> Idx:
    """The index `value`, plus `lane` for each lane."""
    return Idx(Linear({}, value), lane)


def in_lanes(text: str, lo: int, hi: int) -> Idx:
    """The index that is the i64 vector `text`, within lo..hi."""
    return Idx(Linear({}), vec=Lanes(text, lo, hi))


def plus(a: Idx, b: Idx) -> Idx | None:
    """`a + b`; None when both have a non-affine lane part."""
    if a.vec is not None and b.vec is not None:
        return None
    return Idx(a.total.plus(b.total), a.lane + b.lane, a.vec if b.vec is None else b.vec)


def times(a: Idx, factor: int) -> Idx | None:
    """`a * factor`; None when `a` has a non-affine lane part and the factor is not 0 or 1."""
    if factor == 1:
        return a
    if a.vec is not None and factor:
        return None
    return Idx(a.total.times(factor), a.lane * factor)


def limits(idx: Idx, lanes: int) -> tuple[int, int]:
    """The inclusive bounds of `idx` over all its scalars and lanes."""
    lo, hi = total_limits(idx)
    last = idx.lane * (lanes - 1)
    lo, hi = lo + min(0, last), hi + max(0, last)
    if idx.vec is not None:
        lo, hi = lo + idx.vec.lo, hi + idx.vec.hi
    return max(lo, -UNKNOWN), min(hi, UNKNOWN)


def total_limits(idx: Idx) -> tuple[int, int]:
    """The inclusive bounds of the part of `idx` that all lanes share."""
    return idx.total.bounds(Scalar.interval) or (idx.const, idx.const)


def parts(expr: Expr) -> Parts:
    """The sum that the int64 `expr` is."""
    form = collect(expr, lambda part: part.name if isinstance(part, Var) else part)
    names, atoms = dict[str, int](), dict[Expr, int]()
    for key, coeff in form.terms.items():
        if isinstance(key, str):
            names[key] = coeff
        else:
            atoms[key] = coeff
    return Parts(Linear(names, form.const), Linear(atoms))
