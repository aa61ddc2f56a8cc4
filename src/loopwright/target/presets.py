"""Targets by name: instruction sets that many machines share."""

from __future__ import annotations

from loopwright.target.cpu import CpuTarget

_SSE4 = ("sse", "sse2", "sse3", "ssse3", "sse4.1", "sse4.2", "popcnt", "cx16")
_AVX2 = (*_SSE4, "avx", "avx2", "fma", "f16c", "bmi", "bmi2", "lzcnt", "movbe")
_AVX512 = (*_AVX2, "avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl")
_LINUX_X86 = "x86_64-unknown-linux-gnu"
PRESETS = {
    "x86-64-sse4": CpuTarget("x86-64-sse4", _LINUX_X86, _SSE4, 128, 16),
    "x86-64-avx2": CpuTarget("x86-64-avx2", _LINUX_X86, _AVX2, 256, 16),
    "x86-64-avx512": CpuTarget("x86-64-avx512", _LINUX_X86, _AVX512, 512, 32),
    "aarch64-neon": CpuTarget(
        "aarch64-neon", "aarch64-unknown-linux-gnu", ("neon", "fp-armv8"), 128, 32
    ),
}
