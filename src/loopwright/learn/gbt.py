"""Gradient-boosted trees that order candidates by speed (LightGBM, one thread, deterministic).

Once trees have been trained in a process it must not fork: LightGBM's thread pool does not
survive it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias, final

import numpy as np

from loopwright.errors import EnvironmentFailure, InternalError
from loopwright.learn.dataset import Dataset, FeatureMatrix, Floats

if TYPE_CHECKING:
    import lightgbm

_PAIRS = 30_000  # pairs in a round at most: enough rows make up for few partners each
Objective: TypeAlias = Literal["rank", "regression"]


@dataclass(frozen=True, slots=True)
class TreeOptions:
    """How the trees grow. `pairs` is how many others each row is compared with in a round."""

    rounds: int = 60
    leaves: int = 24
    learning_rate: float = 0.18
    min_rows: int = 3
    bins: int = 63
    column_share: float = 0.6
    l2: float = 0.5
    pairs: int = 8


@final
class GbtModel:
    """A `CostModel` of trees; `rank` learns the order within a workload, `regression` the
    throughput.

    Raises: EnvironmentFailure on the first fit when lightgbm is not installed.
    """

    def __init__(
        self,
        objective: Objective = "rank",
        seed: int = 0,
        threads: int = 1,
        options: TreeOptions = TreeOptions(),
    ) -> None:
        self.objective = objective
        self.seed = seed
        self.threads = threads
        self.options = options
        self._booster: lightgbm.Booster | None = None

    def fit(self, dataset: Dataset) -> None:
        """Learn from `dataset` anew."""
        try:
            import lightgbm
        except ImportError as error:
            raise EnvironmentFailure(
                "the learned cost model needs lightgbm, which is not installed; "
                "pip install 'loopwright[learn]', or use --policy genetic"
            ) from error
        params = self._params()
        label = dataset.throughput
        if self.objective == "rank":
            pairs = max(2, min(self.options.pairs, _PAIRS // len(dataset)))
            objective = PairwiseLogistic(dataset, pairs, np.random.default_rng(self.seed))
            params["objective"] = objective
            label = np.zeros(len(dataset))
        rows = lightgbm.Dataset(dataset.features, label=label, params=params, free_raw_data=True)
        self._booster = lightgbm.train(params, rows, num_boost_round=self.options.rounds)

    def predict(self, features: FeatureMatrix) -> Floats:
        """Scores [N], higher is faster.

        Raises: InternalError before the first fit.
        """
        if self._booster is None:
            raise InternalError("a cost model was asked before it was fitted")
        if not len(features):
            return np.zeros(0)
        scores = self._booster.predict(features, raw_score=True, num_threads=self.threads)
        return np.asarray(scores, dtype=np.float64)

    def _params(self) -> dict[str, object]:
        o = self.options
        return {
            "objective": "regression",
            "num_leaves": o.leaves,
            "learning_rate": o.learning_rate,
            "min_data_in_leaf": o.min_rows,
            "min_sum_hessian_in_leaf": 1e-3,
            "min_data_in_bin": 1,
            "max_bin": o.bins,
            "feature_fraction_bynode": o.column_share,
            "lambda_l2": o.l2,
            "seed": self.seed,
            "num_threads": self.threads,
            "deterministic": True,
            "force_col_wise": True,
            "feature_pre_filter": False,
            "verbosity": -1,
        }


class PairwiseLogistic:
    """Gradient of the rank loss for LightGBM, over random pairs within each workload.

    Each round every row is compared with `pairs` others. A pair counts by how far apart the two
    are, so that measurement noise between near-equals weighs little, and more the faster the
    faster one is, because only the front of the order is ever used.

    Source: Chen et al., "Learning to Optimize Tensor Programs", section 3.1 (rank objective);
    the weights are ours.
    """

    def __init__(self, dataset: Dataset, pairs: int, rng: np.random.Generator) -> None:
        self._throughput = dataset.throughput
        self._sizes = dataset.group_sizes[dataset.groups]
        starts = np.concatenate([[0], np.cumsum(dataset.group_sizes)[:-1]])
        self._starts = starts[dataset.groups]
        self._place = np.arange(len(dataset)) - self._starts
        self._pairs = pairs
        self._rng = rng

    def __call__(self, scores: Floats, _: lightgbm.Dataset) -> tuple[Floats, Floats]:
        """The gradient and second derivative of the loss in each score, float64 [N] each."""
        n = len(scores)
        shift = self._rng.integers(1, np.maximum(self._sizes, 2)[:, None], size=(n, self._pairs))
        other = self._starts[:, None] + (self._place[:, None] + shift) % self._sizes[:, None]
        mine, theirs = self._throughput[:, None], self._throughput[other]
        weight = np.abs(mine - theirs) * (0.1 + np.maximum(mine, theirs))
        sign = np.sign(mine - theirs)
        wrong = 1.0 / (1.0 + np.exp(np.clip(sign * (scores[:, None] - scores[other]), -30.0, 30.0)))
        push = -sign * weight * wrong
        curve = weight * wrong * (1.0 - wrong)
        flat = other.ravel()
        gradient = push.sum(axis=1) - np.bincount(flat, push.ravel(), n)
        hessian = curve.sum(axis=1) + np.bincount(flat, curve.ravel(), n)
        return gradient, hessian + 1e-6
