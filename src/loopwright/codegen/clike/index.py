"""Indices and conditions as C-like text.

An index is affine in the lane of the open vectorized loop, or a tuple of scalars, one per lane.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable
from typing import TypeAlias

from loopwright.codegen.affine import (
    UNKNOWN,
    Idx,
    Scalar,
    constant,
    limits,
    plus,
    times,
    total_limits,
)
from loopwright.codegen.clike.operations import EmitState
from loopwright.codegen.conditions import Cond, Conditions, decide
from loopwright.codegen.indexing import IndexAlgebra
from loopwright.codegen.values import CodeValue
from loopwright.ir.dtype import I64
from loopwright.ir.expr import Expr, Op
from loopwright.ir.linear import Linear

LaneIndex: TypeAlias = Idx | tuple[Idx, ...]
_SYMBOLS = {Op.LT: "<", Op.LE: "<=", Op.GT: ">", Op.GE: ">=", Op.EQ: "==", Op.NE: "!="}


class ClikeIndices(IndexAlgebra[LaneIndex]):
    """Evaluates indices at the current point of emission.

    `position` is that of the lanes being emitted among those of their loop.
    """

    def __init__(self, state: EmitState) -> None:
        super().__init__()
        self._state = state
        self.position = constant(0)
        self._terms: dict[str, Scalar] = {}

    def of(self, idx: Idx) -> LaneIndex:
        """An index that is affine in the lane."""
        return idx

    def known(self, index: LaneIndex) -> int | None:
        """The value of a constant index, else None."""
        return index.const if isinstance(index, Idx) and index.is_const else None

    def lanes_of(self, index: LaneIndex) -> tuple[Idx, ...]:
        """The index of each lane."""
        if isinstance(index, Idx):
            start, step = index.const, index.lane
            lanes = range(self._state.lanes)
            return tuple(moved(index, start + step * i) for i in lanes)
        return index

    def add(self, a: LaneIndex, b: LaneIndex) -> LaneIndex:
        """`a + b`."""
        if isinstance(a, Idx) and isinstance(b, Idx):
            return _whole(plus(a, b))
        pairs = zip(self.lanes_of(a), self.lanes_of(b), strict=True)
        return _joined(_whole(plus(x, y)) for x, y in pairs)

    def scale(self, a: LaneIndex, factor: int) -> LaneIndex:
        """`a * factor`."""
        if isinstance(a, Idx):
            return _whole(times(a, factor))
        return _joined(_whole(times(x, factor)) for x in a)

    def multiply(self, lhs: LaneIndex, rhs: LaneIndex) -> LaneIndex:
        """`lhs * rhs`."""
        for a, b in ((lhs, rhs), (rhs, lhs)):
            number = self.known(a)
            if number is not None:
                return self.scale(b, number)
        return self._each(self._product, lhs, rhs)

    def extremum(self, op: Op, lhs: LaneIndex, rhs: LaneIndex) -> LaneIndex:
        """The smaller (MIN) or the larger (MAX) of two indices."""
        return self._each(lambda a, b: self._extremum(op, a, b), lhs, rhs)

    def divide(self, op: Op, idx: LaneIndex, divisor: int) -> LaneIndex | None:
        """Floor division or remainder by a positive constant."""
        if isinstance(idx, Idx):
            found = self._divide(op, idx, divisor)
            if found is not None:
                return found
        return _joined(_whole(self._divide(op, one, divisor)) for one in self.lanes_of(idx))

    def wrap(self, value: CodeValue) -> LaneIndex:
        """The int64 `value` as an index about which nothing is known."""
        if value.const is not None:
            return constant(int(value.const))
        if value.lanes == 1:
            return self._named(value.text, -UNKNOWN, UNKNOWN)
        lanes = range(value.lanes)
        return tuple(self._named(f"{value.text}[{i}]", -UNKNOWN, UNKNOWN) for i in lanes)

    def scalar(self, idx: Idx) -> str:
        """The text of an index that is the same in every lane, without parentheses around it."""
        parts = []
        for term, coef in idx.terms.items():
            parts.append(term.text if coef == 1 else f"{term.text} * {coef}")
        if idx.const or not parts:
            parts.append(str(idx.const))
        return " + ".join(parts).replace("+ -", "- ")

    def value(self, index: LaneIndex) -> CodeValue:
        """`index` as an int64 value."""
        body, prelude = self._state.body, self._state.prelude
        number = self.known(index)
        if number is not None:
            text = f"{number}L" if number >= 0 else f"({number}L)"
            return CodeValue(text, I64, 1, number)
        if isinstance(index, Idx) and index.is_scalar:
            return CodeValue(body.op(prelude.type("i64"), self.scalar(index)), I64)
        lanes = self._state.lanes
        kind = prelude.type("i64", lanes)
        texts = ", ".join(self.scalar(one) for one in self.lanes_of(index))
        return CodeValue(body.op(kind, f"({kind}){{{texts}}}"), I64, lanes)

    def _each(
        self, function: Callable[[Idx, Idx], Idx], lhs: LaneIndex, rhs: LaneIndex
    ) -> LaneIndex:
        if isinstance(lhs, Idx) and isinstance(rhs, Idx) and lhs.is_scalar and rhs.is_scalar:
            return function(lhs, rhs)
        pairs = zip(self.lanes_of(lhs), self.lanes_of(rhs), strict=True)
        return _joined(function(a, b) for a, b in pairs)

    def _product(self, lhs: Idx, rhs: Idx) -> Idx:
        corners = [x * y for x in limits(lhs, 1) for y in limits(rhs, 1)]
        lo, hi = max(min(corners), -UNKNOWN), min(max(corners), UNKNOWN)
        return self._computed(f"({self.scalar(lhs)}) * ({self.scalar(rhs)})", lo, hi)

    def _extremum(self, op: Op, lhs: Idx, rhs: Idx) -> Idx:
        difference = limits(_whole(plus(lhs, _whole(times(rhs, -1)))), 1)
        if difference[1] <= 0:
            return lhs if op is Op.MIN else rhs
        if difference[0] >= 0:
            return rhs if op is Op.MIN else lhs
        pick, symbol = (min, "<") if op is Op.MIN else (max, ">")
        a, b = self._operand(lhs), self._operand(rhs)
        (low_a, high_a), (low_b, high_b) = limits(lhs, 1), limits(rhs, 1)
        text = f"{a} {symbol} {b} ? {a} : {b}"
        return self._computed(text, pick(low_a, low_b), pick(high_a, high_b))

    def _operand(self, idx: Idx) -> str:
        if not idx.terms:
            return str(idx.const)
        return self._name(self.scalar(idx))

    def _divide(self, op: Op, idx: Idx, divisor: int) -> Idx | None:
        """A quotient or remainder that is affine in the lane; None where it is not.

        Multiples of the divisor divide exactly; the rest folds when its bounds lie between two
        multiples.
        """
        whole = {t: c // divisor for t, c in idx.terms.items() if c % divisor == 0}
        rest_terms = {t: c for t, c in idx.terms.items() if c % divisor}
        high, low = divmod(idx.const, divisor)
        lane_high, lane = divmod(idx.lane, divisor) if idx.lane % divisor == 0 else (0, idx.lane)
        rest = Idx(Linear(rest_terms, low), lane)
        lo, hi = limits(rest, self._state.lanes)
        quotient = Idx(Linear(whole, high), lane_high)
        if lo // divisor == hi // divisor:
            if op is Op.FLOORDIV:
                return moved(quotient, high + lo // divisor, lane_high)
            return moved(rest, low - (lo // divisor) * divisor, lane)
        if not rest.is_scalar:
            return None
        if op is Op.FLOORMOD:
            return self._remainder(rest, divisor, lo)
        text = self._quotient(rest, divisor, lo)
        part = self._computed(text, lo // divisor, hi // divisor)
        return _whole(plus(quotient, part))

    def _quotient(self, rest: Idx, divisor: int, lo: int) -> str:
        text = self.scalar(rest)
        if divisor & (divisor - 1) == 0:
            return f"({text}) >> {divisor.bit_length() - 1}"
        if lo >= 0:
            unsigned = self._state.prelude.type("u64")
            return f"({self._state.prelude.type('i64')})(({unsigned})({text}) / {divisor})"
        return f"{self._state.prelude.floor_divide()}({text}, {divisor})"

    def _remainder(self, rest: Idx, divisor: int, lo: int) -> Idx:
        if divisor & (divisor - 1) == 0:
            return self._computed(f"({self.scalar(rest)}) & {divisor - 1}", 0, divisor - 1)
        name = self._name(self._quotient(rest, divisor, lo))
        return self._computed(f"{self.scalar(rest)} - {name} * {divisor}", 0, divisor - 1)

    def _computed(self, text: str, lo: int, hi: int) -> Idx:
        return self._named(self._name(text), lo, hi)

    def _name(self, text: str) -> str:
        """The name of an int64 that `text` computes."""
        body = self._state.body
        return body.remembered(("index", text), self._state.prelude.type("i64"), text)

    def _named(self, name: str, lo: int, hi: int) -> Idx:
        """The index `name`; one name is one term, so that equal parts of a sum combine."""
        term = self._terms.get(name)
        if term is None:
            term = self._terms[name] = Scalar(name, None, lo, hi)
        return Idx(Linear({term: 1}))


class ClikeConditions(Conditions):
    """Conditions as ints of 0 or 1, and in lanes as masks of 0 or -1."""

    def __init__(
        self,
        state: EmitState,
        indices: ClikeIndices,
        index_of: Callable[[Expr], LaneIndex],
        value_of: Callable[[Expr], CodeValue],
    ) -> None:
        super().__init__(value_of, "1", "0")
        self._state = state
        self._indices = indices
        self._index_of = index_of

    def compare(self, op: Op, lhs: Expr, rhs: Expr) -> Cond:
        """`lhs op rhs` of index expressions."""
        indices = self._indices
        left, right = self._index_of(lhs), self._index_of(rhs)
        diff = indices.add(left, indices.scale(right, -1))
        if not isinstance(diff, Idx):
            return self._mask([self._one(op, one) for one in diff])
        folded = decide(op, *limits(diff, self._state.lanes))
        if folded is not None:
            return self.always if folded else self.never
        if diff.is_scalar:
            return Cond(None, self._state.body.op(self._kind(1), self._one(op, diff)))
        return self._affine(op, diff)

    def _affine(self, op: Op, diff: Idx) -> Cond:
        """A comparison that varies by lane: `terms + const + step * lane` against 0."""
        lanes = self._state.lanes
        low, high = total_limits(moved(diff, 0))
        end = diff.const + diff.lane * (lanes - 1)
        first = decide(op, low + diff.const, high + diff.const) is True
        last = decide(op, low + end, high + end) is True
        lo, hi = limits(diff, lanes)
        if not diff.terms or lo < -(1 << 31) or hi >= 1 << 31:
            texts = [self._one(op, one) for one in self._indices.lanes_of(diff)]
            return self._mask(texts)._replace(first=first, last=last)
        splat, kind = self._state.prelude.splat("i32", lanes), self._kind(lanes)
        steps = ", ".join(str(-diff.lane * i) for i in range(lanes))
        rest = self._indices.scalar(moved(diff, diff.const))
        narrow = self._state.prelude.type("i32")
        text = f"{splat}(({narrow})({rest})) {_SYMBOLS[op]} ({kind}){{{steps}}}"
        return Cond(None, self._state.body.op(kind, text), lanes, first, last)

    def _one(self, op: Op, idx: Idx) -> str:
        folded = decide(op, *limits(idx, 1))
        if folded is not None:
            return "1" if folded else "0"
        rest = self._indices.scalar(moved(idx, 0))
        return f"({rest} {_SYMBOLS[op]} {-idx.const})"

    def _mask(self, texts: list[str]) -> Cond:
        kind = self._kind(len(texts))
        lanes = ", ".join(f"-{text}" for text in texts)
        text = self._state.body.op(kind, f"({kind}){{{lanes}}}")
        return Cond(None, text, len(texts), texts[0] == "1", texts[-1] == "1")

    def inverted(self, cond: Cond) -> str:
        """Not `cond`, which is not a constant."""
        text = f"~{cond.text}" if cond.is_mask else f"!{cond.text}"
        return self._state.body.op(self._kind(cond.lanes), text)

    def combined(self, op: str, a: Cond, b: Cond) -> tuple[str, int]:
        """`a op b`, `and` or `or`, and its lanes; neither is a constant."""
        lanes = max(a.lanes, b.lanes)
        x, y = (self.mask(cond, lanes) for cond in (a, b))
        symbol = "&" if op == "and" else "|"
        return self._state.body.op(self._kind(lanes), f"{x} {symbol} {y}"), lanes

    def mask(self, cond: Cond, lanes: int) -> str:
        """`cond` in `lanes` lanes."""
        if cond.lanes == lanes:
            return cond.text
        return f"{self._state.prelude.splat('i32', lanes)}(-{cond.text})"

    def _kind(self, lanes: int) -> str:
        return self._state.prelude.type("i32", lanes)


def _whole(idx: Idx | None) -> Idx:
    """`idx`, never None: no index here has a part that is not affine in the lane."""
    return constant(0) if idx is None else idx


def moved(idx: Idx, const: int, lane: int = 0) -> Idx:
    """The scalars of `idx` with another constant, and another step from lane to lane."""
    return Idx(Linear(idx.terms, const), lane)


def _joined(lanes: Iterable[Idx]) -> LaneIndex:
    """The index with these lanes: affine when they are evenly spaced."""
    found = tuple(lanes)
    if all(one.terms == found[0].terms for one in found):
        steps = {b.const - a.const for a, b in itertools.pairwise(found)}
        if len(steps) == 1:
            return moved(found[0], found[0].const, steps.pop())
    return found
