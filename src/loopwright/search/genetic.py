"""Genetic search: children of the fastest configs, without generations to wait for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import numpy as np

from loopwright.sched.extent import IntArray
from loopwright.search.policy import Ledger, Trial
from loopwright.space.config import Config
from loopwright.space.space import Space

_TRIES = 8


@dataclass(frozen=True, slots=True)
class GeneticOptions:
    """`population` random configs come first; afterwards parents are the `population` fastest."""

    population: int = 32
    tournament: int = 3
    mutation: float = 0.5


@final
class GeneticPolicy:
    """Uniform crossover of two tournament winners by knob, then perhaps one knob changed."""

    def __init__(
        self, space: Space, rng: np.random.Generator, options: GeneticOptions = GeneticOptions()
    ) -> None:
        self._space = space
        self._rng = rng
        self._options = options
        self._ledger = Ledger(space)

    def ask(self, n: int) -> list[Config]:
        """Up to `n` children, or random configs while there are too few parents."""
        ledger = self._ledger
        start = max(0, min(n, self._options.population - ledger.proposed))
        points = ledger.draw(self._rng, start)
        parents = ledger.best(self._options.population)
        if len(points) < n and len(parents) > 1:
            points = np.concatenate([points, self._children(parents, n - len(points))])
        asked = ledger.propose(points)
        return asked + ledger.propose(ledger.draw(self._rng, n - len(asked)))

    def tell(self, trials: Sequence[Trial]) -> None:
        """Add `trials` to the population."""
        self._ledger.tell(trials)

    def _children(self, parents: IntArray, n: int) -> IntArray:
        """Up to `n` distinct valid children that were never proposed."""
        rng = self._rng
        found = np.empty((0, parents.shape[1]), dtype=np.int64)
        for _ in range(_TRIES):
            mothers, fathers = self._winners(parents, 2 * n), self._winners(parents, 2 * n)
            children = np.where(rng.random(mothers.shape) < 0.5, mothers, fathers)
            children = np.where(self._space.valid(children)[:, None], children, mothers)
            mutated = rng.random(len(children)) < self._options.mutation
            children[mutated] = self._space.neighbour(rng, children[mutated])
            found = self._ledger.unvisited(np.concatenate([found, children]))
            if len(found) >= n:
                break
        return found[:n]

    def _winners(self, parents: IntArray, n: int) -> IntArray:
        """`n` parents, each the fastest of a tournament; `parents` come fastest first."""
        entrants = self._rng.integers(len(parents), size=(n, self._options.tournament))
        winners: IntArray = parents[entrants.min(axis=1)]
        return winners
