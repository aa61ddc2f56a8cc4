"""Indices whose regions are exact: sums of axes, and such a sum divided by a constant.

A quotient or remainder of a sum is a sum again where loops are split to match: with y = 4 * yo + yi
and yi < 4, `y // 4` moves as yo and `y % 4` as yi. That holds when what the divisor does not divide
never carries, which is found from the extents of the loops.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from loopwright.ir.expr import Binary, Const, Expr, Op, const
from loopwright.ir.linear import Linear
from loopwright.ir.simplify import affine
from loopwright.sched.extent import Extent
from loopwright.sched.terms import Flag, LoopId, Terms, choose, divides, span


@dataclass(frozen=True, slots=True)
class IndexForm:
    """A sum of axes, by name, or `sum op divisor` where op is // or %."""

    total: Linear[str]
    op: Op | None = None
    divisor: int = 1

    def alike(self, other: IndexForm) -> bool:
        """True when `other` moves with the axes as this one; a sum may differ by its constant."""
        same = (self.op, self.divisor) == (other.op, other.divisor)
        gap = self.total.plus(other.total, -1)
        return same and not gap.terms and (self.op is None or not gap.const)

    def of(self, total: Expr) -> Expr:
        """The index as an expression, given its sum."""
        return total if self.op is None else Binary(self.op, total, const(self.divisor))

    def last(self, total: Extent) -> Extent:
        """The greatest index when the sum goes up to `total`."""
        if self.op is None:
            return total
        if self.op is Op.FLOORDIV:
            return total // self.divisor
        return (
            np.minimum(total, self.divisor - 1)
            if isinstance(total, np.ndarray)
            else min(total, self.divisor - 1)
        )

    def moved(
        self, terms: Terms, low: Extent, extents: Mapping[LoopId, Extent]
    ) -> tuple[Terms, Extent]:
        """How the index moves, and its least value, given those of its sum.

        Terms are not exact where a remainder carries.
        """
        if self.op is None:
            return terms, low
        rest: Extent = low % self.divisor
        whole = [divides(self.divisor, t.coeff) for t in terms]
        for term, even in zip(terms, whole, strict=True):
            rest = rest + choose(even, 0, span(term, extents[term.loop]))
        kept: Flag = rest < self.divisor
        if self.op is Op.FLOORDIV:
            coeffs = [
                choose(even, t.coeff // self.divisor, 0)
                for t, even in zip(terms, whole, strict=True)
            ]
        else:
            coeffs = [choose(even, 0, t.coeff) for t, even in zip(terms, whole, strict=True)]
        found = tuple(
            replace(t, coeff=c, exact=t.exact & kept)
            for t, c in zip(terms, coeffs, strict=True)
            if not (isinstance(c, int) and c == 0 and kept is True)
        )
        start = low // self.divisor if self.op is Op.FLOORDIV else low % self.divisor
        return found, start


def index_form(expr: Expr) -> IndexForm | None:
    """The form of an index; None when it has no such form."""
    op, divisor = None, 1
    match expr:
        case Binary(op=Op.FLOORDIV | Op.FLOORMOD, lhs=lhs, rhs=Const(value=value)) if value > 0:
            op, divisor, expr = expr.op, int(value), lhs
        case _:
            pass
    part = affine(expr)
    if part is None or any(c < 0 for c in part.terms.values()):
        return None
    return IndexForm(part, op, divisor)
