"""Arithmetic on values as C-like text; instructions have their LLVM names."""

from __future__ import annotations

import re

from loopwright.codegen.clike.prelude import Prelude, compute_key, literal_text, storage_key
from loopwright.codegen.clike.text import Body
from loopwright.codegen.operations import Operations
from loopwright.codegen.values import CodeValue, Number, rounded
from loopwright.errors import CodegenError
from loopwright.ir.dtype import BOOL, F16, F32, F64, I32, DType
from loopwright.ir.expr import Fn

_SYMBOLS = {
    "fadd": "+",
    "fsub": "-",
    "fmul": "*",
    "fdiv": "/",
    "add": "+",
    "sub": "-",
    "mul": "*",
    "and": "&",
    "or": "|",
    "xor": "^",
    "sdiv": "/",
    "srem": "%",
    "udiv": "/",
    "urem": "%",
    "ashr": ">>",
}
_PREDICATES = {"lt": "<", "le": "<=", "gt": ">", "ge": ">=", "eq": "==", "ne": "!="}
_BUILTINS = {
    "fabs": "fabs",
    "floor": "floor",
    "ceil": "ceil",
    "roundeven": "rint",
    "rint": "rint",
    "sqrt": "sqrt",
    "copysign": "copysign",
}
_NAMED = re.compile(r"v\d+\Z")
"""Invariant text: constants that the emitter has named."""


class EmitState:
    """The state of emission: the function being written and the file's declarations."""

    def __init__(self, prelude: Prelude, body: Body) -> None:
        self.prelude = prelude
        self.body = body
        self.lanes = 1


class ClikeOperations(Operations):
    """Operations on values at the end of the current scope.

    A bool is an int32 of 0 or 1, and in lanes a mask of 0 or -1.
    """

    def __init__(self, state: EmitState, *, fused: bool) -> None:
        self._state = state
        self._has_fused = fused

    def kind(self, dtype: DType, lanes: int = 1) -> str:
        """The type of values of `dtype`."""
        return self._state.prelude.type(compute_key(dtype), lanes)

    def op(self, text: str, dtype: DType, lanes: int) -> CodeValue:
        """A new value."""
        return CodeValue(self._state.body.op(self.kind(dtype, lanes), text), dtype, lanes)

    def literal(self, value: Number, dtype: DType) -> CodeValue:
        """A constant of one lane."""
        held = rounded(value, dtype)
        single = dtype if dtype == F64 or not dtype.is_float else F32
        return CodeValue(literal_text(rounded(held, single), dtype), dtype, 1, held)

    def widen(self, value: CodeValue, lanes: int) -> str:
        """`value` in `lanes` lanes."""
        if value.lanes == lanes:
            return value.text
        if value.lanes != 1:
            raise CodegenError(f"{value.lanes} lanes of {value.dtype} where {lanes} are needed")
        text = f"-{value.text}" if value.dtype.is_bool else value.text
        call = f"{self._state.prelude.splat(compute_key(value.dtype), lanes)}({text})"
        if value.const is None and not _NAMED.match(value.text):
            return call
        key = ("splat", value.text, value.dtype, lanes)
        return self._state.body.remembered(key, self.kind(value.dtype, lanes), call)

    def plain(self, op: str, lhs: CodeValue, rhs: CodeValue, result: DType) -> CodeValue:
        """The instruction `op`, by its LLVM name, on two values of one dtype."""
        lanes = max(lhs.lanes, rhs.lanes)
        name, _, predicate = op.partition(" ")
        if name in ("fcmp", "icmp"):
            return self._compare(predicate, lhs, rhs, lanes)
        if name in ("shl", "lshr"):
            return self._shift(name, lhs, rhs, lanes)
        if name == "frem":
            return self._call("fmod", lhs.dtype, lanes, lhs, rhs)
        a, b = self.widen(lhs, lanes), self.widen(rhs, lanes)
        text = f"{a} {_SYMBOLS[name]} {b}"
        if lanes == 1 and lhs.dtype.is_int and lhs.dtype.bits < 32:
            text = f"({self.kind(lhs.dtype)})({text})"
        return self.op(text, result, lanes)

    def _compare(self, predicate: str, lhs: CodeValue, rhs: CodeValue, lanes: int) -> CodeValue:
        a, b = self.widen(lhs, lanes), self.widen(rhs, lanes)
        key = compute_key(lhs.dtype)
        if predicate[0] == "u" and predicate != "une" and key[0] == "i":
            unsigned = self._state.prelude.type(f"u{key[1:]}", lanes)
            a, b = f"({unsigned}){a}", f"({unsigned}){b}"
        text = f"({a} {_PREDICATES[predicate[-2:]]} {b})"
        if lanes > 1 and key[1:] != "32":
            text = self._converted(text, self.kind(BOOL, lanes))
        return self.op(text, BOOL, lanes)

    def _shift(self, name: str, lhs: CodeValue, rhs: CodeValue, lanes: int) -> CodeValue:
        """A logical shift by a literal."""
        kind, key = self.kind(lhs.dtype, lanes), compute_key(lhs.dtype)
        unsigned = self._state.prelude.type(f"u{key[1:]}", lanes)
        symbol = "<<" if name == "shl" else ">>"
        return self.op(f"({kind})(({unsigned}){lhs.text} {symbol} {rhs.text})", lhs.dtype, lanes)

    def intrinsic(self, name: str, *args: CodeValue) -> CodeValue:
        """LLVM's intrinsic function `name` of values of one dtype; the result has that dtype."""
        lanes, dtype = max(a.lanes for a in args), args[0].dtype
        if name in ("smin", "smax", "umin", "umax"):
            lhs, rhs = args
            predicate = name[0] + ("lt" if name.endswith("min") else "gt")
            return self.select(self.plain(f"icmp {predicate}", lhs, rhs, BOOL), lhs, rhs)
        if name == "fabs" and lanes > 1:
            return self._masked_sign(args[0])
        return self._call(_BUILTINS[name], dtype, lanes, *args)

    def _masked_sign(self, value: CodeValue) -> CodeValue:
        """The absolute value of a vector of floats."""
        bits = 64 if value.dtype == F64 else 32
        wide = self._state.prelude.type(f"i{bits}", value.lanes)
        most = f"{(1 << bits - 1) - 1}{'L' if bits == 64 else ''}"
        kind = self.kind(value.dtype, value.lanes)
        return self.op(f"({kind})(({wide}){value.text} & {most})", value.dtype, value.lanes)

    def _call(self, name: str, dtype: DType, lanes: int, *args: CodeValue) -> CodeValue:
        """A compiler builtin, applied to each lane."""
        function = f"__builtin_{name}" + ("" if dtype == F64 else "f")
        texts = [self.widen(a, lanes) for a in args]
        if lanes > 1:
            key = compute_key(dtype)
            function = self._state.prelude.by_lane(function, key, lanes, len(args))
        return self.op(f"{function}({', '.join(texts)})", dtype, lanes)

    def choose(self, cond: CodeValue, yes: CodeValue, no: CodeValue) -> CodeValue:
        """`yes if cond else no` for a condition that is not constant."""
        lanes = max(cond.lanes, yes.lanes, no.lanes)
        a, b = self.widen(yes, lanes), self.widen(no, lanes)
        if cond.lanes == 1:
            return self.op(f"{cond.text} ? {a} : {b}", yes.dtype, lanes)
        function = self._state.prelude.select(compute_key(yes.dtype), lanes)
        return self.op(f"{function}({cond.text}, {a}, {b})", yes.dtype, lanes)

    def convert(self, op: str, value: CodeValue, dtype: DType) -> CodeValue:
        """`value` as `dtype` by the conversion `op`, by its LLVM name."""
        del op  # the types say it
        kind, text = self.kind(dtype, value.lanes), value.text
        if value.lanes == 1:
            return self.op(f"({kind}){text}", dtype, 1)
        if value.dtype.is_bool:
            text = f"{text} & 1"
        return self.op(self._converted(text, kind), dtype, value.lanes)

    def relabel(self, value: CodeValue, dtype: DType) -> CodeValue:
        """The integer `value` as one of the same width, signed or not."""
        return self.op(f"({self.kind(dtype, value.lanes)}){value.text}", dtype, value.lanes)

    def bitcast(self, value: CodeValue, dtype: DType) -> CodeValue:
        """The bits of `value` as a `dtype` of the same width."""
        if value.lanes > 1:
            return self.relabel(value, dtype)
        function = self._state.prelude.bits_of(compute_key(value.dtype), compute_key(dtype))
        return self.op(f"{function}({value.text})", dtype, 1)

    def fused(self, a: CodeValue, b: CodeValue, c: CodeValue) -> CodeValue:
        """`a * b + c` of floats, rounded once where the target can."""
        lanes = max(a.lanes, b.lanes, c.lanes)
        if self._has_fused:
            function = self._state.prelude.fused(compute_key(a.dtype), lanes)
            texts = ", ".join(self.widen(value, lanes) for value in (a, b, c))
            return self.op(f"{function}({texts})", a.dtype, lanes)
        x, y, z = (self.widen(value, lanes) for value in (a, b, c))
        return self.op(f"{x} * {y} + {z}", a.dtype, lanes)

    def negate_float(self, value: CodeValue) -> CodeValue:
        """`value` negated."""
        return self.op(f"-{value.text}", value.dtype, value.lanes)

    def libm(self, fn: Fn, args: list[CodeValue]) -> CodeValue:
        """The libm function for `fn`, applied to each lane."""
        dtype, lanes = args[0].dtype, max(a.lanes for a in args)
        prelude, kind = self._state.prelude, self.kind(dtype)
        name = fn.value + ("" if dtype == F64 else "f")
        function = prelude.external(name, kind, ", ".join([kind] * len(args)))
        texts = [self.widen(a, lanes) for a in args]
        if lanes > 1:
            function = prelude.by_lane(function, compute_key(dtype), lanes, len(args))
        return self.op(f"{function}({', '.join(texts)})", dtype, lanes)

    def round(self, value: CodeValue) -> CodeValue:
        """A value computed in float32, rounded to its 16-bit dtype; others as they are."""
        if not (value.dtype.is_float and value.dtype.bits == 16):
            return value
        return self.from_memory(self.to_memory(value, value.lanes), value.dtype, value.lanes)

    def to_memory(self, value: CodeValue, lanes: int) -> str:
        """`value` widened to `lanes`, as its dtype is stored."""
        text, dtype = self.widen(value, lanes), value.dtype
        stored = self._state.prelude.type(storage_key(dtype), lanes)
        if dtype.is_bool:
            return f"({stored}){text}" if lanes == 1 else self._converted(f"{text} & 1", stored)
        if not (dtype.is_float and dtype.bits == 16):
            return text
        bits = self.bitcast(CodeValue(text, F32, lanes), I32)
        short = self.half_bits(bits) if dtype == F16 else self.bfloat_bits(bits)
        cast = f"({stored}){short.text}" if lanes == 1 else self._converted(short.text, stored)
        return self._state.body.op(stored, cast)

    def from_memory(self, text: str, dtype: DType, lanes: int) -> CodeValue:
        """The value stored as `text`."""
        full = self.kind(I32, lanes)
        if dtype.is_bool:
            held = text if lanes == 1 else self._converted(text, full)
            return self.op(f"{held} != 0", BOOL, lanes)
        if not (dtype.is_float and dtype.bits == 16):
            return CodeValue(text, dtype, lanes)
        bits = self.op(f"({full}){text}" if lanes == 1 else self._converted(text, full), I32, lanes)
        if dtype == F16:
            return self.widened_half(bits)
        high = self.plain("shl", bits, self.literal(16, I32), I32)
        return self.bitcast(high, F32)._replace(dtype=dtype)

    def _converted(self, text: str, kind: str) -> str:
        return self._state.prelude.dialect.convert.format(value=text, type=kind)
