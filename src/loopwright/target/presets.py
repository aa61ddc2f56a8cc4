"""CPU targets by name: instruction sets that many machines share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from loopwright.target.cpu import CoreModel, CpuTarget
from loopwright.target.union import Target

_SSE4 = ("sse", "sse2", "sse3", "ssse3", "sse4.1", "sse4.2", "popcnt", "cx16")
_AVX2 = (*_SSE4, "avx", "avx2", "fma", "f16c", "bmi", "bmi2", "lzcnt", "movbe")
_AVX512 = (*_AVX2, "avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl")
_LINUX_X86 = "x86_64-unknown-linux-gnu"

_AVX512_CORE = CoreModel(
    source="latency, ports and cache widths: Intel's optimization manual, Skylake server (AMD's "
    "Zen 4 is alike); the other figures fit timings of this package's own kernels",
    fma_latency=4,
    fma_ports=2,
    load_ports=2,
    spare_registers=1,
    chain_slack=0.4,
    store=1.5,
    tile_start=12,
    product_start=30.0,
    broadcast=0.03,
    load=0.08,
    spill=0.12,
    row=0.04,
    l1_bandwidth=64.0,
    l2_bandwidth=32.0,
    l3_bandwidth=10.0,
    far_bandwidth=6.0,
    stream_bandwidth=16,
    copy_bandwidth=8,
)
_AVX2_CORE = replace(
    _AVX512_CORE,
    source="latency and ports: AMD's optimization guide, Zen 3 (Intel's Skylake is alike); the "
    "other figures are those of x86-64-avx512, which were not fitted anew",
    spare_registers=2,
)
_SSE4_CORE = replace(
    _AVX2_CORE,
    source="as x86-64-avx2; a multiplication and an addition stand for one multiply-add",
)
_NEON_CORE = replace(
    _AVX512_CORE,
    source="latency and ports: Arm's software optimization guide, Neoverse N1; the other figures "
    "are those of x86-64-avx512, which were not fitted anew",
)

PRESETS = {
    "x86-64-sse4": CpuTarget("x86-64-sse4", _LINUX_X86, _SSE4, 128, 16, _SSE4_CORE),
    "x86-64-avx2": CpuTarget("x86-64-avx2", _LINUX_X86, _AVX2, 256, 16, _AVX2_CORE),
    "x86-64-avx512": CpuTarget("x86-64-avx512", _LINUX_X86, _AVX512, 512, 32, _AVX512_CORE),
    "aarch64-neon": CpuTarget(
        "aarch64-neon", "aarch64-unknown-linux-gnu", ("neon", "fp-armv8"), 128, 32, _NEON_CORE
    ),
}
EXTENSIONS: Mapping[str, tuple[str, ...]] = {
    "x86-64-sse4": (),
    "x86-64-avx2": (),
    "x86-64-avx512": ("avx512vnni", "avx512bf16"),
    "aarch64-neon": ("dotprod", "bf16"),
}
"""Extensions that machines of a preset may have, by LLVM's names. Kernels that use none are the
same whether or not a machine has them, and so is the key they are filed under.
"""


def keys_for(machine: Target) -> frozenset[str]:
    """Keys of the targets whose code runs on `machine`."""
    if not isinstance(machine, CpuTarget):
        return frozenset({machine.key})
    features = frozenset(machine.features)
    keys = set(machine.keys)
    for preset in PRESETS.values():
        if preset.arch == machine.arch and features.issuperset(preset.features):
            shared = (e for e in EXTENSIONS[preset.name] if e in machine.extensions)
            keys |= replace(preset, extensions=tuple(shared)).keys
    return frozenset(keys)
