"""Arithmetic on values as LLVM text."""

from __future__ import annotations

from loopwright.codegen.llvm.builder import FunctionText
from loopwright.codegen.llvm.index import Indices
from loopwright.codegen.llvm.types import (
    compute_type,
    literal,
    mangled,
    splat_text,
    storage_type,
    value_type,
    vector,
)
from loopwright.codegen.operations import Operations
from loopwright.codegen.values import CodeValue, Number
from loopwright.errors import CodegenError
from loopwright.ir.dtype import F16, F32, F64, I16, I32, DType
from loopwright.ir.expr import Fn, Op


class LlvmOperations(Operations):
    """Emits operations on values at the end of the current block."""

    def __init__(self, indices: Indices, features: frozenset[str], arch: str) -> None:
        self._indices = indices
        self._native_half = arch == "aarch64" or "f16c" in features
        self._native_extremum = arch == "aarch64"
        self.declared: dict[str, str] = {}
        # By identity of the dtype (kept alive in the entry): hashing one costs more than the rest.
        self._fused: dict[tuple[int, int], tuple[str, str, DType]] = {}

    @property
    def _text(self) -> FunctionText:
        return self._indices.text

    def literal(self, value: Number, dtype: DType) -> CodeValue:
        """A constant of one lane."""
        return literal(value, dtype)

    def call(self, name: str, result: str, *args: tuple[str, str]) -> str:
        """The name of `name(args)`; args are (type, text). Declares the function on first use."""
        if name not in self.declared:
            types = ", ".join(kind for kind, _ in args)
            self.declared[name] = f"declare {result} @{name}({types})"
        shown = ", ".join(f"{kind} {text}" for kind, text in args)
        return self._text.op(f"call {result} @{name}({shown})")

    def widen(self, value: CodeValue, lanes: int) -> str:
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

    def plain(self, op: str, lhs: CodeValue, rhs: CodeValue, result: DType) -> CodeValue:
        """The instruction `op` of two values of one dtype."""
        lanes = max(lhs.lanes, rhs.lanes)
        a, b = self.widen(lhs, lanes), self.widen(rhs, lanes)
        kind = value_type(lhs.dtype, lanes)
        return CodeValue(self._text.op(f"{op} {kind} {a}, {b}"), result, lanes)

    def intrinsic(self, name: str, *args: CodeValue) -> CodeValue:
        """`llvm.name(args)` on values of one dtype; the result has that dtype and their lanes."""
        lanes = max(a.lanes for a in args)
        first = args[0].dtype
        kind = value_type(first, lanes)
        suffix = mangled(compute_type(first), lanes)
        wide = [(kind, self.widen(a, lanes)) for a in args]
        return CodeValue(self.call(f"llvm.{name}.{suffix}", kind, *wide), first, lanes)

    def extremum(self, op: Op, lhs: CodeValue, rhs: CodeValue) -> CodeValue:
        """The smaller or larger of two floats, NaN where one is; one instruction of AArch64."""
        if self._native_extremum:
            return self.intrinsic("minimum" if op is Op.MIN else "maximum", lhs, rhs)
        return super().extremum(op, lhs, rhs)

    def choose(self, cond: CodeValue, yes: CodeValue, no: CodeValue) -> CodeValue:
        """`yes if cond else no`, by lane when `cond` has lanes."""
        lanes = max(cond.lanes, yes.lanes, no.lanes)
        a, b = self.widen(yes, lanes), self.widen(no, lanes)
        kind = value_type(yes.dtype, lanes)
        test = f"{vector('i1', cond.lanes)} {cond.text}"
        return CodeValue(self._text.op(f"select {test}, {kind} {a}, {kind} {b}"), yes.dtype, lanes)

    def convert(self, op: str, value: CodeValue, dtype: DType) -> CodeValue:
        """`value` as `dtype` by the conversion `op`."""
        old, new = value_type(value.dtype, value.lanes), value_type(dtype, value.lanes)
        return CodeValue(self._text.op(f"{op} {old} {value.text} to {new}"), dtype, value.lanes)

    def bitcast(self, value: CodeValue, dtype: DType) -> CodeValue:
        """The bits of `value` as a `dtype` of the same width."""
        old, new = value_type(value.dtype, value.lanes), value_type(dtype, value.lanes)
        return CodeValue(self._text.op(f"bitcast {old} {value.text} to {new}"), dtype, value.lanes)

    def fused(self, a: CodeValue, b: CodeValue, c: CodeValue) -> CodeValue:
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
        return CodeValue(self._text.op(f"{call}{x}, {kind} {y}, {kind} {z})"), dtype, lanes)

    def negate_float(self, value: CodeValue) -> CodeValue:
        """`value` negated."""
        kind = value_type(value.dtype, value.lanes)
        return CodeValue(self._text.op(f"fneg {kind} {value.text}"), value.dtype, value.lanes)

    def libm(self, fn: Fn, args: list[CodeValue]) -> CodeValue:
        """A libm call for each lane."""
        dtype, lanes = args[0].dtype, max(a.lanes for a in args)
        scalar = compute_type(dtype)
        name = fn.value + ("" if dtype == F64 else "f")
        if lanes == 1:
            return CodeValue(self.call(name, scalar, *((scalar, a.text) for a in args)), dtype)
        kind, op = value_type(dtype, lanes), self._text.op
        wide = [self.widen(a, lanes) for a in args]
        result = "poison"
        for lane in range(lanes):
            parts = [op(f"extractelement {kind} {w}, i64 {lane}") for w in wide]
            one = self.call(name, scalar, *((scalar, part) for part in parts))
            result = op(f"insertelement {kind} {result}, {scalar} {one}, i64 {lane}")
        return CodeValue(result, dtype, lanes)

    def round(self, value: CodeValue) -> CodeValue:
        """A value computed in `float`, rounded to its 16-bit dtype; others as they are."""
        if not (value.dtype.is_float and value.dtype.bits == 16):
            return value
        return self.from_memory(self.to_memory(value, value.lanes), value.dtype, value.lanes)

    def to_memory(self, value: CodeValue, lanes: int) -> str:
        """`value` widened to `lanes`, as its dtype is stored."""
        text, dtype = self.widen(value, lanes), value.dtype
        stored = vector(storage_type(dtype), lanes)
        if dtype.is_bool:
            return self._text.op(f"zext {vector('i1', lanes)} {text} to {stored}")
        if not (dtype.is_float and dtype.bits == 16):
            return text
        if dtype == F16 and self._native_half:
            return self._text.op(f"fptrunc {vector('float', lanes)} {text} to {stored}")
        bits = self.bitcast(CodeValue(text, F32, lanes), I32)
        short = self.half_bits(bits) if dtype == F16 else self.bfloat_bits(bits)
        small = self.convert("trunc", short, I16)
        return (
            self._text.op(f"bitcast {value_type(I16, lanes)} {small.text} to {stored}")
            if (dtype == F16)
            else small.text
        )

    def from_memory(self, text: str, dtype: DType, lanes: int) -> CodeValue:
        """The value stored as `text`."""
        stored = vector(storage_type(dtype), lanes)
        if dtype.is_bool:
            zero = "0" if lanes == 1 else "zeroinitializer"
            return CodeValue(self._text.op(f"icmp ne {stored} {text}, {zero}"), dtype, lanes)
        if not (dtype.is_float and dtype.bits == 16):
            return CodeValue(text, dtype, lanes)
        wide = vector("float", lanes)
        if dtype == F16 and self._native_half:
            return CodeValue(self._text.op(f"fpext {stored} {text} to {wide}"), dtype, lanes)
        if dtype == F16:
            text = self._text.op(f"bitcast {stored} {text} to {vector('i16', lanes)}")
        full = self.convert("zext", CodeValue(text, I16, lanes), I32)
        if dtype == F16:
            return self.widened_half(full)
        high = self.plain("shl", full, self.literal(16, I32), I32)
        return self.bitcast(high, F32)._replace(dtype=dtype)
