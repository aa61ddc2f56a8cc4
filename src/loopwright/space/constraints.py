"""Joint constraints: what several knobs must satisfy together, checked for many points at once."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from loopwright.errors import ConfigError
from loopwright.sched.extent import IntArray

BoolArray: TypeAlias = npt.NDArray[np.bool_]
Column: TypeAlias = tuple[IntArray, ...] | npt.NDArray[Any]
"""A knob's values at N points: a split's sizes are a tuple of int64 [N], outermost first; a
choice's options one array [N] of their type; orders and annotations an object array of tuples."""
Columns: TypeAlias = Mapping[str, Column]


@dataclass(frozen=True, slots=True)
class Constraint:
    """`predicate` says for each of N points whether the knobs `names` are compatible.

    It is called with those knobs' columns only, works on arrays (`&` and `|`, not `and` and
    `or`), and gives bool [N]. `reason` completes the sentence "this config is refused because ...".
    """

    names: tuple[str, ...]
    predicate: Callable[[Columns], npt.ArrayLike]
    reason: str

    def __post_init__(self) -> None:
        object.__setattr__(self, "names", tuple(self.names))
        if not self.names or not self.reason:
            raise ConfigError(
                f"constraint {self.reason!r} on {self.names} needs names and a reason"
            )

    def holds(self, columns: Columns, n: int) -> BoolArray:
        """Where the constraint holds, bool [n]; `columns` has the n values of each knob in `names`.

        Raises: ConfigError when the predicate does not give n truth values.
        """
        verdict = np.asarray(self.predicate(columns))
        if verdict.dtype != np.bool_ or verdict.shape not in ((), (n,)):
            raise ConfigError(
                f"constraint {self.reason!r}: the predicate gave {verdict.dtype} of shape "
                f"{verdict.shape} for {n} points; it must give one bool for each"
            )
        return np.broadcast_to(verdict, (n,))
