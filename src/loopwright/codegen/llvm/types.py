"""How values are written in LLVM text: types and literals.

bool is `i1` in a register and one byte in memory.
"""

from __future__ import annotations

import functools
import struct

from loopwright.codegen.values import CodeValue, Number, rounded
from loopwright.ir.dtype import F16, F32, F64, DType, DTypeKind

_MANGLED = {"float": "f32", "double": "f64", "half": "f16"}


@functools.cache
def compute_type(dtype: DType) -> str:
    """The scalar type that values of `dtype` have in registers: `float` for both 16-bit floats."""
    if dtype.is_float:
        return "double" if dtype == F64 else "float"
    return "i1" if dtype.is_bool else f"i{dtype.bits}"


@functools.cache
def storage_type(dtype: DType) -> str:
    """The scalar type that values of `dtype` have in memory: `i16` for bfloat16, `i8` for bool."""
    if dtype == F16:
        return "half"
    if dtype.kind is DTypeKind.BFLOAT:
        return "i16"
    return "i8" if dtype.is_bool else compute_type(dtype)


@functools.cache
def vector(scalar: str, lanes: int) -> str:
    """`<16 x float>`; the scalar type itself for one lane."""
    return scalar if lanes == 1 else f"<{lanes} x {scalar}>"


@functools.cache
def mangled(scalar: str, lanes: int) -> str:
    """The suffix of an overloaded intrinsic: `v16f32`, `i64`, `p0`."""
    name = "p0" if scalar == "ptr" else _MANGLED.get(scalar, scalar)
    return name if lanes == 1 else f"v{lanes}{name}"


@functools.cache
def value_type(dtype: DType, lanes: int) -> str:
    """The type of a value of `dtype` in registers."""
    return vector(compute_type(dtype), lanes)


def typed(value: CodeValue) -> str:
    """`float %v1`: the value with its type before it."""
    return f"{value_type(value.dtype, value.lanes)} {value.text}"


@functools.lru_cache(maxsize=4096)
def float_text(value: float) -> str:
    """A float literal; LLVM writes both `float` and `double` as the bits of a double."""
    return f"0x{struct.pack('>d', value).hex().upper()}"


def literal(value: Number, dtype: DType) -> CodeValue:
    """A constant of one lane."""
    held = rounded(value, dtype)
    if dtype.is_float:
        single = dtype if dtype == F64 else F32
        return CodeValue(float_text(float(rounded(held, single))), dtype, 1, held)
    if dtype.is_bool:
        return CodeValue("true" if held else "false", dtype, 1, held)
    return CodeValue(str(held), dtype, 1, held)


def splat_text(scalar_type: str, text: str) -> str:
    """A vector literal with `text` in every lane, without its own type."""
    return f"splat ({scalar_type} {text})"


def vector_literal(scalar_type: str, values: list[int]) -> str:
    """`<i64 0, i64 1>`."""
    return "<" + ", ".join(f"{scalar_type} {v}" for v in values) + ">"
