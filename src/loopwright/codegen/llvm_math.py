"""Intrinsic functions as LLVM text: LLVM's own where the target has them, else calls of libm."""

from __future__ import annotations

from loopwright.codegen.llvm_arith import Arithmetic
from loopwright.codegen.llvm_index import Indices
from loopwright.codegen.llvm_types import Value, compute_type, literal, value_type
from loopwright.ir.dtype import F64, Kind
from loopwright.ir.expr import Fn, Op

_ROUNDING = {Fn.FLOOR: "floor", Fn.CEIL: "ceil", Fn.ROUND: "roundeven"}


class Functions:
    """Emits calls of `Fn` on values."""

    def __init__(self, indices: Indices, arith: Arithmetic) -> None:
        self._indices = indices
        self._arith = arith

    def call(self, fn: Fn, args: list[Value]) -> Value:
        """`fn(args)`; float16 and bfloat16 are computed in float32 and rounded."""
        first = args[0]
        if fn is Fn.NEG:
            return self._arith.negate(first)
        if fn is Fn.NOT:
            return self._arith.invert(first)
        if fn is Fn.ABS:
            return self._abs(first)
        if not first.dtype.is_float:
            if fn in _ROUNDING:
                return first
            return self._arith.cast(self.call(fn, [self._arith.cast(a, F64) for a in args]), first.dtype)
        return self._arith.round(self._float(fn, args))

    def _abs(self, value: Value) -> Value:
        dtype = value.dtype
        if dtype.is_float:
            return self._arith.intrinsic("fabs", value)
        if dtype.kind is not Kind.INT:
            return value
        kind = value_type(dtype, value.lanes)
        negative = self._arith.negate(value)
        positive = self._arith.binary(Op.GE, value, literal(0, dtype))
        result = self._arith.select(positive, value, negative)
        return result if kind else value

    def _float(self, fn: Fn, args: list[Value]) -> Value:
        first = args[0]
        if fn in _ROUNDING:
            return self._arith.intrinsic(_ROUNDING[fn], first)
        if fn is Fn.SQRT:
            return self._arith.intrinsic("sqrt", first)
        if fn is Fn.RSQRT:
            return self._arith.binary(Op.DIV, literal(1.0, first.dtype), self._arith.intrinsic("sqrt", first))
        return self._libm(fn, args)

    def _libm(self, fn: Fn, args: list[Value]) -> Value:
        """A call of libm for each lane."""
        dtype, lanes = args[0].dtype, max(a.lanes for a in args)
        scalar = compute_type(dtype)
        name = fn.value + ("" if dtype == F64 else "f")
        if lanes == 1:
            return Value(self._arith.call(name, scalar, *((scalar, a.text) for a in args)), dtype)
        kind, op = value_type(dtype, lanes), self._indices.text.op
        wide = [self._arith.widen(a, lanes) for a in args]
        result = "poison"
        for lane in range(lanes):
            parts = [op(f"extractelement {kind} {w}, i64 {lane}") for w in wide]
            one = self._arith.call(name, scalar, *((scalar, part) for part in parts))
            result = op(f"insertelement {kind} {result}, {scalar} {one}, i64 {lane}")
        return Value(result, dtype, lanes)
