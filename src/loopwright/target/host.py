"""This machine as a target."""

from __future__ import annotations

import functools
import os
import platform
from dataclasses import replace
from pathlib import Path

from loopwright.target.cpu import CpuTarget, with_size
from loopwright.target.presets import PRESETS

# What /proc/cpuinfo calls a feature, where LLVM calls it otherwise.
_CPUINFO_NAMES = {
    "sse3": "pni",
    "sse4.1": "sse4_1",
    "sse4.2": "sse4_2",
    "bmi": "bmi1",
    "lzcnt": "abm",
}


@functools.cache
def host() -> CpuTarget:
    """This machine: the widest preset whose features it all has, with its cores and caches."""
    if platform.machine() in ("aarch64", "arm64"):
        preset = PRESETS["aarch64-neon"]
    else:
        flags = set(_cpuinfo_flags())
        order = ("x86-64-avx512", "x86-64-avx2", "x86-64-sse4")
        preset = next(
            (
                PRESETS[name]
                for name in order
                if all(_CPUINFO_NAMES.get(f, f) in flags for f in PRESETS[name].features)
            ),
            PRESETS["x86-64-sse4"],
        )
    target = replace(preset, cores=len(os.sched_getaffinity(0)))
    for level, size in _cache_sizes().items():
        target = with_size(target, level, size)
    return target


def _cpuinfo_flags() -> list[str]:
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return []
    for line in text.splitlines():
        if line.startswith("flags"):
            return line.partition(":")[2].split()
    return []


def _cache_sizes() -> dict[str, int]:
    """l1, l2 and l3 of core 0 in bytes, as far as the kernel tells."""
    sizes: dict[str, int] = {}
    for index in sorted(Path("/sys/devices/system/cpu/cpu0/cache").glob("index*")):
        try:
            kind = (index / "type").read_text().strip()
            level = (index / "level").read_text().strip()
            size = (index / "size").read_text().strip()
        except OSError:
            continue
        if kind != "Instruction" and size.endswith("K") and level in "123":
            sizes[f"l{level}"] = int(size[:-1]) * 1024
    return sizes
