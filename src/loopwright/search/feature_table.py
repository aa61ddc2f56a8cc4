"""Features of points, each computed once."""

from __future__ import annotations

from typing import final

import numpy as np

from loopwright.learn.dataset import FeatureMatrix
from loopwright.sched.extent import IntArray
from loopwright.search.policy import Featurizer
from loopwright.space.space import Space


@final
class FeatureTable:
    """Calls `featurize` for new points; beyond `limit` rows it starts over."""

    def __init__(self, space: Space, featurize: Featurizer, limit: int = 50_000) -> None:
        self._space = space
        self._featurize = featurize
        self._limit = limit
        self._row: dict[int, int] = {}
        self._features: FeatureMatrix | None = None

    def __call__(self, points: IntArray) -> FeatureMatrix:
        """Features float32 [N, F] of `points` int64 [N, K]."""
        if not len(points) and self._features is None:
            return self._featurize(points)
        if len(self._row) > self._limit:
            self._row.clear()
        keys = self._space.keys(points).tolist()
        new: dict[int, int] = {}
        for i, key in enumerate(keys):
            if key not in self._row:
                new.setdefault(key, i)
        if new:
            self._add(list(new), self._featurize(points[list(new.values())]))
        if self._features is None:
            return self._featurize(points)
        return self._features[[self._row[key] for key in keys]]

    def _add(self, keys: list[int], features: FeatureMatrix) -> None:
        begin = len(self._row)
        end = begin + len(keys)
        table = self._features
        if table is None or len(table) < end:
            grown = np.empty((max(1024, 2 * end), features.shape[1]), dtype=np.float32)
            if table is not None:
                grown[:begin] = table[:begin]
            self._features = table = grown
        table[begin:end] = features
        self._row.update(zip(keys, range(begin, end), strict=True))
