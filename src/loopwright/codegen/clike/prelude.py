"""The declarations before a kernel: the vector types and small functions that it uses."""

from __future__ import annotations

import math

from loopwright.codegen.clike.dialects import Dialect
from loopwright.codegen.values import Number
from loopwright.ir.dtype import F64, DType, DTypeKind


def compute_key(dtype: DType) -> str:
    """The short name of the scalar type that values of `dtype` have: `f32`, `i8`; bool is `i32`."""
    if dtype.is_float:
        return "f64" if dtype == F64 else "f32"
    if dtype.is_bool:
        return "i32"
    return f"{'i' if dtype.kind is DTypeKind.INT else 'u'}{dtype.bits}"


def storage_key(dtype: DType) -> str:
    """The short name of the scalar type that values of `dtype` have in memory."""
    if dtype.is_float and dtype.bits == 16:
        return "u16"
    return "u8" if dtype.is_bool else compute_key(dtype)


def literal_text(value: Number, dtype: DType) -> str:
    """A literal of the type that `dtype` is computed in."""
    if dtype.is_bool:
        return "1" if value else "0"
    if not dtype.is_float:
        number = int(value)
        if number == -(1 << 63):
            return f"(-{-(number + 1)}L - 1)"
        unsigned = dtype.kind is DTypeKind.UINT and dtype.bits >= 32
        text = str(number) + "U" * unsigned + ("L" if dtype.bits == 64 else "")
        return f"({text})" if number < 0 else text
    suffix = "" if dtype == F64 else "f"
    if math.isnan(value):
        return f'__builtin_nan{suffix}("")'
    if math.isinf(value):
        return f"{'-' if value < 0 else ''}__builtin_inf{suffix}()"
    text = float(value).hex() if math.fabs(value) < 1e-3 or math.fabs(value) >= 1e7 else repr(value)
    text = repr(float(value)) if value == 0 else text
    return f"({text}{suffix})" if text.startswith("-") else f"{text}{suffix}"


class Prelude:
    """Types and functions of one file, each declared when it is first asked for."""

    def __init__(self, dialect: Dialect) -> None:
        self.dialect = dialect
        self._declared: dict[str, str] = {}

    @property
    def declarations(self) -> tuple[str, ...]:
        """All declarations, in an order in which each may use those before it."""
        return tuple(self._declared.values())

    def type(self, key: str, lanes: int = 1) -> str:
        """The type of `lanes` values of the scalar type `key`."""
        scalar = self.dialect.scalars[key]
        if lanes == 1:
            return scalar
        name = f"{key}x{lanes}"
        nbytes = int(key[1:]) // 8 * lanes
        self._declared.setdefault(
            name, self.dialect.vector.format(scalar=scalar, name=name, nbytes=nbytes)
        )
        return name

    def loaded(self, key: str, lanes: int) -> str:
        """The type of `lanes` consecutive elements in memory, however aligned."""
        name, align = f"{key}x{lanes}_at", int(key[1:]) // 8
        scalar = self.dialect.scalars[key]
        self._declared.setdefault(
            name,
            self.dialect.loaded.format(scalar=scalar, name=name, nbytes=align * lanes, align=align),
        )
        return name

    def function(
        self, name: str, result: str, arguments: str, body: str, qualifiers: str | None = None
    ) -> str:
        """The function `name`, which does what `body` says; written into callers by default."""
        if name not in self._declared:
            before = self.dialect.helper if qualifiers is None else qualifiers
            head = f"{before} {result} {name}({arguments})"
            self._declared[name] = f"{head} {{ {body} }}"
        return name

    def external(self, name: str, result: str, arguments: str) -> str:
        """The function `name` of another library."""
        self._declared.setdefault(name, f"extern {result} {name}({arguments});")
        return name

    def splat(self, key: str, lanes: int) -> str:
        """The function that gives a vector with its argument in every lane."""
        kind = self.type(key, lanes)
        body = f"return ({kind}){{{', '.join(['s'] * lanes)}}};"
        return self.function(f"splat_{key}x{lanes}", kind, f"{self.type(key)} s", body)

    def by_lane(self, function: str, key: str, lanes: int, count: int) -> str:
        """`function` of `count` scalars as one of vectors."""
        kind, names = self.type(key, lanes), "abc"[:count]
        lanes_of = (
            f"{function}({', '.join(f'{name}[{i}]' for name in names)})" for i in range(lanes)
        )
        body = f"return ({kind}){{{', '.join(lanes_of)}}};"
        arguments = ", ".join(f"{kind} {name}" for name in names)
        short = function.removeprefix("__builtin_")
        return self.function(f"lw_{short}_{key}x{lanes}", kind, arguments, body)

    def fused(self, key: str, lanes: int) -> str:
        """The function that multiplies and adds with one rounding in each lane."""
        plain = f"__builtin_fma{'f' * (key == 'f32')}"
        if lanes == 1:
            return plain
        kind = self.type(key, lanes)
        by_lane = ", ".join(f"{plain}(a[{i}], b[{i}], c[{i}])" for i in range(lanes))
        body = self._special("fma", key, lanes, f"return ({kind}){{{by_lane}}};")
        return self.function(f"lw_fma_{key}x{lanes}", kind, f"{kind} a, {kind} b, {kind} c", body)

    def masked_load(self, key: str, lanes: int) -> str:
        """The function that loads the lanes of a mask, and 0 in the others."""
        kind, mask = self.type(key, lanes), self.type("i32", lanes)
        lines = " ".join(f"if (m[{i}]) r[{i}] = p[{i}];" for i in range(lanes))
        body = self._special("load", key, lanes, f"{kind} r = {{0}}; {lines} return r;")
        arguments = f"const {self.type(key)} *p, {mask} m"
        return self.function(f"lw_load_{key}x{lanes}", kind, arguments, body, self.dialect.function)

    def masked_store(self, key: str, lanes: int) -> str:
        """The function that stores the lanes of a mask."""
        kind, mask = self.type(key, lanes), self.type("i32", lanes)
        lines = " ".join(f"if (m[{i}]) p[{i}] = v[{i}];" for i in range(lanes))
        body = self._special("store", key, lanes, lines)
        arguments = f"{self.type(key)} *p, {mask} m, {kind} v"
        return self.function(
            f"lw_store_{key}x{lanes}", "void", arguments, body, self.dialect.function
        )

    def _special(self, name: str, key: str, lanes: int, otherwise: str) -> str:
        """The body: the dialect's special way where it has one, else `otherwise`."""
        body = otherwise
        for test, statement in self.dialect.special.get((name, key, lanes), ()):
            body = f"\n#if {test}\n  {statement};\n#else\n  {body.strip()}\n#endif\n"
        return body

    def select(self, key: str, lanes: int) -> str:
        """The function that picks lanes of two vectors by a mask of 32-bit lanes, 0 or -1."""
        kind, bits = self.type(key, lanes), int(key[1:])
        mask, wide = self.type("i32", lanes), self.type(f"i{bits}", lanes)
        held = "m" if bits == 32 else self.dialect.convert.format(value="m", type=wide)
        body = f"{wide} w = {held}; return ({kind})((({wide})a & w) | (({wide})b & ~w));"
        return self.function(
            f"lw_select_{key}x{lanes}", kind, f"{mask} m, {kind} a, {kind} b", body
        )

    def bits_of(self, old: str, new: str) -> str:
        """The function that gives the bits of an `old` as a `new` of the same width."""
        source, result = self.type(old), self.type(new)
        body = f"{result} r; __builtin_memcpy(&r, &v, sizeof r); return r;"
        return self.function(f"lw_{old}_as_{new}", result, f"{source} v", body)

    def floor_divide(self) -> str:
        """The function that divides integers by a positive number, rounding to minus infinity."""
        kind = self.type("i64")
        body = "return a / b - (a % b < 0);"
        return self.function("lw_floordiv", kind, f"{kind} a, {kind} b", body)

    def any_lane(self, lanes: int) -> str:
        """The function that says whether any lane of a mask is active."""
        mask = self.type("i32", lanes)
        tests = " | ".join(f"m[{i}]" for i in range(lanes))
        result, body = self.type("i32"), f"return ({tests}) != 0;"
        return self.function(f"lw_any_i32x{lanes}", result, f"{mask} m", body)
