"""Random search: what every other policy has to beat."""

from __future__ import annotations

from collections.abc import Sequence
from typing import final

import numpy as np

from loopwright.search.policy import Ledger, Trial
from loopwright.space.config import Config
from loopwright.space.space import Space


@final
class RandomPolicy:
    """Draws distinct valid configs."""

    def __init__(self, space: Space, rng: np.random.Generator) -> None:
        self._rng = rng
        self._ledger = Ledger(space)

    def ask(self, n: int) -> list[Config]:
        """Up to `n` random configs."""
        return self._ledger.propose(self._ledger.draw(self._rng, n))

    def tell(self, trials: Sequence[Trial]) -> None:
        """Record which configs need not be measured again."""
        self._ledger.tell(trials)
