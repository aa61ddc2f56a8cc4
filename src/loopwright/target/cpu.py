"""CPUs as the compiler sees them."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # a host that only runs kernels has no ml_dtypes
    from loopwright.ir.dtype import DType


@dataclass(frozen=True, slots=True)
class CpuTarget:
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
    def kind(self) -> str:
        """The kind of device, by which tables of back ends, templates and devices are ordered."""
        return "cpu"

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


def with_size(target: CpuTarget, option: str, value: int) -> CpuTarget:
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
