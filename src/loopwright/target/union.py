"""Targets: what kernels are made for, whatever kind of device that is.

`Target` is their common protocol, and all that code outside the tables by kind may use. The kinds
of this package are members of `KnownTarget`; a new one joins it, so that `match` and `assert_never`
find the code that must distinguish them, and gets its row in `parse`. A kind from another package
is any class that satisfies `Target`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, TypeAlias, runtime_checkable

from loopwright.errors import ConfigError
from loopwright.target.cpu import CpuTarget

if TYPE_CHECKING:  # a host that only runs kernels has no ml_dtypes
    from loopwright.ir.dtype import DType


@runtime_checkable
class Target(Protocol):
    """What kernels are made for: pure data that pickles and compares, and that `parse` reads back
    from its text.
    """

    @property
    def kind(self) -> str:
        """Its row in each table by kind: `cpu`."""
        ...

    @property
    def name(self) -> str:
        """Its name: a preset such as `x86-64-avx2`."""
        ...

    @property
    def features(self) -> tuple[str, ...]:
        """The features that its kernels may use."""
        ...

    @property
    def key(self) -> str:
        """What records are filed under: code made for one key runs on every machine of that key."""
        ...

    @property
    def cores(self) -> int:
        """How many iterations of a parallel loop run at once."""
        ...

    @property
    def registers(self) -> int:
        """How many vectors a kernel can keep in registers."""
        ...

    def lanes(self, dtype: DType) -> int:
        """Elements of `dtype` in one vector; 1 where there are no vectors."""
        ...


KnownTarget: TypeAlias = CpuTarget
"""The targets of this package."""


def require_cpu(target: Target, what: str) -> CpuTarget:
    """`target`, which must be a CPU for `what` to take it.

    Raises: ConfigError that names both.
    """
    if isinstance(target, CpuTarget):
        return target
    raise ConfigError(f"{what} is for CPUs; the target {target.name} is of kind {target.kind!r}")
