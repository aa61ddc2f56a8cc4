"""Division, remainder and comparison on the linear forms of int64 index expressions.

A form is a `Linear` of atoms. An atom is a variable or an expression that is not affine (a
quotient, a minimum, a loaded index); atoms are distinguished by their text. `Forms` holds what one
simplification needs: the ranges of variables and a table of the atoms seen so far.

Division and ordering are not ring operations, so they look into a form only if it cannot wrap
around: when its bounds fit int64, or when its unbounded atoms are all made of variables (loop
variables and tensor axes never come near 2**63). A loaded int64 may be anything and stays opaque.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

from loopwright.ir import bounds as intervals
from loopwright.ir import walk
from loopwright.ir.bounds import Interval
from loopwright.ir.dtype import BOOL, I64
from loopwright.ir.expr import Binary, Call, Const, Expr, Fn, Op, Var
from loopwright.ir.linear import Linear
from loopwright.ir.printer import show

_LOWEST, _HIGHEST = -(1 << 63), (1 << 63) - 1

Form: TypeAlias = Linear[str]
"""Atoms are told apart by their text."""


def build(form: Linear[Expr]) -> Expr:
    """`form` as an expression, a positive term first if there is one."""
    terms, const = tuple(form.terms.items()), form.const
    if not terms:
        return Const(const, I64)
    lead = next((i for i, (_, c) in enumerate(terms) if c > 0), None)
    result: Expr
    if lead is not None:
        result = _scaled(*terms[lead])
        rest = (*terms[:lead], *terms[lead + 1 :])
    elif const > 0:
        result, rest, const = Const(const, I64), terms, 0
    else:
        result, rest = _scaled(*terms[0]), terms[1:]
    for atom, coeff in rest:
        result = Binary(Op.ADD if coeff > 0 else Op.SUB, result, _scaled(atom, abs(coeff)))
    if const:
        result = Binary(Op.ADD if const > 0 else Op.SUB, result, Const(abs(const), I64))
    return result


def _scaled(atom: Expr, coeff: int) -> Expr:
    if coeff == 1:
        return atom
    return Call(Fn.NEG, (atom,)) if coeff == -1 else Binary(Op.MUL, atom, Const(coeff, I64))


@dataclass(frozen=True, slots=True)
class _Quotient:
    """The parts of an atom `numerator // divisor` or `numerator % divisor`; divisor > 0."""

    op: Op
    numerator: Form
    divisor: int


class Forms:
    """Arithmetic on forms for one set of ranges; lives as long as one simplification."""

    def __init__(self, ranges: intervals.Ranges) -> None:
        self.ranges: Mapping[str, Interval] = ranges
        self._atoms: dict[str, Expr] = {}
        self._quotients: dict[str, _Quotient] = {}
        self._held: dict[str, Interval | None] = {}
        self._whole: dict[str, Form] = {}  # of an atom `x % c`, the form of `x // c`
        self._wild: set[str] = set()  # unbounded atoms that may hold any int64

    # --- making forms -------------------------------------------------------------------------

    def var(self, var: Var) -> Form:
        """The form of an int64 variable."""
        name = var.name
        if name not in self._atoms:
            self._atoms[name] = var
            self._held[name] = self.ranges.get(name)
        return Linear({name: 1}, 0)

    def atom(self, expr: Expr) -> Form:
        """The form of an expression that is not affine."""
        key = show(expr)
        if key not in self._atoms:
            self._atoms[key] = expr
            held = self._held[key] = intervals.bounds(expr, self.ranges)
            if held is None and any(not isinstance(n, _TAME) for n in walk.visit(expr)):
                self._wild.add(key)
        return Linear({key: 1}, 0)

    def _quotient(self, op: Op, numerator: Form, divisor: int) -> Form:
        """The atom `numerator op divisor` for `//` or `%` and a positive divisor."""
        terms = sorted(numerator.terms.items())
        inner = "+".join([f"{c}*{k}" for k, c in terms])
        key = f"({inner}+{numerator.const}){op.value}{divisor}"
        if key not in self._atoms:
            self._atoms[key] = Binary(op, self.expr(numerator), Const(divisor, I64))
            self._quotients[key] = _Quotient(op, numerator, divisor)
            self._held[key] = held = self._quotient_bounds(op, numerator, divisor)
            if held is None and not self._wild.isdisjoint(numerator.terms):
                self._wild.add(key)
        return Linear({key: 1}, 0)

    def _quotient_bounds(self, op: Op, numerator: Form, divisor: int) -> Interval | None:
        found = self.bounds(numerator)
        if found is not None and not (found[0] >= _LOWEST and found[1] <= _HIGHEST):
            found = None
        if op is Op.FLOORDIV:
            return None if found is None else (found[0] // divisor, found[1] // divisor)
        is_small = found is not None and found[0] >= 0 and found[1] < divisor
        return found if is_small else (0, divisor - 1)

    # --- reading forms ------------------------------------------------------------------------

    def linear(self, form: Form) -> Linear[Expr]:
        """`form` with its atoms as expressions, the largest coefficients first."""
        items = form.terms.items()
        ordered = sorted(items, key=lambda t: (-abs(t[1]), t[0])) if len(items) > 1 else items
        return Linear({self._atoms[k]: c for k, c in ordered}, form.const)

    def expr(self, form: Form) -> Expr:
        """`form` as an expression, in the canonical order."""
        if not form.const and len(form.terms) == 1:
            ((key, coeff),) = form.terms.items()
            return _scaled(self._atoms[key], coeff)
        return build(self.linear(form))

    def bounds(self, form: Form) -> Interval | None:
        """The inclusive interval of `form` as an unbounded integer, or None."""
        return form.bounds(self._held.__getitem__)

    def opens(self, form: Form) -> bool:
        """True when `form` cannot wrap around, so that division and ordering may look into it."""
        found = self.bounds(form)
        if found is None:
            return not self._wild or self._wild.isdisjoint(form.terms)
        return found[0] >= _LOWEST and found[1] <= _HIGHEST

    # --- ring operations ----------------------------------------------------------------------

    def add(self, a: Form, b: Form, times: int = 1) -> Form:
        """`a + times * b`."""
        form = a.plus(b, times)
        return self._recombine(form) if self._quotients else form

    def multiply(self, a: Form, b: Form) -> Form:
        """`a * b`; an atom unless one of them is a constant."""
        if not b.terms:
            return a.times(b.const)
        if not a.terms:
            return b.times(a.const)
        return self.atom(Binary(Op.MUL, *_in_order(self.expr(a), self.expr(b))))

    def _recombine(self, form: Form) -> Form:
        """`x//c*c + x%c -> x` and `x - x//c*c -> x%c`, wherever they occur in `form`."""
        for key, coeff in form.terms.items():
            found = self._quotients.get(key)
            if found is None:
                continue
            if found.op is Op.FLOORMOD:
                smaller = self._join(form, found, key, coeff)
            else:
                smaller = self._remainder(form, found, key, coeff)
            if smaller is not None:
                return self._recombine(smaller)
        return form

    def _join(self, form: Form, mod: _Quotient, key: str, coeff: int) -> Form | None:
        """`coeff*(x % c) + coeff*c*(x // c) -> coeff*x`."""
        div = self._whole.get(key)
        if div is None:
            div = self._whole[key] = self.floordiv(mod.numerator, mod.divisor)
        if not div.const and len(div.terms) == 1:
            ((other, one),) = div.terms.items()
            if one == 1 and form.terms.get(other) == coeff * mod.divisor:
                return self._joined(form, (key, other), mod.numerator, coeff)
        for other, scale in form.terms.items():
            found = self._quotients.get(other)
            if found is None or found.op is not Op.FLOORDIV or found.divisor != mod.divisor:
                continue
            if scale == coeff * mod.divisor and _congruent(found, mod):
                return self._joined(form, (key, other), found.numerator, coeff)
        return None

    def _joined(self, form: Form, gone: tuple[str, str], whole: Form, coeff: int) -> Form:
        """`form` with `coeff * whole` in place of the terms in `gone`."""
        terms = {k: c for k, c in form.terms.items() if k not in gone}
        return self.add(Linear(terms, form.const), whole, coeff)

    def _remainder(self, form: Form, div: _Quotient, key: str, coeff: int) -> Form | None:
        """`q*x - q*c*(x // c) -> q*(x % c)`."""
        times, odd = divmod(-coeff, div.divisor)
        x = div.numerator
        if odd or any(form.terms.get(k) != times * c for k, c in x.terms.items()):
            return None
        terms = {k: c for k, c in form.terms.items() if k != key and k not in x.terms}
        rest = Linear(terms, form.const - times * x.const)
        return self.add(rest, self.floormod(x, div.divisor), times)

    # --- division -----------------------------------------------------------------------------

    def floordiv(self, form: Form, divisor: int) -> Form:
        """`form // divisor`; terms that the divisor divides are divided exactly."""
        if divisor < 0:
            if not self.opens(form):
                return self.atom(Binary(Op.FLOORDIV, self.expr(form), Const(divisor, I64)))
            return self.floordiv(form.times(-1), -divisor)
        if divisor == 1:
            return form
        if not self.opens(form):
            return self._quotient(Op.FLOORDIV, form, divisor)
        whole, rest = _split(form.terms, divisor)
        carried, const = divmod(form.const, divisor)
        quotient = Linear({k: c // divisor for k, c in whole.items()}, carried)
        remainder = Linear(rest, const)
        block = self._block(remainder, divisor)
        if block is not None:
            return Linear(quotient.terms, carried + block)
        return self.add(quotient, self._floordiv_rest(remainder, divisor))

    def _floordiv_rest(self, form: Form, divisor: int) -> Form:
        """`form // divisor` where no coefficient is its multiple and the constant is below it."""
        for shared in _shared_factors(form, divisor):
            multiples, others = _split(form.terms, shared)
            block = self._block(Linear(others, form.const % shared), shared)
            if block is not None:
                reduced = {k: c // shared for k, c in multiples.items()}
                return self.floordiv(
                    Linear(reduced, form.const // shared + block), divisor // shared
                )
        inner = self._only_quotient(form)
        if inner is not None:
            if inner.op is Op.FLOORDIV and self.opens(inner.numerator):
                shifted = Linear(
                    inner.numerator.terms, inner.numerator.const + form.const * inner.divisor
                )
                return self.floordiv(shifted, divisor * inner.divisor)
            if inner.op is Op.FLOORMOD and inner.divisor % divisor == 0 and not form.const:
                return self.floormod(
                    self.floordiv(inner.numerator, divisor), inner.divisor // divisor
                )
        return self._quotient(Op.FLOORDIV, form, divisor)

    def floormod(self, form: Form, divisor: int) -> Form:
        """`form % divisor`; multiples of the divisor are dropped."""
        if divisor < 0:
            if not self.opens(form):
                return self.atom(Binary(Op.FLOORMOD, self.expr(form), Const(divisor, I64)))
            return self.floormod(form.times(-1), -divisor).times(-1)
        if divisor == 1:
            return Linear({}, 0)
        if not self.opens(form):
            return self._quotient(Op.FLOORMOD, form, divisor)
        _, rest = _split(form.terms, divisor)
        remainder = Linear(rest, form.const % divisor)
        block = self._block(remainder, divisor)
        if block is not None:
            return Linear(rest, remainder.const - block * divisor)
        if any(abs(c) >= divisor for c in rest.values()):
            return self.floormod(
                Linear({k: c % divisor for k, c in rest.items()}, remainder.const), divisor
            )
        return self._floormod_rest(remainder, divisor)

    def _floormod_rest(self, form: Form, divisor: int) -> Form:
        """`form % divisor` where coefficients and the constant are below it."""
        opened = self._drop_inner_mods(form, divisor)
        if opened is not None:
            return self.floormod(opened, divisor)
        for shared in _shared_factors(form, divisor):
            multiples, others = _split(form.terms, shared)
            low = Linear(others, form.const % shared)
            block = self._block(low, shared)
            if block is not None:
                high = Linear(
                    {k: c // shared for k, c in multiples.items()}, form.const // shared + block
                )
                outer = self.floormod(high, divisor // shared).times(shared)
                return self.add(outer, Linear(low.terms, low.const - block * shared))
        return self._quotient(Op.FLOORMOD, form, divisor)

    def _drop_inner_mods(self, form: Form, divisor: int) -> Form | None:
        """`(x % (m*divisor)) -> x` inside a remainder by `divisor`; None without one."""
        for key, coeff in form.terms.items():
            inner = self._quotients.get(key)
            if inner is None or inner.op is not Op.FLOORMOD or inner.divisor % divisor:
                continue
            if self.opens(inner.numerator):
                terms = {k: c for k, c in form.terms.items() if k != key}
                return self.add(Linear(terms, form.const), inner.numerator, coeff)
        return None

    def _only_quotient(self, form: Form) -> _Quotient | None:
        """The quotient or remainder that is the only term of `form`, with coefficient 1."""
        if len(form.terms) != 1:
            return None
        ((key, coeff),) = form.terms.items()
        return self._quotients.get(key) if coeff == 1 else None

    def _block(self, form: Form, size: int) -> int | None:
        """`form // size` if it is the same for all values; else None."""
        found = self.bounds(form)
        if found is None:
            return None
        block = found[0] // size
        return block if block == found[1] // size else None

    # --- ordering -----------------------------------------------------------------------------

    def compare(self, op: Op, a: Form, b: Form) -> Expr:
        """`a op b`: a constant where bounds decide it, else positive coefficients on both sides.

        Orderings become `<` or `>=`, divided by the common divisor of the coefficients.
        """
        difference = self.add(a, b, -1)
        is_same = not difference.terms and not difference.const
        if not is_same and not (self.opens(a) and self.opens(b) and self.opens(difference)):
            return Binary(op, self.expr(a), self.expr(b))
        found = self.bounds(difference)
        known = None if found is None else intervals.compare(op, found)
        if known is not None:
            return Const(known, BOOL)
        shared = math.gcd(*difference.terms.values())
        const = difference.const
        if op is Op.EQ or op is Op.NE:
            if const % shared:
                return Const(op is Op.NE, BOOL)
        else:
            if op is Op.LE or op is Op.GT:  # d <= 0 is d - 1 < 0, and d > 0 is d - 1 >= 0
                op, const = (Op.LT if op is Op.LE else Op.GE), const - 1
        terms = {k: c // shared for k, c in difference.terms.items()}
        const //= shared
        if op is Op.LT or op is Op.GE:
            terms, const = self._in_blocks(terms, const)
        return self._ordered(op, terms, const)

    def _in_blocks(self, terms: dict[str, int], const: int) -> tuple[dict[str, int], int]:
        """`sum(terms) + const`, or a coarser sum that is below 0 for the same values.

        `8 * a + b - 16` is below 0 where `a - 2` is, for b in 0..7.
        """
        for size in sorted({abs(c) for c in terms.values() if abs(c) > 1}, reverse=True):
            whole, rest = _split(terms, size)
            block = self._block(Linear(rest, const), size) if rest else None
            if block is not None:
                return {k: c // size for k, c in whole.items()}, block
        return terms, const

    def _ordered(self, op: Op, terms: dict[str, int], const: int) -> Expr:
        """`sum(terms) + const op 0` with every coefficient positive; `op` is <, >=, == or !=."""
        left = {k: c for k, c in terms.items() if c > 0}
        right = {k: -c for k, c in terms.items() if c < 0}
        if not left:
            if op is Op.LT or op is Op.GE:  # k - N < 0 is N >= k + 1
                op, const = (Op.GE if op is Op.LT else Op.LT), const + 1
            return Binary(op, self.expr(Linear(right, 0)), Const(const, I64))
        if not right:
            return Binary(op, self.expr(Linear(left, 0)), Const(-const, I64))
        return Binary(
            op, self.expr(Linear(left, max(const, 0))), self.expr(Linear(right, max(-const, 0)))
        )

    def extreme(self, op: Op, a: Form, b: Form) -> Form:
        """`min(a, b)` or `max(a, b)`; one of them where bounds decide it."""
        if a == b:
            return a
        if self.opens(a) and self.opens(b):
            found = self.bounds(self.add(a, b, -1))
            if found is not None and found[1] <= 0:
                return a if op is Op.MIN else b
            if found is not None and found[0] >= 0:
                return b if op is Op.MIN else a
        return self.atom(Binary(op, *_in_order(self.expr(a), self.expr(b))))


_TAME: TypeAlias = Var | Const | Binary


def _in_order(a: Expr, b: Expr) -> tuple[Expr, Expr]:
    """The operands of a commutative operator in the canonical order, a constant last."""
    if isinstance(a, Const) != isinstance(b, Const):
        return (b, a) if isinstance(a, Const) else (a, b)
    return (a, b) if show(a) <= show(b) else (b, a)


def _congruent(a: _Quotient, b: _Quotient) -> bool:
    """True when the numerators differ by a multiple of the common divisor."""
    names = a.numerator.terms.keys() | b.numerator.terms.keys()
    gaps = [a.numerator.terms.get(n, 0) - b.numerator.terms.get(n, 0) for n in names]
    gaps.append(a.numerator.const - b.numerator.const)
    return all(gap % a.divisor == 0 for gap in gaps)


def _split(terms: Mapping[str, int], divisor: int) -> tuple[dict[str, int], dict[str, int]]:
    """The terms whose coefficient `divisor` divides, and the others."""
    whole: dict[str, int] = {}
    rest: dict[str, int] = {}
    for key, coeff in terms.items():
        (rest if coeff % divisor else whole)[key] = coeff
    return whole, rest


def _shared_factors(form: Form, divisor: int) -> list[int]:
    """The common factors above 1 of `divisor` and coefficients of `form`, largest first."""
    found = {math.gcd(c, divisor) for c in form.terms.values()}
    return sorted((g for g in found if 1 < g < divisor), reverse=True)
