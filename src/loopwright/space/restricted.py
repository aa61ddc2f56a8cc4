"""A space restricted to a list of its points, such as those of a recorded landscape."""

from __future__ import annotations

from typing import final

import numpy as np

from loopwright.errors import ConfigError
from loopwright.sched.extent import IntArray
from loopwright.space.constraints import BoolArray
from loopwright.space.space import Space


@final
class RestrictedSpace(Space):
    """`space` with only `points`, int64 [M, K]; columns and indices are those of `space`.

    Drawing is uniform over the points. A point without a valid neighbour moves to one of the points
    that differ from it in the fewest knobs.
    Raises: ConfigError when there is no point, or one is given twice.
    """

    def __init__(self, space: Space, points: IntArray) -> None:
        super().__init__(space.knobs, space.constraints)
        self.points = np.ascontiguousarray(points, dtype=np.int64)
        self._sorted = np.sort(self.keys(self.points))
        if not len(self.points):
            raise ConfigError("a restricted space needs at least one point")
        if len(np.unique(self._sorted)) != len(self.points):
            raise ConfigError("a restricted space was given a point twice")

    @property
    def cardinality(self) -> int:
        """The number of points."""
        return len(self.points)

    def valid(self, points: IntArray) -> BoolArray:
        """Which points are among those of the restricted space, bool [N]."""
        keys = self.keys(points)
        place = np.searchsorted(self._sorted, keys)
        found: BoolArray = self._sorted[np.minimum(place, len(self._sorted) - 1)] == keys
        return found

    def refusal(self, point: IntArray) -> str | None:
        """Why `point` is not in the space, or None."""
        return None if self.valid(point[None, :])[0] else "it is not one of the listed points"

    def sample(self, rng: np.random.Generator, n: int) -> IntArray:
        """`n` points drawn uniformly with replacement, int64 [n, K]."""
        return self.points[rng.integers(len(self.points), size=n)]

    def estimate_valid(self, rng: np.random.Generator, n: int = 8192) -> float:  # noqa: ARG002
        """1: every point is valid."""
        return 1.0

    def neighbour(self, rng: np.random.Generator, points: IntArray) -> IntArray:
        """Points that differ in one knob each, or in as few as possible, int64 [N, K]."""
        moved = super().neighbour(rng, points)
        if len(self.points) > 1:
            for row in np.flatnonzero((moved == points).all(axis=1)):
                distance = (self.points != points[row]).sum(axis=1)
                distance[distance == 0] = np.iinfo(np.int64).max
                closest = np.flatnonzero(distance == distance.min())
                moved[row] = self.points[closest[rng.integers(len(closest))]]
        return moved

    def enumerate(self, limit: int = 1 << 20) -> IntArray:
        """All points in lexicographic order, int64 [M, K].

        Raises: ConfigError when there are more than `limit`.
        """
        if len(self.points) > limit:
            raise ConfigError(
                f"this space has {len(self.points)} points, more than the {limit} "
                "that may be listed"
            )
        return self.points[np.lexsort(self.points.T[::-1])]
