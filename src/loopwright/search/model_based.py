"""The learned policy: anneal on a cost model, measure its best candidates, learn, repeat.

Small batches and a refit as soon as one is measured: the model learns from the sixteenth trial on,
and a trial chosen by an outdated model is dropped rather than measured.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import final

import numpy as np

from loopwright.learn.dataset import CostModel, Floats, Observations, collect
from loopwright.sched.extent import IntArray
from loopwright.search.anneal import AnnealOptions, anneal
from loopwright.search.feature_table import FeatureTable
from loopwright.search.policy import Featurizer, Ledger, Trial, normalised
from loopwright.space.config import Config
from loopwright.space.space import Space

_OWN = "this"  # the workload that is being tuned, among those learned from


@dataclass(frozen=True, slots=True)
class ModelPolicyOptions:
    """How the learned policy searches.

    `first` space-filling trials, then batches: an eighth of what is known, `least` to `most`, of
    which each trial is random with `epsilon`. For each batch a quarter of the `chains` starts anew
    from the `elites` fastest and a quarter from anywhere, and all neighbours of the two fastest are
    candidates too. The batch is picked from the `shortlist` best with weight `alpha` (in deviations
    of the score) on variety.
    """

    first: int = 16
    least: int = 4
    most: int = 12
    epsilon: float = 0.05
    chains: int = 96
    elites: int = 8
    shortlist: int = 48
    alpha: float = 0.5
    anneal: AnnealOptions = field(default_factory=AnnealOptions)


@final
class ModelPolicy:
    """Searches `space` with `model` over the features that `featurize` gives."""

    def __init__(
        self,
        space: Space,
        rng: np.random.Generator,
        featurize: Featurizer,
        model: CostModel,
        options: ModelPolicyOptions = ModelPolicyOptions(),
    ) -> None:
        self._space = space
        self._rng = rng
        self._features = FeatureTable(space, featurize)
        self._model = model
        self._options = options
        self._ledger = Ledger(space)
        self._chains = np.empty((0, len(space.knobs)), dtype=np.int64)
        self._plan: list[IntArray] = []  # what to propose next, last first
        self._planned_at = 0  # how much was known when it was planned
        self._batch = options.least

    def ask(self, n: int) -> list[Config]:
        """Up to `n` configs, those with the best prospects first."""
        asked: list[Config] = []
        while len(asked) < n:
            if not self._plan:
                self._make_plan()
            if not self._plan:
                break
            point = self._plan.pop()[None, :]
            if self._ledger.fresh(point)[0]:
                asked += self._ledger.propose(point)
        return asked

    def tell(self, trials: Sequence[Trial]) -> None:
        """Learn from `trials`; after a batch of new ones the plan is remade."""
        self._ledger.tell(trials)
        known = self._ledger.told
        if known >= self._options.first and known - self._planned_at >= self._batch:
            self._plan.clear()

    def _make_plan(self) -> None:
        o = self._options
        self._planned_at = self._ledger.told
        self._batch = min(o.most, max(o.least, self._ledger.told // 8))
        missing = o.first - self._ledger.proposed
        if missing > 0:
            chosen = self._space_filling(missing)
        elif np.isfinite(self._ledger.ns).sum() < 2:
            chosen = self._ledger.draw(self._rng, self._batch)  # nothing learned yet
        else:
            chosen = self._search()
        self._plan = list(chosen[::-1])

    def _space_filling(self, n: int) -> IntArray:
        """Random points that together cover as many values of each knob as possible."""
        drawn = self._ledger.draw(self._rng, 16 * n)
        return drawn[pick(drawn, np.zeros(len(drawn)), n, 1.0)]

    def _search(self) -> IntArray:
        """The best batch by the refitted model."""
        o = self._options
        ledger = self._ledger
        self._fit()
        result = anneal(self._space, self._rng, self._score, self._start(), o.anneal)
        self._chains = result.chains
        around = [self._space.neighbourhood(point) for point in ledger.best(2)]
        points = np.concatenate([result.points, *around])
        scores = np.concatenate([result.scores, *(self._score(a) for a in around)])
        fresh = ledger.fresh(points)
        points, scores = points[fresh], scores[fresh]
        top = np.argsort(-scores, kind="stable")[: o.shortlist]
        points, scores = points[top], normalised(scores)[top]
        chosen = points[pick(points, scores, self._batch, o.alpha)]
        return self._with_random(chosen)

    def _with_random(self, chosen: IntArray) -> IntArray:
        """`chosen` with a few random points mixed in, filled up with random points."""
        o = self._options
        replaced = self._rng.random(len(chosen)) < o.epsilon
        kept = chosen[~replaced]
        return np.concatenate([kept, self._ledger.draw(self._rng, self._batch - len(kept))])

    def _fit(self) -> None:
        points = self._ledger.points
        own = Observations(_OWN, self._features(points), self._ledger.ns)
        self._model.fit(collect([own]))

    def _score(self, points: IntArray) -> Floats:
        return self._model.predict(self._features(points))

    def _start(self) -> IntArray:
        """The chains' starting points: where they are, with some reset to the fastest."""
        o = self._options
        lacking = o.chains - len(self._chains)
        if lacking > 0:
            more = self._space.sample(self._rng, lacking)
            self._chains = np.concatenate([self._chains, more])
        chains = self._chains.copy()
        elites = self._ledger.best(o.elites)
        anew = self._rng.permutation(o.chains)[: o.chains // 4]
        chains[anew] = elites[np.arange(len(anew)) % len(elites)]
        # As many restart at random, or the chains get stuck in one place.
        fresh = self._rng.permutation(o.chains)[: o.chains // 4]
        chains[fresh] = self._space.sample(self._rng, len(fresh))
        return chains


def pick(points: IntArray, scores: Floats, n: int, alpha: float) -> list[int]:
    """The rows of `points`, int64 [M, K], that greedily maximise score and coverage of knob values.

    A row's gain is its score plus `alpha` times the share of knobs for which it adds a value that
    no row picked before it has. The sum is submodular, so the greedy choice is within 1 -
    1/e of the best (for scores that are not negative).

    Source: Chen et al., "Learning to Optimize Tensor Programs", equation 3.
    """
    left = np.ones(len(points), dtype=np.bool_)
    new = np.ones(points.shape, dtype=np.bool_)  # whether the row's value of the knob is uncovered
    picked: list[int] = []
    for _ in range(min(n, len(points))):
        gain = np.where(left, scores + alpha * new.mean(axis=1), -np.inf)
        row = int(gain.argmax())
        picked.append(row)
        left[row] = False
        new &= points != points[row]
    return picked
