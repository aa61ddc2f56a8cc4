"""The search of AutoTVM's model-based tuner, kept as the baseline for ours.

Batches of 64: the first is random, and nothing is learned until most of it is measured. Then
128 chains walk up to 500 steps of one random change of one knob, temperature 1 to 0, and stop
when 50 steps found nothing new among the best 64; the last twentieth of each batch is random.
The model is trees of depth 3 with step 0.3 and a rank objective.

It favours AutoTVM in two ways: the features are ours, with one meaning per column, and the trees
are LightGBM's with a fixed number of rounds instead of a stopping rule on the training set.

Source: Chen et al., "Learning to Optimize Tensor Programs", section 3 and 5; behaviour at TVM 0.19.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import numpy as np

from loopwright.learn.dataset import CostModel, Floats, Observations, collect
from loopwright.learn.gbt import GbtModel, Trainer, TreeOptions
from loopwright.sched.extent import IntArray
from loopwright.search.feature_table import FeatureTable
from loopwright.search.policy import Featurizer, Ledger, Trial
from loopwright.space.config import Config
from loopwright.space.space import Space

TREES = TreeOptions(
    rounds=100, leaves=8, learning_rate=0.3, min_rows=1, bins=255, column_share=1.0, l2=1.0
)


@dataclass(frozen=True, slots=True)
class AutotvmOptions:
    """The defaults of AutoTVM."""

    batch: int = 64
    chains: int = 128
    steps: int = 500
    patience: int = 50
    random_share: float = 0.05


@final
class AutotvmPolicy:
    """AutoTVM's loop behind our interface."""

    def __init__(
        self,
        space: Space,
        rng: np.random.Generator,
        featurize: Featurizer,
        model: CostModel | None = None,
        options: AutotvmOptions = AutotvmOptions(),
        *,
        trainer: Trainer | None = None,
    ) -> None:
        self._space = space
        self._rng = rng
        self._features = FeatureTable(space, featurize)
        seed = int(rng.integers(1 << 30))
        if model is None:
            model = GbtModel("rank", seed, options=TREES, trainer=trainer)
        self._model = model
        self._options = options
        self._ledger = Ledger(space)
        self._chains = np.empty((0, len(space.knobs)), dtype=np.int64)
        self._batch: list[IntArray] = []

    def ask(self, n: int) -> list[Config]:
        """Up to `n` configs of the current batch, and of the next one when that is used up."""
        asked: list[Config] = []
        while len(asked) < n:
            if not self._batch:
                self._next_batch()
            if not self._batch:
                break
            asked += self._ledger.propose(self._batch.pop()[None, :])
        return asked

    def tell(self, trials: Sequence[Trial]) -> None:
        """Learn from `trials`; they count from the next batch on."""
        self._ledger.tell(trials)

    def _next_batch(self) -> None:
        size = self._options.batch
        ledger = self._ledger
        chosen = np.empty((0, len(self._space.knobs)), dtype=np.int64)
        if 2 * ledger.told >= size and np.isfinite(ledger.ns).sum() > 1:
            own = Observations("this", self._features(ledger.points), ledger.ns)
            self._model.fit(collect([own]))
            chosen = self._anneal()[: size - int(size * self._options.random_share)]
        drawn = ledger.draw(self._rng, size)
        fresh = ledger.unvisited(np.concatenate([chosen, drawn]))[:size]
        self._batch = list(fresh[::-1])

    def _anneal(self) -> IntArray:
        """The best unmeasured points that the chains visited, best first."""
        o = self._options
        if not len(self._chains):
            self._chains = self._space.sample(self._rng, o.chains)
        chains = self._chains
        current = self._score(chains)
        heap: dict[int, tuple[float, IntArray]] = {}
        self._collect(heap, chains, current)
        quiet = 0
        for step in range(o.steps):
            proposal = self._change_one(chains)
            found = self._score(proposal)
            heat = max(1.0 - step / o.steps, 1e-9)
            chance = np.exp(np.minimum((found - current) / heat, 0.0))
            accept = self._rng.random(len(chains)) < chance
            chains = np.where(accept[:, None], proposal, chains)
            current = np.where(accept, found, current)
            quiet = 0 if self._collect(heap, proposal, found) else quiet + 1
            if quiet >= o.patience:
                break
        self._chains = chains
        best = sorted(heap.values(), key=lambda entry: -entry[0])
        return np.stack([point for _, point in best]) if best else chains[:0]

    def _change_one(self, points: IntArray) -> IntArray:
        """Each point with one random knob at a random value; unchanged where that is invalid."""
        rows = np.arange(len(points))
        column = self._rng.integers(points.shape[1], size=len(points))
        moved = points.copy()
        moved[rows, column] = self._rng.integers(self._space.radices[column])
        return np.where(self._space.valid(moved)[:, None], moved, points)

    def _collect(
        self, heap: dict[int, tuple[float, IntArray]], points: IntArray, scores: Floats
    ) -> bool:
        """Whether any of `points` entered `heap`, which keeps a batch's worth of the best."""
        worst = min((score for score, _ in heap.values()), default=-np.inf)
        full = len(heap) >= self._options.batch
        good = np.flatnonzero(scores > worst) if full else np.arange(len(scores))
        good = good[self._ledger.fresh(points[good])]
        keys = self._space.keys(points[good]).tolist()
        new = {k: (float(scores[i]), points[i]) for k, i in zip(keys, good, strict=True)}
        entered = {key: entry for key, entry in new.items() if key not in heap}
        heap.update(entered)
        for key in sorted(heap, key=lambda k: -heap[k][0])[self._options.batch :]:
            del heap[key]
            entered.pop(key, None)
        return bool(entered)

    def _score(self, points: IntArray) -> Floats:
        return self._model.predict(self._features(points))
