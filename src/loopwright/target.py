"""Targets: what kind of machine a kernel is made for.

A target string is `cpu` (this machine), an architecture preset such as `x86-64-avx2`, or a preset
with options: `x86-64-avx512 cores=8 l2=1048576`. A `Target` is pure data, so it can describe a
machine that is not here; `host()` reads this machine.
"""

from __future__ import annotations

import functools
import hashlib
import os
import platform
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from loopwright.errors import ConfigError

if TYPE_CHECKING:  # a host that only runs kernels has no ml_dtypes
    from loopwright.ir.dtype import DType


@dataclass(frozen=True, slots=True)
class Target:
    """A CPU as the compiler sees it. Caches are bytes per core (l3: shared)."""

    name: str  # preset: x86-64-avx512, x86-64-avx2, x86-64-sse4, aarch64-neon
    triple: str
    features: tuple[str, ...]  # LLVM feature names
    vector_bits: int
    registers: int  # vector registers
    cores: int = 1
    l1: int = 32768
    l2: int = 1048576
    l3: int = 33554432

    @property
    def key(self) -> str:
        """What records are filed under: code made for one key runs on every machine of that key."""
        digest = hashlib.sha256(",".join(self.features).encode()).hexdigest()[:8]
        return f"{self.name}-{digest}"

    @property
    def arch(self) -> str:
        """`x86_64` or `aarch64`."""
        return self.triple.split("-")[0]

    def lanes(self, dtype: DType) -> int:
        """Elements of `dtype` in one vector register."""
        return max(1, self.vector_bits // dtype.bits)

    def __str__(self) -> str:
        return f"{self.name} cores={self.cores} l1={self.l1} l2={self.l2} l3={self.l3}"


_SSE4 = ("sse", "sse2", "sse3", "ssse3", "sse4.1", "sse4.2", "popcnt", "cx16")
_AVX2 = (*_SSE4, "avx", "avx2", "fma", "f16c", "bmi", "bmi2", "lzcnt", "movbe")
_AVX512 = (*_AVX2, "avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl")
_LINUX_X86 = "x86_64-unknown-linux-gnu"
PRESETS = {
    "x86-64-sse4": Target("x86-64-sse4", _LINUX_X86, _SSE4, 128, 16),
    "x86-64-avx2": Target("x86-64-avx2", _LINUX_X86, _AVX2, 256, 16),
    "x86-64-avx512": Target("x86-64-avx512", _LINUX_X86, _AVX512, 512, 32),
    "aarch64-neon": Target(
        "aarch64-neon", "aarch64-unknown-linux-gnu", ("neon", "fp-armv8"), 128, 32
    ),
}
_OPTIONS = ("cores", "l1", "l2", "l3")
# What /proc/cpuinfo calls a feature, where LLVM calls it otherwise.
_CPUINFO_NAMES = {
    "sse3": "pni",
    "sse4.1": "sse4_1",
    "sse4.2": "sse4_2",
    "bmi": "bmi1",
    "lzcnt": "abm",
}


def parse(text: str | Target) -> Target:
    """The target that `text` describes.

    Raises: ConfigError naming the presets and options there are.
    """
    if isinstance(text, Target):
        return text
    words = text.split()
    name, options = (words[0] if words else ""), words[1:]
    if name == "cpu":
        target = host()
    elif name in PRESETS:
        target = PRESETS[name]
    else:
        known = ", ".join(["cpu", *PRESETS])
        raise ConfigError(f"unknown target {text!r}; use one of {known}")
    for option in options:
        key, _, value = option.partition("=")
        if key not in _OPTIONS or not value.isdigit() or int(value) < 1:
            raise ConfigError(
                f"target {text!r}: option {option!r} is not one of "
                "cores=N l1=BYTES l2=BYTES l3=BYTES"
            )
        target = _with_size(target, key, int(value))
    return target


@functools.cache
def host() -> Target:
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
        target = _with_size(target, level, size)
    return target


def _with_size(target: Target, option: str, value: int) -> Target:
    """`target` with one of the options changed."""
    match option:
        case "cores":
            return replace(target, cores=value)
        case "l1":
            return replace(target, l1=value)
        case "l2":
            return replace(target, l2=value)
        case _:
            return replace(target, l3=value)


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
