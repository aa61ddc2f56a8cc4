"""Which tile sizes are worth trying."""

from __future__ import annotations

WASTE = 1.15


def divides_nearly(tile: int, extent: int, waste: float = WASTE) -> bool:
    """True when tiles of `tile` cover `extent` with at most `waste` times its iterations."""
    return tile == 1 or (tile <= extent and -(-extent // tile) * tile <= extent * waste)
