"""Index expressions as LLVM text: evaluation in an instance, hoisted sums, divisions, vectors.

What can be computed while emitting is: unrolled variables are integers, divisions fold when the
bounds of their operands allow it. The rest is computed once, in the head of the innermost loop that
it varies with.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping

from loopwright.codegen.affine import (
    UNKNOWN,
    Idx,
    LoopFrame,
    Scalar,
    constant,
    in_lanes,
    limits,
    plus,
    times,
)
from loopwright.codegen.indexing import IndexAlgebra
from loopwright.codegen.llvm.builder import FunctionText
from loopwright.codegen.llvm.types import vector_literal
from loopwright.codegen.values import CodeValue
from loopwright.ir.dtype import I64
from loopwright.ir.expr import Op
from loopwright.ir.linear import Linear


class Indices(IndexAlgebra[Idx]):
    """Evaluates index expressions at the current point of emission.

    `env` binds the variables of all open loops: an int for an unrolled one, else an `Idx`. `lanes`
    is the width of the open vectorized loop, 1 outside of one. `epoch` changes when anything but an
    int is bound or released, and with the function.
    """

    def __init__(self, text: FunctionText) -> None:
        super().__init__()
        self.text = text
        self.lanes = 1
        self.epoch = 0
        self._terms: dict[str, Scalar] = {}

    def of(self, idx: Idx) -> Idx:
        """Itself: every index here has this form."""
        return idx

    def known(self, index: Idx) -> int | None:
        """The value of a constant index, else None."""
        return index.const if index.is_const else None

    def add(self, a: Idx, b: Idx) -> Idx:
        """`a + b`."""
        total = plus(a, b)
        if total is not None:
            return total
        lo, hi = limits(a, self.lanes), limits(b, self.lanes)
        text = self.text.op(f"add <{self.lanes} x i64> {self.vector(a)}, {self.vector(b)}")
        return in_lanes(text, lo[0] + hi[0], lo[1] + hi[1])

    def scale(self, a: Idx, factor: int) -> Idx:
        """`a * factor`."""
        total = times(a, factor)
        if total is not None:
            return total
        lo, hi = sorted(v * factor for v in limits(a, self.lanes))
        text = self.text.op(f"mul <{self.lanes} x i64> {self.vector(a)}, splat (i64 {factor})")
        return in_lanes(text, lo, hi)

    def scalar(self, idx: Idx) -> str:
        """An i64 (name or literal) with the value of a scalar index; hoisted as far as it goes."""
        if not idx.terms:
            return str(idx.const)
        total = self._sum(idx.terms)
        if not idx.const:
            return total
        frame = self.text.innermost(idx.terms)
        return self.text.hoisted(("+", total, idx.const), frame, f"add i64 {total}, {idx.const}")

    def _sum(self, terms: Mapping[Scalar, int]) -> str:
        """`sum(coef * term)`, outer loops first, each partial sum where its last term is bound."""
        total = ""
        frame: LoopFrame | None = self.text.frames[0]
        for term, coef in sorted(terms.items(), key=_depth):
            frame = deeper(frame, term.frame)
            part = self.product(term, coef)
            if total:
                part = self.text.hoisted(("+", total, part), frame, f"add i64 {total}, {part}")
            total = part
        return total

    def product(self, term: Scalar, coef: int) -> str:
        """`coef * term` as an i64 name."""
        if coef == 1:
            return term.text
        return self.text.hoisted(("*", term.text, coef), term.frame, f"mul i64 {term.text}, {coef}")

    def vector(self, idx: Idx, bits: int = 64) -> str:
        """A `<lanes x i64>` (or narrower) with the value of `idx` in every lane."""
        kind, lanes = f"i{bits}", self.lanes
        if not idx.terms and idx.vec is None:
            return vector_literal(kind, [idx.const + idx.lane * i for i in range(lanes)])
        ramp = vector_literal(kind, [idx.const + idx.lane * i for i in range(lanes)])
        flat = idx.const == 0 and idx.lane == 0
        total = ""
        if idx.terms:
            total = self.splat(self.narrow(self._sum(idx.terms), idx.terms, bits), kind)
        if idx.vec is not None:
            vec = idx.vec.text
            if bits != 64:
                vec = self.text.op(f"trunc <{lanes} x i64> {vec} to <{lanes} x {kind}>")
            total = self.text.op(f"add <{lanes} x {kind}> {total}, {vec}") if total else vec
        return total if flat else self.text.op(f"add <{lanes} x {kind}> {total}, {ramp}")

    def narrow(self, text: str, terms: Mapping[Scalar, int], bits: int) -> str:
        """The i64 `text`, a sum of `terms`, truncated to `bits`."""
        if bits == 64:
            return text
        frame = self.text.innermost(terms)
        return self.text.hoisted(("trunc", text, bits), frame, f"trunc i64 {text} to i{bits}")

    def splat(self, text: str, kind: str, lanes: int | None = None) -> str:
        """The scalar `text` of LLVM type `kind` in every lane of the open loop, or in `lanes`.

        A register slot keeps its lanes where no vectorized loop is open: between two of them.
        """
        lanes = self.lanes if lanes is None else lanes
        key = ("splat", text, lanes)
        found = self.text.recall(key)
        if found is None:
            wide = f"<{lanes} x {kind}>"
            one = self.text.op(f"insertelement {wide} poison, {kind} {text}, i64 0")
            found = self.text.op(
                f"shufflevector {wide} {one}, {wide} poison, <{lanes} x i32> zeroinitializer"
            )
            self.text.layers[-1][key] = found
        return found

    def wrap(self, value: CodeValue) -> Idx:
        """The int64 `value` as an index about which nothing is known."""
        if value.const is not None:
            return constant(int(value.const))
        if value.lanes == 1:
            return self._named(value.text, None, (-UNKNOWN, UNKNOWN))
        return in_lanes(value.text, -UNKNOWN, UNKNOWN)

    def multiply(self, lhs: Idx, rhs: Idx) -> Idx:
        """`lhs * rhs`."""
        if lhs.is_const:
            return self.scale(rhs, lhs.const)
        if rhs.is_const:
            return self.scale(lhs, rhs.const)
        corners = [x * y for x in limits(lhs, self.lanes) for y in limits(rhs, self.lanes)]
        lo, hi = max(min(corners), -UNKNOWN), min(max(corners), UNKNOWN)
        if lhs.is_scalar and rhs.is_scalar:
            return self._scalar_op("mul i64", lhs, rhs, lo, hi)
        text = self.text.op(f"mul <{self.lanes} x i64> {self.vector(lhs)}, {self.vector(rhs)}")
        return in_lanes(text, lo, hi)

    def extremum(self, op: Op, lhs: Idx, rhs: Idx) -> Idx:
        """The smaller (MIN) or the larger (MAX) of two indices."""
        pick, name = (min, "smin") if op is Op.MIN else (max, "smax")
        difference = limits(self.add(lhs, self.scale(rhs, -1)), self.lanes)
        if difference[1] <= 0:
            return lhs if op is Op.MIN else rhs
        if difference[0] >= 0:
            return rhs if op is Op.MIN else lhs
        a, b = limits(lhs, self.lanes), limits(rhs, self.lanes)
        lo, hi = pick(a[0], b[0]), pick(a[1], b[1])
        if lhs.is_scalar and rhs.is_scalar:
            return self._scalar_call(name, lhs, rhs, lo, hi)
        kind = f"<{self.lanes} x i64>"
        text = self.text.op(
            f"call {kind} @llvm.{name}.v{self.lanes}i64({kind} {self.vector(lhs)}, "
            f"{kind} {self.vector(rhs)})"
        )
        return in_lanes(text, lo, hi)

    def _scalar_op(self, op: str, lhs: Idx, rhs: Idx, lo: int, hi: int) -> Idx:
        a, b = self.scalar(lhs), self.scalar(rhs)
        frame = self.text.innermost((*lhs.terms, *rhs.terms))
        text = self.text.hoisted((op, a, b), frame, f"{op} {a}, {b}")
        return self._named(text, frame, (lo, hi))

    def _scalar_call(self, name: str, lhs: Idx, rhs: Idx, lo: int, hi: int) -> Idx:
        a, b = self.scalar(lhs), self.scalar(rhs)
        frame = self.text.innermost((*lhs.terms, *rhs.terms))
        call = f"call i64 @llvm.{name}.i64(i64 {a}, i64 {b})"
        text = self.text.hoisted((name, a, b), frame, call)
        return self._named(text, frame, (lo, hi))

    def divide(self, op: Op, idx: Idx, divisor: int) -> Idx | None:
        """Floor division or remainder of `idx` by a positive constant; None: compute it on vectors.

        Multiples of the divisor divide exactly; the rest folds when its bounds lie between two
        multiples.
        """
        whole = {t: c // divisor for t, c in idx.terms.items() if c % divisor == 0}
        others = {t: c for t, c in idx.terms.items() if c % divisor}
        high, low = divmod(idx.const, divisor)
        lane_high, lane = divmod(idx.lane, divisor) if idx.lane % divisor == 0 else (0, idx.lane)
        rest = Idx(Linear(others, low), lane, idx.vec)
        lo, hi = limits(rest, self.lanes)
        quotient = Idx(Linear(whole, high), lane_high)
        if lo // divisor == hi // divisor:
            if op is Op.FLOORDIV:
                return self.add(quotient, constant(lo // divisor))
            return self.add(rest, constant(-(lo // divisor) * divisor))
        if op is Op.FLOORMOD:
            return self._remainder(rest, divisor, lo)
        part = self._quotient(rest, divisor, lo, hi)
        return None if part is None else self.add(quotient, part)

    def _quotient(self, rest: Idx, divisor: int, lo: int, hi: int) -> Idx | None:
        bounds = lo // divisor, hi // divisor
        if not rest.is_scalar:
            return self._per_lane(rest, lambda v: v // divisor, "udiv", divisor, bounds)
        a, frame = self.scalar(rest), self.text.innermost(rest.terms)
        return self._named(self._floordiv(a, divisor, lo, frame), frame, bounds)

    def _remainder(self, rest: Idx, divisor: int, lo: int) -> Idx | None:
        bounds = 0, divisor - 1
        if not rest.is_scalar:
            return self._per_lane(rest, lambda v: v % divisor, "urem", divisor, bounds)
        a, frame = self.scalar(rest), self.text.innermost(rest.terms)
        if divisor & (divisor - 1) == 0:
            text = f"and i64 {a}, {divisor - 1}"
            return self._named(self.text.hoisted(("%", a, divisor), frame, text), frame, bounds)
        quotient = self._floordiv(a, divisor, lo, frame)
        back = self.text.hoisted(("*", quotient, divisor), frame, f"mul i64 {quotient}, {divisor}")
        text = self.text.hoisted(("-", a, back), frame, f"sub i64 {a}, {back}")
        return self._named(text, frame, bounds)

    def _floordiv(self, a: str, divisor: int, lo: int, frame: LoopFrame | None) -> str:
        key = ("//", a, divisor)
        if divisor & (divisor - 1) == 0:
            return self.text.hoisted(key, frame, f"ashr i64 {a}, {divisor.bit_length() - 1}")
        if lo >= 0:
            return self.text.hoisted(key, frame, f"udiv i64 {a}, {divisor}")
        # (a - (divisor - 1) if a < 0 else a), divided towards zero, is the floor.
        hoisted = self.text.hoisted
        sign = hoisted(("sign", a), frame, f"ashr i64 {a}, 63")
        fix = hoisted(("&", sign, divisor - 1), frame, f"and i64 {sign}, {divisor - 1}")
        low = hoisted(("-", a, fix), frame, f"sub i64 {a}, {fix}")
        return hoisted(key, frame, f"sdiv i64 {low}, {divisor}")

    def _per_lane(
        self, rest: Idx, fold: Callable[[int], int], op: str, divisor: int, bounds: tuple[int, int]
    ) -> Idx | None:
        """Division of an index that varies by lane: folded, or on vectors; None if negative."""
        if rest.vec is None and not rest.terms:
            return ramp([fold(rest.const + rest.lane * i) for i in range(self.lanes)])
        lo, hi = limits(rest, self.lanes)
        if lo < 0:
            return None
        bits = 32 if hi < 1 << 31 else 64
        kind = f"<{self.lanes} x i{bits}>"
        text = self.text.op(f"{op} {kind} {self.vector(rest, bits)}, splat (i{bits} {divisor})")
        if bits == 32:
            text = self.text.op(f"zext {kind} {text} to <{self.lanes} x i64>")
        return in_lanes(text, *bounds)

    def _named(self, text: str, frame: LoopFrame | None, bounds: tuple[int, int]) -> Idx:
        """The index `text`; one name is one term, so that equal parts of a sum combine."""
        term = self._terms.get(text)
        if term is None:
            term = self._terms[text] = Scalar(text, frame, *bounds)
        return Idx(Linear({term: 1}))

    def value(self, idx: Idx) -> CodeValue:
        """`idx` as an int64 value."""
        if idx.is_const:
            return CodeValue(str(idx.const), I64, 1, idx.const)
        if idx.is_scalar:
            return CodeValue(self.scalar(idx), I64)
        return CodeValue(self.vector(idx), I64, self.lanes)


def ramp(values: list[int]) -> Idx:
    """The index with `values` in the lanes: affine when they are evenly spaced."""
    step = values[1] - values[0]
    if all(b - a == step for a, b in itertools.pairwise(values)):
        return constant(values[0], step)
    return in_lanes(vector_literal("i64", values), min(values), max(values))


def deeper(a: LoopFrame | None, b: LoopFrame | None) -> LoopFrame | None:
    """The inner one of two nested frames; None (in the middle of a body) is innermost."""
    if a is None or b is None:
        return None
    return b if b.depth > a.depth else a


def _depth(item: tuple[Scalar, int]) -> int:
    frame = item[0].frame
    return UNKNOWN if frame is None else frame.depth
