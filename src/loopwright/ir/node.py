"""How an IR node is declared."""

from __future__ import annotations

import dataclasses
from typing import TypeVar, dataclass_transform

T = TypeVar("T")


@dataclass_transform(frozen_default=True, eq_default=False)
def node(cls: type[T]) -> type[T]:
    """Declare an IR node: frozen, slotted, compared by identity.

    Structural comparison is `walk.same(a, b)`; passes return the same node when nothing changed.
    """
    return dataclasses.dataclass(frozen=True, slots=True, eq=False)(cls)
