"""The target: `stack` is a machine with one core, no vectors and no registers to speak of."""

from __future__ import annotations

from dataclasses import dataclass

from loopwright.errors import ConfigError
from loopwright.ir.dtype import DType

KIND = "stack"


@dataclass(frozen=True, slots=True)
class StackTarget:
    kind: str = KIND
    name: str = KIND
    key: str = "stack-1"
    features: tuple[str, ...] = ()
    cores: int = 1
    registers: int = 1

    def lanes(self, _: DType) -> int:
        return 1

    def __str__(self) -> str:
        return self.name


def parse(text: str) -> StackTarget:
    """The target that a target string beginning with `stack` describes."""
    if text.split() != [KIND]:
        raise ConfigError(f"target {text!r}: a stack machine has no options")
    return StackTarget()
