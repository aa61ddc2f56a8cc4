"""Arithmetic on values in any language: what folds, what is contracted, and how operators become
instructions.

A product or sum with a literal zero becomes zero or the other side, so that transforms by
constant matrices cost only their non-zero entries; other folding is exact. Every `a * b + c` of
floats becomes one fused operation, which rounds once where the target has fused multiply-add.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

from loopwright.codegen.values import CodeValue, Number, rounded
from loopwright.ir.dtype import BOOL, F16, F32, F64, I32, DType, DTypeKind
from loopwright.ir.expr import COMPARISONS, Fn, Op

_FLOAT = {Op.ADD: "fadd", Op.SUB: "fsub", Op.MUL: "fmul", Op.DIV: "fdiv"}
_INT = {Op.ADD: "add", Op.SUB: "sub", Op.MUL: "mul", Op.AND: "and", Op.OR: "or"}
_TRIVIAL = (0, 1, -1)
"""Factors that need no multiplication."""
_FCMP = {Op.LT: "olt", Op.LE: "ole", Op.GT: "ogt", Op.GE: "oge", Op.EQ: "oeq", Op.NE: "une"}
_ICMP = {Op.LT: "lt", Op.LE: "le", Op.GT: "gt", Op.GE: "ge"}


class Operations(ABC):
    """Operations on values at the end of the current block; a language writes the instructions."""

    @abstractmethod
    def literal(self, value: Number, dtype: DType) -> CodeValue:
        """A constant of one lane."""

    @abstractmethod
    def plain(self, op: str, lhs: CodeValue, rhs: CodeValue, result: DType) -> CodeValue:
        """The instruction `op`, by its LLVM name, on two values of one dtype."""

    @abstractmethod
    def intrinsic(self, name: str, *args: CodeValue) -> CodeValue:
        """LLVM's intrinsic function `name` of values of one dtype; the result has that dtype."""

    @abstractmethod
    def choose(self, cond: CodeValue, yes: CodeValue, no: CodeValue) -> CodeValue:
        """`yes if cond else no` for a condition that is not constant."""

    @abstractmethod
    def convert(self, op: str, value: CodeValue, dtype: DType) -> CodeValue:
        """`value` as `dtype` by the conversion `op`, by its LLVM name."""

    @abstractmethod
    def bitcast(self, value: CodeValue, dtype: DType) -> CodeValue:
        """The bits of `value` as a `dtype` of the same width."""

    @abstractmethod
    def fused(self, a: CodeValue, b: CodeValue, c: CodeValue) -> CodeValue:
        """`a * b + c` of floats, rounded once where the target can."""

    @abstractmethod
    def negate_float(self, value: CodeValue) -> CodeValue:
        """`value` negated."""

    @abstractmethod
    def libm(self, fn: Fn, args: list[CodeValue]) -> CodeValue:
        """The libm function for `fn`, applied to each lane."""

    @abstractmethod
    def round(self, value: CodeValue) -> CodeValue:
        """A value computed in float32, rounded to its 16-bit dtype; others as they are."""

    def binary(self, op: Op, lhs: CodeValue, rhs: CodeValue) -> CodeValue:
        """`lhs op rhs` of one dtype."""
        if lhs.const is not None and rhs.const is not None:
            folded = self._fold(op, lhs.const, rhs.const, lhs.dtype)
            if folded is not None:
                return folded
        if lhs.dtype.is_float:
            return self._float(op, lhs, rhs)
        return self._integer(op, lhs, rhs)

    def _float(self, op: Op, lhs: CodeValue, rhs: CodeValue) -> CodeValue:
        simple = self._identity(op, lhs, rhs)
        if simple is not None:
            return simple
        if op in COMPARISONS:
            return self.plain(f"fcmp {_FCMP[op]}", lhs, rhs, BOOL)
        if op is Op.MIN or op is Op.MAX:
            return self.extremum(op, lhs, rhs)
        if op is Op.FLOORDIV or op is Op.FLOORMOD:
            return self._float_floor(op, lhs, rhs)
        return self.round(self.plain(_FLOAT[op], lhs, rhs, lhs.dtype))

    def extremum(self, op: Op, lhs: CodeValue, rhs: CodeValue) -> CodeValue:
        """The smaller or larger of two floats, NaN where one is.

        A comparison and a choice are one instruction of x86, which gives its second operand where
        one is NaN. So a literal stands first; of two variables that is the right one, which is
        tested besides: in a reduction it is not the one that the next step waits for.
        """
        first, second = (lhs, rhs) if lhs.const is not None else (rhs, lhs)
        test = "fcmp olt" if op is Op.MIN else "fcmp ogt"
        best = self.select(self.plain(test, first, second, BOOL), first, second)
        if first.const is not None and not math.isnan(first.const):
            return best
        return self.select(self.plain("fcmp une", first, first, BOOL), first, best)

    def _identity(self, op: Op, lhs: CodeValue, rhs: CodeValue) -> CodeValue | None:
        """The result when one side is a literal 0, 1 or -1 that makes it trivial."""
        if op is Op.MUL:
            const, other = (lhs.const, rhs) if lhs.const is not None else (rhs.const, lhs)
            if const == 0:
                return self.literal(0.0, lhs.dtype)
            if const == 1:
                return other
            return self.negate(other) if const == -1 else None
        if op is Op.ADD and (lhs.const == 0 or rhs.const == 0):
            return rhs if lhs.const == 0 else lhs
        if op is Op.SUB:
            if rhs.const == 0:
                return lhs
            return self.negate(rhs) if lhs.const == 0 else None
        return lhs if op is Op.DIV and rhs.const == 1 else None

    def multiply_add(
        self, a: CodeValue, b: CodeValue, c: CodeValue, *, minus: bool = False
    ) -> CodeValue:
        """`a * b + c` of floats with one rounding where the target can; `minus`: `c - a * b`."""
        if (
            a.const in _TRIVIAL
            or b.const in _TRIVIAL
            or (a.const is not None and b.const is not None)
        ):
            product = self.binary(Op.MUL, a, b)
            return self.binary(Op.SUB, c, product) if minus else self.binary(Op.ADD, c, product)
        if c.const == 0 and not minus:
            return self.binary(Op.MUL, a, b)
        if a.dtype.bits == 16:
            product = self.binary(Op.MUL, a, b)
            return self.binary(Op.SUB if minus else Op.ADD, c, product)
        return self.fused(self.negate(a) if minus else a, b, c)

    def _float_floor(self, op: Op, lhs: CodeValue, rhs: CodeValue) -> CodeValue:
        """Python's `//` and `%` of floats: the remainder has the sign of the divisor."""
        rest = self.plain("frem", lhs, rhs, lhs.dtype)
        zero = self.literal(0.0, lhs.dtype)
        differs = self.plain(
            "xor", self.binary(Op.LT, rest, zero), self.binary(Op.LT, rhs, zero), BOOL
        )
        wrong = self.binary(Op.AND, differs, self.binary(Op.NE, rest, zero))
        rest = self.select(wrong, self.plain("fadd", rest, rhs, lhs.dtype), rest)
        if op is Op.FLOORMOD:
            return self.round(rest)
        whole = self.plain("fdiv", self.plain("fsub", lhs, rest, lhs.dtype), rhs, lhs.dtype)
        return self.round(self.intrinsic("rint", whole))

    def _integer(self, op: Op, lhs: CodeValue, rhs: CodeValue) -> CodeValue:
        signed = lhs.dtype.kind is DTypeKind.INT
        if op in _INT:
            # LLVM's add of i1 is exclusive or; sums and products of bools are OR and AND.
            if lhs.dtype.is_bool and op in (Op.ADD, Op.MUL):
                op = Op.OR if op is Op.ADD else Op.AND
            return self.plain(_INT[op], lhs, rhs, lhs.dtype)
        if op in COMPARISONS:
            name = op.name.lower() if op in (Op.EQ, Op.NE) else ("s" if signed else "u") + _ICMP[op]
            return self.plain(f"icmp {name}", lhs, rhs, BOOL)
        if op is Op.MIN or op is Op.MAX:
            if lhs.dtype.is_bool:
                return self.plain("and" if op is Op.MIN else "or", lhs, rhs, BOOL)
            return self.intrinsic(("s" if signed else "u") + op.value, lhs, rhs)
        if not signed:
            return self.plain(
                "urem" if op is Op.FLOORMOD else "udiv", lhs, self._safe(rhs), lhs.dtype
            )
        if op is Op.DIV:
            return self._quotient(lhs, rhs)
        return self._int_floor(op, lhs, rhs)

    def _safe(self, divisor: CodeValue) -> CodeValue:
        """`divisor`, or 1 where dividing by it would trap, as an inactive lane or side must not.

        Those are 0, and -1, which overflows on the smallest number; a remainder by -1 is that by 1.
        """
        if divisor.const is not None and divisor.const not in (0, -1):
            return divisor
        dtype = divisor.dtype
        traps = self.binary(Op.EQ, divisor, self.literal(0, dtype))
        if dtype.kind is DTypeKind.INT:
            traps = self.binary(Op.OR, traps, self.binary(Op.EQ, divisor, self.literal(-1, dtype)))
        return self.select(traps, self.literal(1, dtype), divisor)

    def _quotient(self, lhs: CodeValue, rhs: CodeValue) -> CodeValue:
        """Signed division that truncates and wraps around."""
        quotient = self.plain("sdiv", lhs, self._safe(rhs), lhs.dtype)
        if rhs.const is not None and rhs.const != -1:
            return quotient
        return self.select(
            self.binary(Op.EQ, rhs, self.literal(-1, rhs.dtype)), self.negate(lhs), quotient
        )

    def _int_floor(self, op: Op, lhs: CodeValue, rhs: CodeValue) -> CodeValue:
        """Signed `//` and `%` that round towards minus infinity."""
        dtype, const = lhs.dtype, rhs.const
        if const is not None and const > 0 and int(const) & (int(const) - 1) == 0:
            if op is Op.FLOORMOD:
                return self.plain("and", lhs, self.literal(int(const) - 1, dtype), dtype)
            return self.plain("ashr", lhs, self.literal(int(const).bit_length() - 1, dtype), dtype)
        zero = self.literal(0, dtype)
        rest = self.plain("srem", lhs, self._safe(rhs), dtype)
        signs = self.plain("xor", rest, rhs, dtype)
        wrong = self.binary(Op.AND, self.binary(Op.LT, signs, zero), self.binary(Op.NE, rest, zero))
        if op is Op.FLOORMOD:
            return self.select(wrong, self.plain("add", rest, rhs, dtype), rest)
        whole = self._quotient(lhs, rhs)
        return self.select(wrong, self.plain("add", whole, self.literal(-1, dtype), dtype), whole)

    def negate(self, value: CodeValue) -> CodeValue:
        """`-value`."""
        if value.const is not None:
            return self.literal(-value.const, value.dtype)
        if not value.dtype.is_float:
            return self.plain("sub", self.literal(0, value.dtype), value, value.dtype)
        return self.negate_float(value)

    def invert(self, value: CodeValue) -> CodeValue:
        """Not `value`: logical for a bool, bitwise for integers."""
        if value.dtype.is_bool:
            if value.const is not None:
                return self.literal(not value.const, BOOL)
            return self.plain("xor", value, self.literal(True, BOOL), BOOL)
        return self.plain("xor", value, self.literal(-1, value.dtype), value.dtype)

    def select(self, cond: CodeValue, yes: CodeValue, no: CodeValue) -> CodeValue:
        """`yes if cond else no`, by lane when `cond` has lanes."""
        if cond.const is not None:
            return yes if cond.const else no
        return self.choose(cond, yes, no)

    def cast(self, value: CodeValue, dtype: DType) -> CodeValue:
        """`value` converted to `dtype`; floats to integers truncate."""
        source = value.dtype
        if source == dtype:
            return value
        if value.const is not None and math.isfinite(value.const):
            return self.literal(_converted(value.const, dtype), dtype)
        if dtype.is_bool:
            return self.binary(Op.NE, value, self.literal(0, source))
        if source.is_float and dtype.is_float:
            return self._float_cast(value, dtype)
        if source.is_float:
            return self.convert("fptosi" if dtype.kind is DTypeKind.INT else "fptoui", value, dtype)
        signed = source.kind is DTypeKind.INT
        if dtype.is_float:
            return self.round(self.convert("sitofp" if signed else "uitofp", value, dtype))
        if dtype.bits == source.bits and not source.is_bool:
            return self.relabel(value, dtype)
        if dtype.bits < source.bits and not source.is_bool:
            return self.convert("trunc", value, dtype)
        return self.convert("sext" if signed else "zext", value, dtype)

    def relabel(self, value: CodeValue, dtype: DType) -> CodeValue:
        """The integer `value` as one of the same width, signed or not."""
        return value._replace(dtype=dtype)

    def _float_cast(self, value: CodeValue, dtype: DType) -> CodeValue:
        wide, was_wide = dtype == F64, value.dtype == F64
        if wide == was_wide:
            return self.round(value._replace(dtype=dtype))
        return self.round(self.convert("fpext" if wide else "fptrunc", value, dtype))

    def bfloat_bits(self, bits: CodeValue) -> CodeValue:
        """The upper half of float `bits`, rounded to nearest even; a NaN stays one."""
        odd = self._bits("lshr", bits, 16)
        bit = self._bits("and", odd, 1)
        bias = self._bits("add", bit, 0x7FFF)
        near = self.plain("add", bits, bias, I32)
        size = self._bits("and", bits, 0x7FFFFFFF)
        nan = self._test("ugt", size, 0x7F800000)
        quiet = self._bits("or", bits, 0x400000)
        return self._bits("lshr", self.select(nan, quiet, near), 16)

    def half_bits(self, bits: CodeValue) -> CodeValue:
        """The float16 bits nearest to float `bits`, for targets without the conversion.

        A normal result is the float's bits re-biased and rounded as integers; a subnormal one comes
        from adding 0.5 as a float, whose last place is then that of the smallest float16.
        """
        size = self._bits("and", bits, 0x7FFFFFFF)
        sign = self._bits("and", self._bits("lshr", bits, 16), 0x8000)
        odd = self._bits("and", self._bits("lshr", size, 13), 1)
        biased = self._bits("add", size, 0xFFF - (112 << 23))
        normal = self._bits("lshr", self.plain("add", biased, odd, I32), 13)
        small = self.bitcast(size, F32)
        moved = self.plain("fadd", small, self.literal(0.5, F32), F32)
        tiny = self._bits("sub", self.bitcast(moved, I32), 0x3F000000)
        is_tiny = self._test("ult", size, 113 << 23)
        finite = self.select(is_tiny, tiny, normal)
        over = self._test("uge", size, 0x477FF000)
        capped = self.select(over, self.literal(0x7C00, I32), finite)
        nan = self._test("ugt", size, 0x7F800000)
        best = self.select(nan, self.literal(0x7E00, I32), capped)
        return self.plain("or", best, sign, I32)

    def widened_half(self, full: CodeValue) -> CodeValue:
        """The float with the value of the float16 bits `full`: shifted, then scaled by 2**112."""
        size = self._bits("and", full, 0x7FFF)
        sign = self._bits("and", full, 0x8000)
        shifted = self._bits("shl", size, 13)
        raw = self.bitcast(shifted, F32)
        scaled = self.plain("fmul", raw, self.literal(2.0**112, F32), F32)
        bits = self.bitcast(scaled, I32)
        special = self._test("uge", size, 0x7C00)
        infinite = self._bits("or", shifted, 0x7F800000)
        chosen = self.select(special, infinite, bits)
        high = self._bits("shl", sign, 16)
        return self.bitcast(self.plain("or", chosen, high, I32), F32)._replace(dtype=F16)

    def _bits(self, op: str, value: CodeValue, number: int) -> CodeValue:
        return self.plain(op, value, self.literal(number, I32), I32)

    def _test(self, predicate: str, value: CodeValue, number: int) -> CodeValue:
        return self.plain(f"icmp {predicate}", value, self.literal(number, I32), BOOL)

    def _fold(self, op: Op, a: Number, b: Number, dtype: DType) -> CodeValue | None:
        """`a op b` as NumPy computes it in `dtype`; None when it is left to run time."""
        if op in COMPARISONS:
            table = {Op.LT: a < b, Op.LE: a <= b, Op.GT: a > b, Op.GE: a >= b, Op.EQ: a == b}
            return self.literal(table.get(op, a != b), BOOL)
        if op is Op.ADD:
            return self._narrow(a + b, dtype)
        if op is Op.SUB:
            return self._narrow(a - b, dtype)
        if op is Op.MUL:
            return self._narrow(a * b, dtype)
        if (op is Op.MIN or op is Op.MAX) and not (math.isnan(a) or math.isnan(b)):
            return self.literal(min(a, b) if op is Op.MIN else max(a, b), dtype)
        if (op is Op.AND or op is Op.OR) and dtype.is_bool:
            return self.literal((a and b) if op is Op.AND else (a or b), dtype)
        if dtype.is_int and b > 0 and op in (Op.FLOORDIV, Op.FLOORMOD):
            return self.literal(a // b if op is Op.FLOORDIV else a % b, dtype)
        return None

    def _narrow(self, result: Number, dtype: DType) -> CodeValue | None:
        """A double result rounded to `dtype`: exact rounding for float32 sums and products."""
        if dtype.is_float and not math.isfinite(result):
            return None
        return self.literal(bool(result) if dtype.is_bool else result, dtype)


def _converted(value: Number, dtype: DType) -> Number:
    if dtype.is_float:
        return rounded(float(value), F32 if dtype.bits == 16 else dtype)
    return bool(value) if dtype.is_bool else math.trunc(value)
