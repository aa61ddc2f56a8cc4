"""CPUs as the compiler sees them."""

from __future__ import annotations

import hashlib
import itertools
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from loopwright.errors import ConfigError

if TYPE_CHECKING:  # a host that only runs kernels has no ml_dtypes
    from loopwright.ir.dtype import DType


@dataclass(frozen=True, slots=True, kw_only=True)
class CoreModel:
    """What one core can do in a cycle, as needed to compare configs without measuring.

    Bandwidths are bytes a cycle; costs are cycles. `source` says where the figures come from.
    """

    source: str
    fma_latency: int
    fma_ports: int
    load_ports: int
    spare_registers: int
    """Registers that a step takes besides its operands; 1 where broadcasts fold into arithmetic."""
    chain_slack: float
    """What chains of multiply-adds take beyond their latency, as they never run in lockstep."""
    store: float
    """To finish one accumulator."""
    tile_start: float
    """To begin a register tile."""
    product_start: float
    """To begin and store a register tile of a long matrix product, as Winograd's are."""
    broadcast: float
    """A load of a scalar, alongside busy arithmetic units."""
    load: float
    """A load of a vector, likewise."""
    spill: float
    """The share of a step that missing registers cost, times their number squared."""
    row: float
    """The share of a tile that each further row of it costs: its pixels lie apart."""
    l1_bandwidth: float
    l2_bandwidth: float
    l3_bandwidth: float
    far_bandwidth: float
    """From memory."""
    stream_bandwidth: float
    """Read sequentially from beyond a core's own caches."""
    copy_bandwidth: float
    """Written by a copy into L1 or L2."""


@dataclass(frozen=True, slots=True)
class CpuTarget:
    """A CPU as the compiler sees it. Caches are bytes per core (l3: shared).

    `features` are those of the preset, which every kernel may use. `extensions` are further ones of
    the machine; a kernel that uses some is made for `using(...)` them, and filed under them.
    """

    name: str  # preset: x86-64-avx512, x86-64-avx2, x86-64-sse4, aarch64-neon
    triple: str
    features: tuple[str, ...]  # LLVM feature names
    vector_bits: int
    registers: int  # vector registers
    core: CoreModel
    cores: int = 1
    l1: int = 32768
    l2: int = 1048576
    l3: int = 33554432
    extensions: tuple[str, ...] = ()

    @property
    def kind(self) -> str:
        """The kind of device, the key in tables of back ends, templates and devices."""
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

    def using(self, *extensions: str) -> CpuTarget:
        """This target for kernels that use `extensions` too, which is another key.

        Raises: ConfigError for one that the machine does not have.
        """
        for name in extensions:
            if name not in self.extensions:
                raise ConfigError(f"{self.name} has no extension {name!r} here: {self}")
        used = tuple(name for name in self.extensions if name in extensions)
        rest = tuple(name for name in self.extensions if name not in extensions)
        return replace(self, features=(*self.features, *used), extensions=rest)

    @property
    def keys(self) -> frozenset[str]:
        """The keys of kernels that run here: with any of the extensions, and without."""
        counts = range(len(self.extensions) + 1)
        chosen = (some for n in counts for some in itertools.combinations(self.extensions, n))
        return frozenset(self.using(*some).key for some in chosen)

    def __str__(self) -> str:
        text = f"{self.name} cores={self.cores} l1={self.l1} l2={self.l2} l3={self.l3}"
        return f"{text} extensions={','.join(self.extensions)}" if self.extensions else text


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
