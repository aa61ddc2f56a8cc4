"""How C-like languages differ: a table for each of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

Ways: TypeAlias = tuple[tuple[str, str], ...]
"""Statements, each behind a preprocessor test."""


@dataclass(frozen=True, slots=True)
class Dialect:
    """The templates of a language that the emitter fills in.

    `scalars` names the scalar types by their short names (f32, i64, ...). `vector` declares the
    vector type `{name}` of `{lanes}` elements of `{scalar}`, `{nbytes}` in all; `loaded` the same
    at any multiple of `{align}` bytes. `convert` converts the lanes of `{value}` to `{type}`.
    `helper` and `function` begin functions that are inlined into their callers, and ones that are
    not. `head` opens a file. `special` has ways to write what vector types cannot express, by name
    (`fma` of the vectors a, b, c; `load` and `store` v at p in the lanes of the mask m), type and
    lanes: each behind a preprocessor test, of which the last is tried first.
    """

    name: str
    head: str
    scalars: Mapping[str, str]
    vector: str
    loaded: str
    convert: str
    helper: str
    function: str
    restrict: str
    aligned: str
    special: Mapping[tuple[str, str, int], Ways]


def _on_x86() -> dict[tuple[str, str, int], Ways]:
    """GCC's builtins for x86 instructions beyond vector types, and Clang's where they differ."""
    clang = (
        "__has_builtin(__builtin_elementwise_fma)",
        "return __builtin_elementwise_fma(a, b, c)",
    )
    found: dict[tuple[str, str, int], Ways] = {
        ("fma", key, 1 << n): (clang,) for key in ("f32", "f64") for n in range(1, 5)
    }
    for key, letter, lanes in (("f32", "s", 4), ("f64", "d", 2)):
        for width, suffix in ((lanes, ""), (2 * lanes, "256")):
            call = f"return __builtin_ia32_vfmaddp{letter}{suffix}(a, b, c)"
            found["fma", key, width] = (("defined(__FMA__)", call), clang)
        call = f"return __builtin_ia32_vfmaddp{letter}512_mask(a, b, c, -1, 4)"
        found["fma", key, 4 * lanes] = (("defined(__AVX512F__)", call), clang)
    for width, suffix in ((4, ""), (8, "256")):
        load = f"return __builtin_ia32_maskloadps{suffix}((const f32x{width} *)p, m)"
        store = f"__builtin_ia32_maskstoreps{suffix}((f32x{width} *)p, m, v)"
        found["load", "f32", width] = (("defined(__AVX__)", load),)
        found["store", "f32", width] = (("defined(__AVX__)", store),)
    flags = "__builtin_ia32_cvtd2mask512(m)"
    load = f"return __builtin_ia32_loadups512_mask(p, (f32x16){{0}}, {flags})"
    store = f"__builtin_ia32_storeups512_mask(p, v, {flags})"
    found["load", "f32", 16] = (("defined(__AVX512DQ__)", load),)
    found["store", "f32", 16] = (("defined(__AVX512DQ__)", store),)
    return found


C11 = Dialect(
    name="c",
    head="""\
#include <stdint.h>

typedef void (*lw_parallel_for)(void *pool,
                                void (*body)(void *closure, int64_t begin, int64_t end,
                                             int64_t thread),
                                void *closure, int64_t extent);
""",
    scalars={
        "f32": "float",
        "f64": "double",
        **{f"i{bits}": f"int{bits}_t" for bits in (8, 16, 32, 64)},
        **{f"u{bits}": f"uint{bits}_t" for bits in (8, 16, 32, 64)},
    },
    vector="typedef {scalar} {name} __attribute__((vector_size({nbytes})));",
    loaded=(
        "typedef {scalar} {name} "
        "__attribute__((vector_size({nbytes}), aligned({align}), may_alias));"
    ),
    convert="__builtin_convertvector({value}, {type})",
    helper="static inline __attribute__((always_inline))",
    function="static __attribute__((noinline))",
    restrict="restrict",
    aligned="__attribute__((aligned({align})))",
    special=_on_x86(),
)
"""C11 with the vector types of GCC and Clang."""
