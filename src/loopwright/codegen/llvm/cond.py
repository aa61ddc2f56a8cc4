"""Conditions as LLVM text: folded when bounds decide them, hoisted when uniform, else masks."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from loopwright.codegen.affine import Idx, limits, total_limits
from loopwright.codegen.llvm.index import Indices
from loopwright.codegen.llvm.types import vector_literal
from loopwright.codegen.values import Operand
from loopwright.ir.dtype import BOOL, I64
from loopwright.ir.expr import COMPARISONS, Binary, Call, Const, Expr, Fn, Op
from loopwright.ir.linear import Linear

_PREDICATES = {Op.LT: "slt", Op.LE: "sle", Op.GT: "sgt", Op.GE: "sge", Op.EQ: "eq", Op.NE: "ne"}
_HOLDS: dict[Op, Callable[[int], bool]] = {
    Op.LT: lambda v: v < 0,
    Op.LE: lambda v: v <= 0,
    Op.GT: lambda v: v > 0,
    Op.GE: lambda v: v >= 0,
    Op.EQ: lambda v: v == 0,
    Op.NE: lambda v: v != 0,
}


class Cond(NamedTuple):
    """A truth value: a constant, or the i1 (`lanes` of them) `text`.

    `first` and `last` say that it is known to hold in the first and in the last lane.
    """

    const: bool | None
    text: str = ""
    lanes: int = 1
    first: bool = False
    last: bool = False

    @property
    def is_mask(self) -> bool:
        """True when it differs by lane."""
        return self.lanes > 1

    @property
    def somewhere(self) -> bool:
        """True when some lane is known to be active."""
        return self.first or self.last


ALWAYS = Cond(True, "true", 1, True, True)
NEVER = Cond(False, "false")


class Conditions:
    """Evaluates conditions where emission stands."""

    def __init__(
        self, indices: Indices, index_of: Callable[[Expr], Idx], value_of: Callable[[Expr], Operand]
    ) -> None:
        self._indices = indices
        self._index_of = index_of
        self._value_of = value_of

    def cond(self, expr: Expr) -> Cond:
        """What the bool `expr` comes to here."""
        if isinstance(expr, Const):
            return ALWAYS if expr.value else NEVER
        if isinstance(expr, Binary):
            if expr.op is Op.AND or expr.op is Op.OR:
                return self._connect(expr)
            if expr.op in COMPARISONS and expr.lhs.dtype == I64:
                return self.compare(expr.op, self._index_of(expr.lhs), self._index_of(expr.rhs))
        if isinstance(expr, Call) and expr.fn is Fn.NOT:
            return self.negate(self.cond(expr.args[0]))
        value = self._value_of(expr)
        if value.const is not None:
            return ALWAYS if value.const else NEVER
        return Cond(None, value.text, value.lanes)

    def value(self, cond: Cond) -> Operand:
        """`cond` as a bool value."""
        return Operand(cond.text, BOOL, cond.lanes, cond.const)

    def negate(self, cond: Cond) -> Cond:
        """Not `cond`."""
        if cond.const is not None:
            return NEVER if cond.const else ALWAYS
        kind, ones = self._kind(cond.lanes)
        return Cond(None, self._indices.text.op(f"xor {kind} {cond.text}, {ones}"), cond.lanes)

    def both(self, a: Cond, b: Cond) -> Cond:
        """`a and b`."""
        if a.const is not None:
            return b if a.const else NEVER
        if b.const is not None:
            return a if b.const else NEVER
        text, lanes = self._combine("and", a, b)
        return Cond(None, text, lanes, a.first and b.first, a.last and b.last)

    def either(self, a: Cond, b: Cond) -> Cond:
        """`a or b`."""
        if a.const is not None:
            return ALWAYS if a.const else b
        if b.const is not None:
            return ALWAYS if b.const else a
        text, lanes = self._combine("or", a, b)
        return Cond(None, text, lanes, a.first or b.first, a.last or b.last)

    def mask(self, cond: Cond) -> str:
        """`cond` as one i1 a lane."""
        if cond.is_mask:
            return cond.text
        if cond.const is not None:
            return f"splat (i1 {cond.text})"
        return self._indices.splat(cond.text, "i1")

    def compare(self, op: Op, lhs: Idx, rhs: Idx) -> Cond:
        """`lhs op rhs` of indices."""
        indices = self._indices
        diff = indices.add(lhs, indices.scale(rhs, -1))
        folded = decide(op, *limits(diff, indices.lanes))
        if folded is not None:
            return ALWAYS if folded else NEVER
        predicate = _PREDICATES[op]
        if diff.is_scalar:
            total = indices.scalar(Idx(Linear(diff.terms)))
            frame = indices.text.innermost(diff.terms)
            key = (predicate, total, -diff.const)
            return Cond(
                None,
                indices.text.hoisted(key, frame, f"icmp {predicate} i64 {total}, {-diff.const}"),
            )
        return self._compare_lanes(op, predicate, diff)

    def _compare_lanes(self, op: Op, predicate: str, diff: Idx) -> Cond:
        indices = self._indices
        lo, hi = limits(diff, indices.lanes)
        if diff.vec is None and not diff.terms:
            bits = [_HOLDS[op](diff.const + diff.lane * i) for i in range(indices.lanes)]
            text = vector_literal("i1", [int(b) for b in bits])
            return Cond(None, text, indices.lanes, bits[0], bits[-1])
        first = last = False
        if diff.vec is None:
            low, high = total_limits(diff)
            first = decide(op, low, high) is True
            end = diff.lane * (indices.lanes - 1)
            last = decide(op, low + end, high + end) is True
        width = 32 if lo >= -(1 << 31) and hi < 1 << 31 else 64
        text = self._lane_test(predicate, diff, width)
        return Cond(None, text, indices.lanes, first, last)

    def _lane_test(self, predicate: str, diff: Idx, width: int) -> str:
        """`diff predicate 0` in each lane; hoisted when it is `terms + lane`."""
        indices = self._indices
        kind = f"<{indices.lanes} x i{width}>"
        if diff.vec is not None:
            return indices.text.op(
                f"icmp {predicate} {kind} {indices.vector(diff, width)}, zeroinitializer"
            )
        # (-lane * step) against the uniform rest, so that only one splat is computed.
        steps = vector_literal(f"i{width}", [-diff.lane * i for i in range(indices.lanes)])
        rest = indices.scalar(diff._replace(lane=0))
        frame = indices.text.innermost(diff.terms)
        hoisted, lanes = indices.text.hoisted, indices.lanes
        small = indices.narrow(rest, diff.terms, width)
        one = hoisted(
            ("one", small, lanes), frame, f"insertelement {kind} poison, i{width} {small}, i64 0"
        )
        wide = hoisted(
            ("wide", one),
            frame,
            f"shufflevector {kind} {one}, {kind} poison, <{lanes} x i32> zeroinitializer",
        )
        key = (predicate, wide, diff.lane)
        return hoisted(key, frame, f"icmp {predicate} {kind} {wide}, {steps}")

    def _connect(self, expr: Binary) -> Cond:
        lhs = self.cond(expr.lhs)
        if lhs.const is (expr.op is Op.OR):
            return lhs
        rhs = self.cond(expr.rhs)
        return self.both(lhs, rhs) if expr.op is Op.AND else self.either(lhs, rhs)

    def _combine(self, op: str, a: Cond, b: Cond) -> tuple[str, int]:
        lanes = max(a.lanes, b.lanes)
        x, y = (a.text, b.text) if a.lanes == b.lanes else (self.mask(a), self.mask(b))
        kind, _ = self._kind(lanes)
        return self._indices.text.op(f"{op} {kind} {x}, {y}"), lanes

    def _kind(self, lanes: int) -> tuple[str, str]:
        return ("i1", "true") if lanes == 1 else (f"<{lanes} x i1>", "splat (i1 true)")


def decide(op: Op, lo: int, hi: int) -> bool | None:
    """Whether `v op 0` for every v in lo..hi; None when it differs."""
    if op is Op.EQ or op is Op.NE:
        if lo > 0 or hi < 0:
            return op is Op.NE
        return (op is Op.EQ) if lo == hi == 0 else None
    at_lo, at_hi = _HOLDS[op](lo), _HOLDS[op](hi)
    return at_lo if at_lo is at_hi else None
