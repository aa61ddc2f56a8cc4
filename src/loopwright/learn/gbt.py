"""Gradient-boosted trees that order candidates by speed (LightGBM, one thread, deterministic).

Once trees have been trained in a process it must not fork: LightGBM's thread pool does not
survive it. Trees that were trained elsewhere come back as text, and score the same.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from types import ModuleType
from typing import TYPE_CHECKING, Literal, TypeAlias, final

import numpy as np

from loopwright.errors import EnvironmentFailure, InternalError
from loopwright.learn.dataset import Dataset, FeatureMatrix, Floats

if TYPE_CHECKING:
    import lightgbm

_PAIRS = 30_000  # most pairs in a round: many rows make up for few partners each
Objective: TypeAlias = Literal["rank", "regression"]


@dataclass(frozen=True, slots=True)
class TreeOptions:
    """How the trees grow. `pairs` is how many other rows each row is compared with per round."""

    rounds: int = 60
    leaves: int = 24
    learning_rate: float = 0.18
    min_rows: int = 3
    bins: int = 63
    column_share: float = 0.6
    l2: float = 0.5
    pairs: int = 8


@dataclass(frozen=True, slots=True)
class Training:
    """How a model is trained: everything besides the data."""

    objective: Objective = "rank"
    seed: int = 0
    threads: int = 1
    options: TreeOptions = field(default_factory=TreeOptions)


Trainer: TypeAlias = Callable[[Training, Dataset], str]
"""Trains trees anywhere and returns their text, as `train_text` does."""


def train(training: Training, dataset: Dataset) -> lightgbm.Booster:
    """Trees that learned from `dataset`.

    Raises: EnvironmentFailure when lightgbm is not installed.
    """
    gbm = _lightgbm()
    params = _params(training)
    label = dataset.throughput
    if training.objective == "rank":
        pairs = max(2, min(training.options.pairs, _PAIRS // len(dataset)))
        objective = PairwiseLogistic(dataset, pairs, np.random.default_rng(training.seed))
        params["objective"] = objective
        label = np.zeros(len(dataset))
    rows = gbm.Dataset(dataset.features, label=label, params=params, free_raw_data=True)
    booster: lightgbm.Booster = gbm.train(params, rows, num_boost_round=training.options.rounds)
    return booster


def train_text(training: Training, dataset: Dataset) -> str:
    """The trees of `train` as text, without loss."""
    return str(train(training, dataset).model_to_string())


@final
class GbtModel:
    """A `CostModel` of trees; `rank` learns the order within a workload, `regression` the
    throughput. `trainer` trains them in another process.

    Raises: EnvironmentFailure on the first fit when lightgbm is not installed.
    """

    def __init__(
        self,
        objective: Objective = "rank",
        seed: int = 0,
        threads: int = 1,
        options: TreeOptions = TreeOptions(),
        *,
        trainer: Trainer | None = None,
    ) -> None:
        self.training = Training(objective, seed, threads, options)
        self._trainer = trainer
        self._booster: lightgbm.Booster | None = None

    def fit(self, dataset: Dataset) -> None:
        """Train on `dataset` from scratch."""
        if self._trainer is None:
            self._booster = train(self.training, dataset)
        else:
            gbm = _lightgbm()  # used for scoring
            self._booster = gbm.Booster(model_str=self._trainer(self.training, dataset))

    def predict(self, features: FeatureMatrix) -> Floats:
        """Scores [N], higher is faster.

        Raises: InternalError before the first fit.
        """
        if self._booster is None:
            raise InternalError("a cost model was asked before it was fitted")
        if not len(features):
            return np.zeros(0)
        threads = self.training.threads
        scores = self._booster.predict(features, raw_score=True, num_threads=threads)
        return np.asarray(scores, dtype=np.float64)


def _lightgbm() -> ModuleType:
    try:
        import lightgbm
    except ImportError as error:
        raise EnvironmentFailure(
            "the learned cost model needs lightgbm, which is not installed; "
            "pip install 'loopwright[learn]', or use --policy genetic"
        ) from error
    return lightgbm


def _params(training: Training) -> dict[str, object]:
    o = training.options
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
        "seed": training.seed,
        "num_threads": training.threads,
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
