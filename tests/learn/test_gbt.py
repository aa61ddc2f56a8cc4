from __future__ import annotations

import numpy as np
import pytest

from loopwright.errors import InternalError
from loopwright.learn.dataset import Dataset, FeatureMatrix, Floats, Observations, collect
from loopwright.learn.gbt import GbtModel, Objective, PairwiseLogistic

OBJECTIVES: tuple[Objective, ...] = ("rank", "regression")


def candidates(n: int, seed: int, scale: float = 1.0) -> tuple[FeatureMatrix, Floats]:
    """Features and times with an interaction and a threshold."""
    x = np.random.default_rng(seed).random((n, 12)).astype(np.float32)
    work = 2.0 * x[:, 0] * x[:, 1] + np.sin(6 * x[:, 2]) + 1.5 * (x[:, 3] > 0.6)
    return x, np.asarray(scale * 1000.0 * np.exp(work), dtype=np.float64)


def order_kept(scores: Floats, ns: Floats) -> float:
    """Spearman's rank correlation of scores with speed."""
    ranks = [np.argsort(np.argsort(v)) for v in (scores, -ns)]
    return float(np.corrcoef(*ranks)[0, 1])


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_the_order_of_unseen_candidates_is_learned(objective: Objective) -> None:
    model = GbtModel(objective)
    model.fit(collect([Observations("w", *candidates(400, 0))]))
    x, ns = candidates(300, 1)

    assert order_kept(model.predict(x), ns) > 0.85


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_sixteen_rows_are_enough_to_be_better_than_chance(objective: Objective) -> None:
    x, ns = candidates(400, 2)
    kept = []
    for seed in range(5):
        model = GbtModel(objective, seed)
        model.fit(collect([Observations("w", *candidates(16, 10 + seed))]))
        kept.append(order_kept(model.predict(x), ns))

    assert float(np.mean(kept)) > 0.1


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_the_same_seed_gives_the_same_scores(objective: Objective) -> None:
    data = collect([Observations("w", *candidates(100, 0))])
    x, _ = candidates(50, 1)
    scores = []
    for _ in range(2):
        model = GbtModel(objective, seed=3)
        model.fit(data)
        scores.append(model.predict(x))

    assert (scores[0] == scores[1]).all()


def test_workloads_of_other_scale_are_learned_from_together() -> None:
    parts = [Observations(f"w{i}", *candidates(60, i, 10.0**i)) for i in range(4)]
    model = GbtModel("rank")
    model.fit(collect(parts))
    x, ns = candidates(300, 9)

    assert order_kept(model.predict(x), ns) > 0.8


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_failures_score_below_what_works(objective: Objective) -> None:
    x, ns = candidates(200, 0)
    failing = x[:, 5] > 0.7
    ns[failing] = np.inf
    model = GbtModel(objective)
    model.fit(collect([Observations("w", x, ns)]))
    scores = model.predict(x)

    assert np.median(scores[failing]) < np.quantile(scores[~failing], 0.1)


@pytest.mark.parametrize("ns", [[1.0], [np.inf, np.inf], [5.0, 5.0, 5.0]])
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_data_without_an_order_gives_finite_scores(objective: Objective, ns: list[float]) -> None:
    x, _ = candidates(len(ns), 0)
    model = GbtModel(objective)
    model.fit(collect([Observations("w", x, np.array(ns))]))

    assert np.isfinite(model.predict(x)).all()


def test_no_rows_give_no_scores() -> None:
    model = GbtModel()
    x, ns = candidates(20, 0)
    model.fit(collect([Observations("w", x, ns)]))

    assert model.predict(x[:0]).shape == (0,)


def test_asking_before_fitting_is_our_bug() -> None:
    with pytest.raises(InternalError, match="before it was fitted"):
        GbtModel().predict(np.zeros((1, 2), dtype=np.float32))


def test_the_rank_gradient_pushes_faster_rows_up_within_their_workload_only() -> None:
    data = Dataset(
        np.zeros((4, 1), dtype=np.float32),
        np.array([1.0, 0.5, 1.0, 0.25]),
        np.array([0, 0, 1, 1]),
    )
    objective = PairwiseLogistic(data, pairs=6, rng=np.random.default_rng(0))
    gradient, hessian = objective(np.zeros(4), None)  # type: ignore[arg-type]  # not looked at

    assert (np.sign(gradient) == [-1, 1, -1, 1]).all()
    assert gradient[:2].sum() == pytest.approx(0.0)
    assert gradient[2:].sum() == pytest.approx(0.0)
    assert (hessian > 0).all()
    ordered, _ = objective(np.array([20.0, 0.0, 20.0, 0.0]), None)  # type: ignore[arg-type]  # same
    assert np.abs(ordered).max() < 1e-6
