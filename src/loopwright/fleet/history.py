"""Finding a place by time in a log whose ids grow."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeAlias

_FIRST_STEP = 1024

First: TypeAlias = Callable[[int], Awaitable[float | None]]


async def place_of(begin: float, first_after: First, *, slack: int = 1) -> int:
    """An id that the events from the wall time `begin` on are above.

    Args:
        first_after: the time of the first event with an id above a number, None without one.
        slack: how many older events may be above it too; more is found with fewer questions.
    """
    low, step = 0, _FIRST_STEP
    while await _is_older(first_after, low + step, begin):
        low, step = low + step, 2 * step
    high = low + step
    while high - low > slack:
        middle = (low + high) // 2
        if await _is_older(first_after, middle, begin):
            low = middle
        else:
            high = middle
    return high if slack == 1 and await _is_older(first_after, low, begin) else low


async def _is_older(first_after: First, number: int, begin: float) -> bool:
    at = await first_after(number)
    return at is not None and at < begin
