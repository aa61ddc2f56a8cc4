"""Affine indices: sums of axes times constants."""

from __future__ import annotations

from loopwright.ir.expr import Expr, Var
from loopwright.ir.simplify import linear


def affine(expr: Expr) -> tuple[dict[str, int], int] | None:
    """Coefficients by variable and the constant of an affine index; None for any other."""
    form = linear(expr)
    coeffs = {atom.name: coeff for atom, coeff in form.terms if isinstance(atom, Var)}
    return (coeffs, form.const) if len(coeffs) == len(form.terms) else None
