"""Arithmetic on values as LLVM text: binary operators, conversions, what folds, what is contracted.

A product or sum with a literal zero is taken as zero or as the other side, so that transforms by
constant matrices cost only their non-zero entries; other folding is exact. Every `a * b + c` of
floats becomes `llvm.fmuladd`, which rounds once where the target has fused multiply-add.
"""

from __future__ import annotations

import math

from loopwright.codegen.llvm.builder import FunctionText
from loopwright.codegen.llvm.index import Indices
from loopwright.codegen.llvm.types import (
    Number,
    Value,
    compute_type,
    float_text,
    literal,
    mangled,
    rounded,
    splat_text,
    storage_type,
    value_type,
    vector,
)
from loopwright.errors import CodegenError
from loopwright.ir.dtype import BOOL, F16, F32, DType, DTypeKind
from loopwright.ir.expr import COMPARISONS, Op

_FLOAT = {Op.ADD: "fadd", Op.SUB: "fsub", Op.MUL: "fmul", Op.DIV: "fdiv"}
_INT = {Op.ADD: "add", Op.SUB: "sub", Op.MUL: "mul", Op.AND: "and", Op.OR: "or"}
_TRIVIAL = (0, 1, -1)
"""Factors whose product needs no multiplication."""
_FCMP = {Op.LT: "olt", Op.LE: "ole", Op.GT: "ogt", Op.GE: "oge", Op.EQ: "oeq", Op.NE: "une"}
_ICMP = {Op.LT: "lt", Op.LE: "le", Op.GT: "gt", Op.GE: "ge"}


class Arithmetic:
    """Emits operations on values at the end of the current block."""

    def __init__(self, indices: Indices, features: frozenset[str], arch: str) -> None:
        self._indices = indices
        self._native_half = arch == "aarch64" or "f16c" in features
        self.declared: dict[str, str] = {}
        # By identity of the dtype (kept alive in the entry): hashing one costs more than the rest.
        self._fused: dict[tuple[int, int], tuple[str, str, DType]] = {}

    @property
    def _text(self) -> FunctionText:
        return self._indices.text

    def call(self, name: str, result: str, *args: tuple[str, str]) -> str:
        """The name of `name(args)`; args are (type, text). Declares the function on first use."""
        if name not in self.declared:
            types = ", ".join(kind for kind, _ in args)
            self.declared[name] = f"declare {result} @{name}({types})"
        shown = ", ".join(f"{kind} {text}" for kind, text in args)
        return self._text.op(f"call {result} @{name}({shown})")

    def intrinsic(self, name: str, *args: Value) -> Value:
        """`llvm.name(args)` on values of one dtype; the result has that dtype and their lanes."""
        lanes = max(a.lanes for a in args)
        first = args[0].dtype
        kind = value_type(first, lanes)
        suffix = mangled(compute_type(first), lanes)
        wide = [(kind, self.widen(a, lanes)) for a in args]
        return Value(self.call(f"llvm.{name}.{suffix}", kind, *wide), first, lanes)

    def widen(self, value: Value, lanes: int) -> str:
        """`value` in `lanes` lanes, without its type."""
        if value.lanes == lanes:
            return value.text
        if value.lanes != 1:
            raise CodegenError(f"{value.lanes} lanes of {value.dtype} where {lanes} are needed")
        kind = compute_type(value.dtype)
        if value.text == "poison":
            return value.text
        if value.const is not None:
            return splat_text(kind, value.text)
        return self._indices.splat(value.text, kind, lanes)

    def binary(self, op: Op, lhs: Value, rhs: Value) -> Value:
        """`lhs op rhs` of one dtype."""
        if lhs.const is not None and rhs.const is not None:
            folded = fold(op, lhs.const, rhs.const, lhs.dtype)
            if folded is not None:
                return folded
        if lhs.dtype.is_float:
            return self._float(op, lhs, rhs)
        return self._integer(op, lhs, rhs)

    def _float(self, op: Op, lhs: Value, rhs: Value) -> Value:
        simple = self._identity(op, lhs, rhs)
        if simple is not None:
            return simple
        if op in COMPARISONS:
            return self._plain(f"fcmp {_FCMP[op]}", lhs, rhs, BOOL)
        if op is Op.MIN or op is Op.MAX:
            return self.intrinsic("minnum" if op is Op.MIN else "maxnum", lhs, rhs)
        if op is Op.FLOORDIV or op is Op.FLOORMOD:
            return self._float_floor(op, lhs, rhs)
        return self.round(self._plain(_FLOAT[op], lhs, rhs, lhs.dtype))

    def _identity(self, op: Op, lhs: Value, rhs: Value) -> Value | None:
        """The result when one side is a literal 0, 1 or -1 that makes it trivial."""
        if op is Op.MUL:
            const, other = (lhs.const, rhs) if lhs.const is not None else (rhs.const, lhs)
            if const == 0:
                return literal(0.0, lhs.dtype)
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

    def multiply_add(self, a: Value, b: Value, c: Value, *, minus: bool = False) -> Value:
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
        return self._fmuladd(self.negate(a) if minus else a, b, c)

    def _fmuladd(self, a: Value, b: Value, c: Value) -> Value:
        """`intrinsic("fmuladd", a, b, c)`, its types looked up once: kernels are made of these."""
        lanes, dtype = max(a.lanes, b.lanes, c.lanes), a.dtype
        known = self._fused.get((id(dtype), lanes))
        if known is None:
            self.intrinsic("fmuladd", a, b, c)  # declares it
            self._text.lines.pop()
            kind = value_type(dtype, lanes)
            name = f"llvm.fmuladd.{mangled(compute_type(dtype), lanes)}"
            known = self._fused[id(dtype), lanes] = (kind, f"call {kind} @{name}({kind} ", dtype)
        x = a.text if a.lanes == lanes else self.widen(a, lanes)
        y = b.text if b.lanes == lanes else self.widen(b, lanes)
        z = c.text if c.lanes == lanes else self.widen(c, lanes)
        kind, call, _ = known
        return Value(self._text.op(f"{call}{x}, {kind} {y}, {kind} {z})"), dtype, lanes)

    def _float_floor(self, op: Op, lhs: Value, rhs: Value) -> Value:
        """Python's `//` and `%` of floats: the remainder has the sign of the divisor."""
        rest = self._plain("frem", lhs, rhs, lhs.dtype)
        zero = literal(0.0, lhs.dtype)
        differs = self._plain(
            "xor", self.binary(Op.LT, rest, zero), self.binary(Op.LT, rhs, zero), BOOL
        )
        wrong = self.binary(Op.AND, differs, self.binary(Op.NE, rest, zero))
        rest = self.select(wrong, self._plain("fadd", rest, rhs, lhs.dtype), rest)
        if op is Op.FLOORMOD:
            return self.round(rest)
        whole = self._plain("fdiv", self._plain("fsub", lhs, rest, lhs.dtype), rhs, lhs.dtype)
        return self.round(self.intrinsic("rint", whole))

    def _integer(self, op: Op, lhs: Value, rhs: Value) -> Value:
        signed = lhs.dtype.kind is DTypeKind.INT
        if op in _INT:
            # LLVM's add of i1 is exclusive or; sums and products of truth values are OR and AND.
            if lhs.dtype.is_bool and op in (Op.ADD, Op.MUL):
                op = Op.OR if op is Op.ADD else Op.AND
            return self._plain(_INT[op], lhs, rhs, lhs.dtype)
        if op in COMPARISONS:
            name = op.name.lower() if op in (Op.EQ, Op.NE) else ("s" if signed else "u") + _ICMP[op]
            return self._plain(f"icmp {name}", lhs, rhs, BOOL)
        if op is Op.MIN or op is Op.MAX:
            if lhs.dtype.is_bool:
                return self._plain("and" if op is Op.MIN else "or", lhs, rhs, BOOL)
            return self.intrinsic(("s" if signed else "u") + op.value, lhs, rhs)
        if not signed:
            return self._plain(
                "urem" if op is Op.FLOORMOD else "udiv", lhs, self._safe(rhs), lhs.dtype
            )
        if op is Op.DIV:
            return self._quotient(lhs, rhs)
        return self._int_floor(op, lhs, rhs)

    def _safe(self, divisor: Value) -> Value:
        """`divisor`, or 1 where dividing by it would trap: an inactive lane or side must not.

        That is 0, and -1, which overflows on the smallest number; a remainder by -1 is that by 1.
        """
        if divisor.const is not None and divisor.const not in (0, -1):
            return divisor
        dtype = divisor.dtype
        traps = self.binary(Op.EQ, divisor, literal(0, dtype))
        if dtype.kind is DTypeKind.INT:
            traps = self.binary(Op.OR, traps, self.binary(Op.EQ, divisor, literal(-1, dtype)))
        return self.select(traps, literal(1, dtype), divisor)

    def _quotient(self, lhs: Value, rhs: Value) -> Value:
        """Signed division that truncates and wraps around."""
        quotient = self._plain("sdiv", lhs, self._safe(rhs), lhs.dtype)
        if rhs.const is not None and rhs.const != -1:
            return quotient
        return self.select(
            self.binary(Op.EQ, rhs, literal(-1, rhs.dtype)), self.negate(lhs), quotient
        )

    def _int_floor(self, op: Op, lhs: Value, rhs: Value) -> Value:
        """Signed `//` and `%` that round to minus infinity."""
        const = rhs.const
        if const is not None and const > 0 and int(const) & (int(const) - 1) == 0:
            if op is Op.FLOORMOD:
                return self._plain("and", lhs, literal(int(const) - 1, lhs.dtype), lhs.dtype)
            return self._plain(
                "ashr", lhs, literal(int(const).bit_length() - 1, lhs.dtype), lhs.dtype
            )
        dtype, zero = lhs.dtype, literal(0, lhs.dtype)
        rest = self._plain("srem", lhs, self._safe(rhs), dtype)
        signs = self._plain("xor", rest, rhs, dtype)
        wrong = self.binary(Op.AND, self.binary(Op.LT, signs, zero), self.binary(Op.NE, rest, zero))
        if op is Op.FLOORMOD:
            return self.select(wrong, self._plain("add", rest, rhs, dtype), rest)
        whole = self._quotient(lhs, rhs)
        return self.select(wrong, self._plain("add", whole, literal(-1, dtype), dtype), whole)

    def _plain(self, op: str, lhs: Value, rhs: Value, result: DType) -> Value:
        lanes = max(lhs.lanes, rhs.lanes)
        a, b = self.widen(lhs, lanes), self.widen(rhs, lanes)
        kind = value_type(lhs.dtype, lanes)
        return Value(self._text.op(f"{op} {kind} {a}, {b}"), result, lanes)

    def negate(self, value: Value) -> Value:
        """`-value`."""
        if value.const is not None:
            return literal(-value.const, value.dtype)
        if not value.dtype.is_float:
            return self._plain("sub", literal(0, value.dtype), value, value.dtype)
        kind = value_type(value.dtype, value.lanes)
        return Value(self._text.op(f"fneg {kind} {value.text}"), value.dtype, value.lanes)

    def invert(self, value: Value) -> Value:
        """Not `value`, a bool; of integers the bits."""
        if value.dtype.is_bool:
            if value.const is not None:
                return literal(not value.const, BOOL)
            return self._plain("xor", value, literal(True, BOOL), BOOL)
        return self._plain("xor", value, literal(-1, value.dtype), value.dtype)

    def select(self, cond: Value, yes: Value, no: Value) -> Value:
        """`yes if cond else no`, by lane when `cond` has lanes."""
        if cond.const is not None:
            return yes if cond.const else no
        lanes = max(cond.lanes, yes.lanes, no.lanes)
        a, b = self.widen(yes, lanes), self.widen(no, lanes)
        kind = value_type(yes.dtype, lanes)
        test = f"{vector('i1', cond.lanes)} {cond.text}"
        return Value(self._text.op(f"select {test}, {kind} {a}, {kind} {b}"), yes.dtype, lanes)

    def cast(self, value: Value, dtype: DType) -> Value:
        """`value` converted to `dtype`; floats to integers truncate."""
        source = value.dtype
        if source == dtype:
            return value
        if value.const is not None and math.isfinite(value.const):
            return literal(_converted(value.const, dtype), dtype)
        if dtype.is_bool:
            return self.binary(Op.NE, value, literal(0, source))
        if source.is_float and dtype.is_float:
            return self._float_cast(value, dtype)
        if source.is_float:
            return self._convert(
                "fptosi" if dtype.kind is DTypeKind.INT else "fptoui", value, dtype
            )
        signed = source.kind is DTypeKind.INT
        if dtype.is_float:
            return self.round(self._convert("sitofp" if signed else "uitofp", value, dtype))
        if dtype.bits == source.bits and not source.is_bool:
            return value._replace(dtype=dtype)
        if dtype.bits < source.bits and not source.is_bool:
            return self._convert("trunc", value, dtype)
        return self._convert("sext" if signed else "zext", value, dtype)

    def _float_cast(self, value: Value, dtype: DType) -> Value:
        old, new = compute_type(value.dtype), compute_type(dtype)
        if old == new:
            return self.round(value._replace(dtype=dtype))
        return self.round(self._convert("fpext" if new == "double" else "fptrunc", value, dtype))

    def _convert(self, op: str, value: Value, dtype: DType) -> Value:
        old, new = value_type(value.dtype, value.lanes), value_type(dtype, value.lanes)
        return Value(self._text.op(f"{op} {old} {value.text} to {new}"), dtype, value.lanes)

    def round(self, value: Value) -> Value:
        """A value computed in `float` as its 16-bit dtype holds it; others as they are."""
        if not (value.dtype.is_float and value.dtype.bits == 16):
            return value
        return self.from_memory(self.to_memory(value, value.lanes), value.dtype, value.lanes)

    def to_memory(self, value: Value, lanes: int) -> str:
        """`value` widened to `lanes`, as its dtype is stored."""
        text, dtype = self.widen(value, lanes), value.dtype
        stored = vector(storage_type(dtype), lanes)
        if dtype.is_bool:
            return self._text.op(f"zext {vector('i1', lanes)} {text} to {stored}")
        if not (dtype.is_float and dtype.bits == 16):
            return text
        if dtype == F16 and self._native_half:
            return self._text.op(f"fptrunc {vector('float', lanes)} {text} to {stored}")
        wide = vector("i32", lanes)
        bits = self._text.op(f"bitcast {vector('float', lanes)} {text} to {wide}")
        short = self._half_bits(bits, lanes) if dtype == F16 else self._bfloat_bits(bits, lanes)
        small = self._text.op(f"trunc {wide} {short} to {vector('i16', lanes)}")
        if dtype == F16:
            return self._text.op(f"bitcast {vector('i16', lanes)} {small} to {stored}")
        return small

    def from_memory(self, text: str, dtype: DType, lanes: int) -> Value:
        """The value of what was stored as `text`."""
        stored = vector(storage_type(dtype), lanes)
        if dtype.is_bool:
            zero = "0" if lanes == 1 else "zeroinitializer"
            return Value(self._text.op(f"icmp ne {stored} {text}, {zero}"), dtype, lanes)
        if not (dtype.is_float and dtype.bits == 16):
            return Value(text, dtype, lanes)
        wide = vector("float", lanes)
        if dtype == F16 and self._native_half:
            return Value(self._text.op(f"fpext {stored} {text} to {wide}"), dtype, lanes)
        if dtype == F16:
            text = self._text.op(f"bitcast {stored} {text} to {vector('i16', lanes)}")
        word = vector("i32", lanes)
        full = self._text.op(f"zext {vector('i16', lanes)} {text} to {word}")
        if dtype == F16:
            return self._widened_half(full, lanes)
        high = self._text.op(f"shl {word} {full}, {_int(16, lanes)}")
        return Value(self._text.op(f"bitcast {word} {high} to {wide}"), dtype, lanes)

    def _bfloat_bits(self, bits: str, lanes: int) -> str:
        """The upper half of float `bits`, rounded to nearest even; a NaN stays one."""
        op, kind = self._text.op, vector("i32", lanes)
        odd = op(f"lshr {kind} {bits}, {_int(16, lanes)}")
        bit = op(f"and {kind} {odd}, {_int(1, lanes)}")
        bias = op(f"add {kind} {bit}, {_int(0x7FFF, lanes)}")
        near = op(f"add {kind} {bits}, {bias}")
        size = op(f"and {kind} {bits}, {_int(0x7FFFFFFF, lanes)}")
        nan = op(f"icmp ugt {kind} {size}, {_int(0x7F800000, lanes)}")
        quiet = op(f"or {kind} {bits}, {_int(0x400000, lanes)}")
        best = op(f"select {vector('i1', lanes)} {nan}, {kind} {quiet}, {kind} {near}")
        return op(f"lshr {kind} {best}, {_int(16, lanes)}")

    def _half_bits(self, bits: str, lanes: int) -> str:
        """The float16 bits nearest to float `bits`, for targets without the conversion.

        A normal result is the float's bits re-biased and rounded as integers; a subnormal one comes
        from adding 0.5 as a float, whose last place is then that of the smallest float16.
        """
        op, kind, flags = self._text.op, vector("i32", lanes), vector("i1", lanes)
        real = vector("float", lanes)
        size = op(f"and {kind} {bits}, {_int(0x7FFFFFFF, lanes)}")
        upper = op(f"lshr {kind} {bits}, {_int(16, lanes)}")
        sign = op(f"and {kind} {upper}, {_int(0x8000, lanes)}")
        shifted = op(f"lshr {kind} {size}, {_int(13, lanes)}")
        odd = op(f"and {kind} {shifted}, {_int(1, lanes)}")
        biased = op(f"add {kind} {size}, {_int(0xFFF - (112 << 23), lanes)}")
        near = op(f"add {kind} {biased}, {odd}")
        normal = op(f"lshr {kind} {near}, {_int(13, lanes)}")
        small = op(f"bitcast {kind} {size} to {real}")
        half = float_text(0.5)
        moved = op(f"fadd {real} {small}, {splat_text('float', half) if lanes > 1 else half}")
        raw = op(f"bitcast {real} {moved} to {kind}")
        tiny = op(f"sub {kind} {raw}, {_int(0x3F000000, lanes)}")
        is_tiny = op(f"icmp ult {kind} {size}, {_int(113 << 23, lanes)}")
        finite = op(f"select {flags} {is_tiny}, {kind} {tiny}, {kind} {normal}")
        over = op(f"icmp uge {kind} {size}, {_int(0x477FF000, lanes)}")
        capped = op(f"select {flags} {over}, {kind} {_int(0x7C00, lanes)}, {kind} {finite}")
        nan = op(f"icmp ugt {kind} {size}, {_int(0x7F800000, lanes)}")
        best = op(f"select {flags} {nan}, {kind} {_int(0x7E00, lanes)}, {kind} {capped}")
        return op(f"or {kind} {best}, {sign}")

    def _widened_half(self, full: str, lanes: int) -> Value:
        """The float with the value of the float16 bits `full`: shifted, then scaled by 2**112."""
        op, kind, real = self._text.op, vector("i32", lanes), vector("float", lanes)
        size = op(f"and {kind} {full}, {_int(0x7FFF, lanes)}")
        sign = op(f"and {kind} {full}, {_int(0x8000, lanes)}")
        shifted = op(f"shl {kind} {size}, {_int(13, lanes)}")
        raw = op(f"bitcast {kind} {shifted} to {real}")
        scale = float_text(2.0**112)
        scaled = op(f"fmul {real} {raw}, {splat_text('float', scale) if lanes > 1 else scale}")
        bits = op(f"bitcast {real} {scaled} to {kind}")
        special = op(f"icmp uge {kind} {size}, {_int(0x7C00, lanes)}")
        infinite = op(f"or {kind} {shifted}, {_int(0x7F800000, lanes)}")
        flags = vector("i1", lanes)
        chosen = op(f"select {flags} {special}, {kind} {infinite}, {kind} {bits}")
        high = op(f"shl {kind} {sign}, {_int(16, lanes)}")
        joined = op(f"or {kind} {chosen}, {high}")
        return Value(op(f"bitcast {kind} {joined} to {real}"), F16, lanes)


def fold(op: Op, a: Number, b: Number, dtype: DType) -> Value | None:
    """`a op b` as NumPy computes it in `dtype`; None when it is left to run time."""
    if op in COMPARISONS:
        table = {Op.LT: a < b, Op.LE: a <= b, Op.GT: a > b, Op.GE: a >= b, Op.EQ: a == b}
        return literal(table.get(op, a != b), BOOL)
    if op is Op.ADD:
        return _narrow(a + b, dtype)
    if op is Op.SUB:
        return _narrow(a - b, dtype)
    if op is Op.MUL:
        return _narrow(a * b, dtype)
    if (op is Op.MIN or op is Op.MAX) and not (math.isnan(a) or math.isnan(b)):
        return literal(min(a, b) if op is Op.MIN else max(a, b), dtype)
    if (op is Op.AND or op is Op.OR) and dtype.is_bool:
        return literal((a and b) if op is Op.AND else (a or b), dtype)
    if dtype.is_int and b > 0 and op in (Op.FLOORDIV, Op.FLOORMOD):
        return literal(a // b if op is Op.FLOORDIV else a % b, dtype)
    return None


def _narrow(result: Number, dtype: DType) -> Value | None:
    """A double result rounded to `dtype`: exact rounding for float32 sums and products."""
    if dtype.is_float and not math.isfinite(result):
        return None
    return literal(bool(result) if dtype.is_bool else result, dtype)


def _converted(value: Number, dtype: DType) -> Number:
    if dtype.is_float:
        return rounded(float(value), F32 if dtype.bits == 16 else dtype)
    return bool(value) if dtype.is_bool else math.trunc(value)


def _int(value: int, lanes: int) -> str:
    """An i32 literal in every lane."""
    return str(value) if lanes == 1 else splat_text("i32", str(value))
