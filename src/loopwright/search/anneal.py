"""Parallel simulated annealing over points, on the scores of a model."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from loopwright.learn.dataset import Floats
from loopwright.sched.extent import IntArray
from loopwright.search.policy import Scorer
from loopwright.space.space import Space


@dataclass(frozen=True, slots=True)
class AnnealOptions:
    """`steps` of all chains together; in each, a chain examines `tries` neighbours.

    Few wide steps instead of many narrow ones: features and scores of many points at once are
    cheap. The temperature falls linearly from `heat` deviations of the scores to 0.
    """

    steps: int = 4
    tries: int = 8
    heat: float = 0.5


@dataclass(frozen=True, slots=True)
class Annealed:
    """Where the chains ended [C, K], and all points examined [M, K] with their scores [M]."""

    chains: IntArray
    points: IntArray
    scores: Floats


def anneal(
    space: Space,
    rng: np.random.Generator,
    score: Scorer,
    chains: IntArray,
    options: AnnealOptions = AnnealOptions(),
) -> Annealed:
    """`chains`, int64 [C, K], after climbing on `score`, and the points seen on the way.

    A step to a worse point is taken with probability exp(change / heat).
    """
    current = score(chains)
    points, scores = [chains], [current]
    heat = options.heat * float(current.std())
    rows = np.arange(len(chains))
    for step in range(options.steps):
        around = space.neighbour(rng, np.repeat(chains, options.tries, axis=0))
        found = score(around)
        points.append(around)
        scores.append(found)
        best = found.reshape(len(chains), options.tries).argmax(axis=1) + rows * options.tries
        change = found[best] - current
        limit = np.maximum(heat * (1 - (step + 1) / options.steps), 1e-12)
        accept = rng.random(len(chains)) < np.exp(np.minimum(change / limit, 0.0))
        chains = np.where(accept[:, None], around[best], chains)
        current = np.where(accept, found[best], current)
    return Annealed(chains, np.concatenate(points), np.concatenate(scores))
