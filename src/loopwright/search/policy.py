"""The protocol of search policies, and the bookkeeping that they share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias, final

import numpy as np
import numpy.typing as npt

from loopwright.learn.dataset import FeatureMatrix, Floats
from loopwright.outcome import Failed, Outcome, Timed
from loopwright.sched.extent import IntArray
from loopwright.space.config import Config
from loopwright.space.constraints import BoolArray
from loopwright.space.space import Space

Featurizer: TypeAlias = Callable[[IntArray], FeatureMatrix]
"""Points int64 [N, K] of a space -> features float32 [N, F]."""
Scorer: TypeAlias = Callable[[IntArray], Floats]
"""Points int64 [N, K] of a space -> scores float64 [N], higher is better."""

_DRAWS = 12  # attempts to draw points that were not proposed yet
_LISTED = 1 << 16  # a space up to this size is searched for what is left when drawing fails


@dataclass(frozen=True, slots=True)
class Trial:
    """A config and its outcome."""

    config: Config
    outcome: Outcome


class Policy(Protocol):
    """Chooses what to measure next. Pure given its generator; never asks for a config twice."""

    def ask(self, n: int) -> list[Config]:
        """Up to `n` configs to measure; fewer only when the space has no more."""
        ...

    def tell(self, trials: Sequence[Trial]) -> None:
        """Learn from `trials`, proposed or not; of two for one config the last counts."""
        ...


@final
class Ledger:
    """What a policy proposed and the outcomes it was told, by point."""

    def __init__(self, space: Space) -> None:
        self.space = space
        self._visited: set[int] = set()
        self._row: dict[int, int] = {}
        self._points: list[IntArray] = []
        self._ns: list[float] = []

    @property
    def proposed(self) -> int:
        """How many points were proposed or told."""
        return len(self._visited)

    @property
    def told(self) -> int:
        """How many points have a time or failed through their own fault."""
        return len(self._points)

    @property
    def points(self) -> IntArray:
        """The points told, int64 [told, K]."""
        if not self._points:
            return np.empty((0, len(self.space.knobs)), dtype=np.int64)
        return np.stack(self._points)

    @property
    def ns(self) -> Floats:
        """Their times, float64 [told]; infinite for a failure."""
        return np.array(self._ns, dtype=np.float64)

    def best(self, n: int) -> IntArray:
        """Up to `n` of the fastest points told, fastest first; failures are not among them."""
        ns = self.ns
        order = np.argsort(ns, kind="stable")[:n]
        return self.points[order[np.isfinite(ns[order])]]

    def tell(self, trials: Sequence[Trial]) -> None:
        """Record `trials`; infrastructure failures teach nothing."""
        for trial in trials:
            point = self.space.encode(trial.config)
            key = int(self.space.keys(point[None, :])[0])
            self._visited.add(key)
            match trial.outcome:
                case Timed(best_ns=ns):
                    pass
                case Failed(blames_candidate=True):
                    ns = float("inf")
                case _:
                    continue
            if key in self._row:
                self._ns[self._row[key]] = ns
            else:
                self._row[key] = len(self._points)
                self._points.append(point)
                self._ns.append(ns)

    def propose(self, points: IntArray) -> list[Config]:
        """The configs of `points`, which count as visited from now on."""
        self._visited.update(self.space.keys(points).tolist())
        return [self.space.decode(point) for point in points]

    def unvisited(self, points: IntArray) -> IntArray:
        """The distinct ones of `points` that were never proposed or told, in their order."""
        return points[self.fresh(points)]

    def fresh(self, points: IntArray) -> BoolArray:
        """Which of `points` were never proposed or told, bool [N]; of equal ones the first."""
        keys = self.space.keys(points).tolist()
        seen: set[int] = set()
        verdict = np.zeros(len(keys), dtype=np.bool_)
        for i, key in enumerate(keys):
            if key not in self._visited and key not in seen:
                seen.add(key)
                verdict[i] = True
        return verdict

    def draw(self, rng: np.random.Generator, n: int) -> IntArray:
        """Up to `n` distinct random points never proposed; fewer when the space has no more."""
        found = np.empty((0, len(self.space.knobs)), dtype=np.int64)
        for attempt in range(_DRAWS):
            drawn = self.space.sample(rng, max(2 * n, 16) << min(attempt, 6))
            found = self.unvisited(np.concatenate([found, drawn]))
            if len(found) >= n:
                return found[:n]
        if self.space.cardinality <= _LISTED:
            return rng.permutation(self.unvisited(self.space.enumerate(_LISTED)))[:n]
        return found


def normalised(scores: Floats) -> npt.NDArray[np.float64]:
    """`scores` with mean 0 and deviation 1; all 0 where they are all equal."""
    spread = float(scores.std()) if scores.size else 0.0
    return np.asarray((scores - scores.mean()) / spread if spread > 0 else np.zeros_like(scores))
