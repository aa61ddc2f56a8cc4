"""Policies that learn nothing from what was measured: grid search and random search."""

from __future__ import annotations

from collections.abc import Sequence
from typing import final

import numpy as np

from loopwright.search.policy import Ledger, Trial
from loopwright.space.config import Config
from loopwright.space.space import Space


@final
class GridPolicy:
    """Walks all valid configs in lexicographic order of their knobs' values.

    Raises: ConfigError for a space of more than `limit` points.
    """

    def __init__(self, space: Space, limit: int = 1 << 20) -> None:
        self._points = space.enumerate(limit)
        self._next = 0
        self._ledger = Ledger(space)

    def ask(self, n: int) -> list[Config]:
        """The next `n` configs not yet measured."""
        asked: list[Config] = []
        while len(asked) < n and self._next < len(self._points):
            block = self._points[self._next : self._next + n - len(asked)]
            self._next += len(block)
            asked += self._ledger.propose(self._ledger.unvisited(block))
        return asked

    def tell(self, trials: Sequence[Trial]) -> None:
        """Record which configs need not be measured again."""
        self._ledger.tell(trials)


@final
class RandomPolicy:
    """Draws distinct valid configs: what every other policy has to beat."""

    def __init__(self, space: Space, rng: np.random.Generator) -> None:
        self._rng = rng
        self._ledger = Ledger(space)

    def ask(self, n: int) -> list[Config]:
        """Up to `n` random configs."""
        return self._ledger.propose(self._ledger.draw(self._rng, n))

    def tell(self, trials: Sequence[Trial]) -> None:
        """Record which configs need not be measured again."""
        self._ledger.tell(trials)
