"""Which accesses of a kernel stay in their buffers, by bounds of indices under the guards around.

A guard is kept as forms that are at most 0: `x_o*16 + x_i < 56` is `x_o*16 + x_i - 55 <= 0`. For a
form G <= 0 and any m >= 0, an index L is at most L - m*G and at least L + m*G; with m chosen so
that a variable cancels, that is how a guard bounds the index behind it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeAlias

from loopwright.ir import walk
from loopwright.ir.bounds import Interval
from loopwright.ir.expr import Binary, Buffer, Call, Expr, Fn, Load, Op, Select, Var
from loopwright.ir.forms import Form, Forms
from loopwright.ir.kernel import Kernel
from loopwright.ir.linear import Linear
from loopwright.ir.printer import show
from loopwright.ir.simplify import form_of, simplify
from loopwright.ir.stmt import Alloc, Block, For, If, Stmt, Store

_Facts: TypeAlias = tuple[Form, ...]
"""Forms that are at most 0 wherever control gets to."""


@dataclass(frozen=True, slots=True)
class Unproven:
    """An access with an index that may leave its dimension, as far as bounds tell.

    `interval` is what is known of the index, inclusive; None where nothing is.
    """

    buffer: str
    dimension: int
    index: str
    interval: Interval | None
    extent: int

    def __str__(self) -> str:
        known = "anything" if self.interval is None else f"{self.interval[0]}..{self.interval[1]}"
        return (
            f"{self.buffer}: index {self.index} of dimension {self.dimension} is {known}, "
            f"the extent is {self.extent}"
        )


def unproven_accesses(kernel: Kernel) -> tuple[Unproven, ...]:
    """The accesses of `kernel` that cannot be shown to be in bounds; none is proof that all are.

    Conditions of If and Select around an access are used, loads in conditions are checked too.

    Requires: a verified kernel.
    """
    ranges = {loop.var.name: (0, loop.extent - 1) for loop in walk.loops(kernel.body)}
    return tuple(_Prover(Forms(ranges)).stmts(kernel.body))


def _within(interval: Interval | None, extent: int) -> bool:
    return interval is not None and interval[0] >= 0 and interval[1] < extent


class _Prover:
    def __init__(self, forms: Forms) -> None:
        self._forms = forms

    def stmts(self, body: Stmt) -> Iterator[Unproven]:
        todo: list[tuple[Stmt, _Facts]] = [(body, ())]
        while todo:
            stmt, facts = todo.pop()
            match stmt:
                case For(body=inner) | Alloc(body=inner):
                    todo.append((inner, facts))
                case Block(stmts=parts):
                    todo.extend((s, facts) for s in reversed(parts))
                case If(cond=cond, then=then, otherwise=otherwise):
                    yield from self._loads(cond, facts)
                    if otherwise is not None:
                        todo.append((otherwise, (*facts, *self._unless(cond))))
                    todo.append((then, (*facts, *self._given(cond))))
                case Store(buffer=buffer, indices=indices):
                    yield from self._access(buffer, indices, facts)
                    for expr in walk.exprs(stmt):
                        yield from self._loads(expr, facts)

    def _loads(self, expr: Expr, facts: _Facts) -> Iterator[Unproven]:
        todo: list[tuple[Expr, _Facts]] = [(expr, facts)]
        while todo:
            current, known = todo.pop()
            if isinstance(current, Select):
                todo.append((current.cond, known))
                todo.append((current.yes, (*known, *self._given(current.cond))))
                todo.append((current.no, (*known, *self._unless(current.cond))))
                continue
            if isinstance(current, Load):
                yield from self._access(current.buffer, current.indices, known)
            todo.extend((kid, known) for kid in walk.exprs(current))

    def _access(
        self, buffer: Buffer, indices: tuple[Expr, ...], facts: _Facts
    ) -> Iterator[Unproven]:
        for dimension, (index, extent) in enumerate(zip(indices, buffer.shape, strict=True)):
            interval = self._bounds(form_of(self._forms, index), facts)
            if facts and not _within(interval, extent):
                # A variable inside a quotient does not cancel; its own range has to shrink.
                narrow, known = self._narrowed(facts)
                interval = narrow._bounds(form_of(narrow._forms, index), known)
            if not _within(interval, extent):
                yield Unproven(buffer.name, dimension, show(index), interval, extent)

    # conditions

    def _given(self, cond: Expr) -> _Facts:
        """What holds where `cond` does."""
        facts: list[Form] = []
        todo = [simplify(cond, self._forms.ranges)]
        while todo:
            current = todo.pop()
            if isinstance(current, Binary):
                if current.op is Op.AND:
                    todo += [current.lhs, current.rhs]
                elif current.lhs.dtype.is_int and current.lhs.dtype.bits == 64:
                    facts += self._comparison(current)
        return tuple(facts)

    def _unless(self, cond: Expr) -> _Facts:
        """What holds where `cond` does not."""
        negated = cond
        if isinstance(cond, Binary) and cond.op is Op.OR:  # neither side holds
            return (*self._unless(cond.lhs), *self._unless(cond.rhs))
        if not isinstance(cond, Binary) or cond.op is not Op.AND:
            negated = Call(Fn.NOT, (cond,))
            return self._given(negated)
        return ()

    def _comparison(self, cond: Binary) -> list[Form]:
        """Forms that are at most 0 where an integer comparison holds."""
        forms = self._forms
        left, right = form_of(forms, cond.lhs), form_of(forms, cond.rhs)
        if not (forms.opens(left) and forms.opens(right)):
            return []
        below, above = forms.add(left, right, -1), forms.add(right, left, -1)
        one = Linear[str]({}, 1)
        rules = {
            Op.LE: [below],
            Op.GE: [above],
            Op.LT: [forms.add(below, one)],
            Op.GT: [forms.add(above, one)],
            Op.EQ: [below, above],
        }
        return rules.get(cond.op, [])

    def _narrowed(self, facts: _Facts) -> tuple[_Prover, _Facts]:
        """A prover with the ranges of variables cut by `facts`, and the facts it can use."""
        ranges = dict(self._forms.ranges)
        linear = tuple(f for f in facts if ranges.keys() >= f.terms.keys())
        for fact in (*linear, *linear):  # twice: one cut may allow another
            lows = {k: min(c * ranges[k][0], c * ranges[k][1]) for k, c in fact.terms.items()}
            for name, coeff in fact.terms.items():
                room = -fact.const - sum(lows.values()) + lows[name]  # coeff * name <= room
                low, high = ranges[name]
                if coeff > 0:
                    ranges[name] = (low, max(low, min(high, room // coeff)))
                else:
                    ranges[name] = (min(high, max(low, -(room // -coeff))), high)
        narrow = _Prover(Forms(ranges))
        for name in {k for fact in linear for k in fact.terms}:
            narrow._forms.var(Var(name))
        return narrow, linear

    # indices

    def _bounds(self, index: Form, facts: _Facts) -> Interval | None:
        """Bounds of `index` where all `facts` are at most 0."""
        if not self._forms.opens(index):
            return None
        high = self._highest(index, facts)
        low = self._highest(index.times(-1), facts)
        return None if high is None or low is None else (-low, high)

    def _highest(self, index: Form, facts: _Facts) -> int | None:
        """An upper bound of `index`: facts are subtracted while one of them lowers the bound."""
        found = self._forms.bounds(index)
        if found is None:
            return None
        best = found[1]
        for _ in facts:
            candidates = [
                (self._forms.bounds(lower), lower)
                for fact in facts
                for lower in self._lowered(index, fact)
            ]
            improved = [(b[1], f) for b, f in candidates if b is not None and b[1] < best]
            if not improved:
                break
            best, index = min(improved, key=lambda c: c[0])
        return best

    def _lowered(self, index: Form, fact: Form) -> Iterator[Form]:
        """`index - m * fact` for each m > 0 that cancels a term of `index`."""
        times = {index.terms.get(key, 0) // coeff for key, coeff in fact.terms.items()}
        for m in sorted(times):
            if m > 0:
                yield self._forms.add(index, fact, -m)
