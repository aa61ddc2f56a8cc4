"""This machine as a target."""

from __future__ import annotations

import functools
import os
import platform
from dataclasses import replace
from pathlib import Path

from loopwright.target.cpu import CpuTarget, with_size
from loopwright.target.presets import EXTENSIONS, PRESETS

# /proc/cpuinfo's name of a feature, where LLVM's differs.
_CPUINFO_NAMES = {
    "sse3": "pni",
    "sse4.1": "sse4_1",
    "sse4.2": "sse4_2",
    "bmi": "bmi1",
    "lzcnt": "abm",
    "avx512vnni": "avx512_vnni",
    "avx512bf16": "avx512_bf16",
    "dotprod": "asimddp",
}
_WIDEST_FIRST = ("x86-64-avx512", "x86-64-avx2", "x86-64-sse4")


@functools.cache
def host() -> CpuTarget:
    """This machine: the widest preset whose features it has, with its cores and caches."""
    target = machine_of(platform.machine(), _cpuinfo())
    target = replace(target, cores=len(os.sched_getaffinity(0)))
    for level, size in _cache_sizes().items():
        target = with_size(target, level, size)
    return target


def machine_of(architecture: str, cpuinfo: str) -> CpuTarget:
    """The preset of a machine with the extensions that it has, from what /proc/cpuinfo says."""
    flags = _flags(cpuinfo)

    def has(feature: str) -> bool:
        return _CPUINFO_NAMES.get(feature, feature) in flags

    if architecture in ("aarch64", "arm64"):
        preset = PRESETS["aarch64-neon"]
    else:
        fitting = (PRESETS[n] for n in _WIDEST_FIRST if all(map(has, PRESETS[n].features)))
        preset = next(fitting, PRESETS["x86-64-sse4"])
    return replace(preset, extensions=tuple(filter(has, EXTENSIONS[preset.name])))


def _flags(cpuinfo: str) -> frozenset[str]:
    """The features of the first core; x86 calls them flags, ARM Features."""
    for line in cpuinfo.splitlines():
        if line.startswith(("flags", "Features")):
            return frozenset(line.partition(":")[2].split())
    return frozenset()


def _cpuinfo() -> str:
    try:
        return Path("/proc/cpuinfo").read_text()
    except OSError:
        return ""


def _cache_sizes() -> dict[str, int]:
    """l1, l2 and l3 of core 0 in bytes, as far as the kernel reports them."""
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
