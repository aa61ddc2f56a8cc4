"""Conditions as LLVM text: folded when bounds decide them, hoisted when uniform, else masks."""

from __future__ import annotations

from collections.abc import Callable

from loopwright.codegen.affine import Idx, limits, total_limits
from loopwright.codegen.conditions import HOLDS, Cond, Conditions, decide
from loopwright.codegen.llvm.index import Indices
from loopwright.codegen.llvm.types import vector_literal
from loopwright.codegen.values import CodeValue
from loopwright.ir.expr import Expr, Op
from loopwright.ir.linear import Linear

_PREDICATES = {Op.LT: "slt", Op.LE: "sle", Op.GT: "sgt", Op.GE: "sge", Op.EQ: "eq", Op.NE: "ne"}


class LlvmConditions(Conditions):
    """Conditions as i1 values."""

    def __init__(
        self,
        indices: Indices,
        index_of: Callable[[Expr], Idx],
        value_of: Callable[[Expr], CodeValue],
    ) -> None:
        super().__init__(value_of)
        self._indices = indices
        self._index_of = index_of

    def inverted(self, cond: Cond) -> str:
        """Not `cond`, which is not a constant."""
        kind, ones = self._kind(cond.lanes)
        return self._indices.text.op(f"xor {kind} {cond.text}, {ones}")

    def combined(self, op: str, a: Cond, b: Cond) -> tuple[str, int]:
        """`a op b`, `and` or `or`, and its lanes; neither is a constant."""
        lanes = max(a.lanes, b.lanes)
        x, y = (a.text, b.text) if a.lanes == b.lanes else (self.mask(a), self.mask(b))
        kind, _ = self._kind(lanes)
        return self._indices.text.op(f"{op} {kind} {x}, {y}"), lanes

    def mask(self, cond: Cond) -> str:
        """`cond` as one i1 per lane."""
        if cond.is_mask:
            return cond.text
        if cond.const is not None:
            return f"splat (i1 {cond.text})"
        return self._indices.splat(cond.text, "i1")

    def compare(self, op: Op, lhs: Expr, rhs: Expr) -> Cond:
        """`lhs op rhs` of index expressions."""
        indices = self._indices
        left, right = self._index_of(lhs), self._index_of(rhs)
        diff = indices.add(left, indices.scale(right, -1))
        folded = decide(op, *limits(diff, indices.lanes))
        if folded is not None:
            return self.always if folded else self.never
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
            bits = [HOLDS[op](diff.const + diff.lane * i) for i in range(indices.lanes)]
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

    def _kind(self, lanes: int) -> tuple[str, str]:
        return ("i1", "true") if lanes == 1 else (f"<{lanes} x i1>", "splat (i1 true)")
