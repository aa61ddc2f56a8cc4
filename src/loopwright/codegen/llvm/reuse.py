"""Which loaded values are kept for their next use, and which are loaded again.

LLVM keeps a value that is used twice in a register from the first use to the last. In an unrolled
tile those spans overlap until accumulators spill, although loading again costs nothing while the
multiply-adds are the limit. So only as many values are kept as there are registers besides the
accumulators, least recently used out first; a fence that emits no instruction keeps LLVM from
joining the second load with the first.
"""

from __future__ import annotations

from collections.abc import Hashable

from loopwright.codegen.llvm.builder import FunctionText

LEAST = 8
"""Values always kept: a few too many cost less than reloading operands used again at once."""
SLACK = 2
"""LLVM folds some loads into their use, so a few values more than free registers fit."""
_FENCE = '  fence syncscope("singlethread") seq_cst'


class ReuseWindow:
    """The values kept, least recently used first; each takes some vector registers."""

    def __init__(self, registers: int) -> None:
        self._registers = registers
        self._kept: dict[Hashable, int] = {}
        self._size = 0
        self._joinable: set[Hashable] = set()
        self._block = ""

    def use(self, key: Hashable) -> bool:
        """Whether the value of `key` is kept; it is then the most recently used one."""
        cost = self._kept.pop(key, None)
        if cost is None:
            return False
        self._kept[key] = cost
        return True

    def before_load(self, key: Hashable, text: FunctionText) -> None:
        """Write a fence when LLVM would join this load with an earlier one of the same value."""
        if text.block != self._block:
            self._block = text.block
            self._joinable.clear()
        if key in self._joinable:
            text.lines.append(_FENCE)
            self._joinable.clear()
        self._joinable.add(key)

    def keep(self, key: Hashable, cost: int, accumulators: int) -> None:
        """Keep a value of `cost` registers; drop others when they no longer fit."""
        self._size += cost - self._kept.pop(key, 0)  # it may be kept, but out of reach
        self._kept[key] = cost
        room = max(LEAST, self._registers - accumulators + SLACK)
        while self._size > room and len(self._kept) > 1:
            oldest = next(iter(self._kept))
            self._size -= self._kept.pop(oldest)
