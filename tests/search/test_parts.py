"""Annealing, the varied pick, the feature table, the ledger."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from synthetic import synthetic_space

from loopwright.outcome import Failed, FailureKind, FailureStage, Timed
from loopwright.search.anneal import AnnealOptions, anneal
from loopwright.search.feature_table import FeatureTable
from loopwright.search.model_based import pick
from loopwright.search.policy import Ledger, Trial, normalised
from loopwright.space.knobs import ChoiceKnob
from loopwright.space.space import Space

SPACE = synthetic_space()


def first_column(points: np.ndarray) -> np.ndarray:
    return -np.abs(points[:, 0] - 7.0) - np.abs(points[:, 1] - 11.0)


def test_annealing_climbs_and_reports_all_it_saw() -> None:
    rng = np.random.default_rng(0)
    start = SPACE.sample(rng, 32)
    result = anneal(SPACE, rng, first_column, start, AnnealOptions(steps=30, tries=3))

    assert len(result.points) == len(result.scores) == 32 + 30 * 32 * 3
    assert SPACE.valid(result.points).all()
    assert (result.scores == first_column(result.points)).all()
    assert first_column(result.chains).mean() > first_column(start).mean() + 3
    assert result.scores.max() == 0


def test_without_heat_no_chain_goes_down() -> None:
    rng = np.random.default_rng(1)
    start = SPACE.sample(rng, 64)
    result = anneal(SPACE, rng, first_column, start, AnnealOptions(steps=5, tries=1, heat=0.0))

    assert (first_column(result.chains) >= first_column(start)).all()


def test_pick_without_variety_takes_the_best() -> None:
    points = np.arange(10)[:, None]
    scores = np.array([3, 1, 4, 1, 5, 9, 2, 6, 5, 3.5])

    assert pick(points, scores, 3, alpha=0.0) == [5, 7, 4]


def test_pick_prefers_new_values_when_scores_are_close() -> None:
    points = np.array([[0, 0], [0, 0], [1, 1], [0, 1]])
    scores = np.array([1.0, 0.99, 0.9, 0.95])

    assert pick(points, scores, 2, alpha=0.0) == [0, 1]
    assert pick(points, scores, 2, alpha=0.5) == [0, 2]


@given(
    st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2)), min_size=3, max_size=7),
    st.integers(0, 2**32 - 1),
)
@settings(max_examples=40, deadline=None)
def test_the_greedy_pick_is_within_its_bound(rows: list[tuple[int, int]], seed: int) -> None:
    points = np.array(rows)
    scores = np.random.default_rng(seed).random(len(points))

    def value(chosen: tuple[int, ...]) -> float:
        covered = sum(len(set(points[list(chosen), j])) for j in range(2))
        return float(scores[list(chosen)].sum() + 0.7 * covered / 2)

    greedy = pick(points, scores, 3, alpha=0.7)
    best = max(value(c) for c in itertools.combinations(range(len(points)), 3))
    assert len(set(greedy)) == 3
    assert value(tuple(greedy)) >= (1 - 1 / np.e) * best


def test_features_are_computed_once_for_each_point() -> None:
    calls: list[int] = []

    def featurize(points: np.ndarray) -> np.ndarray:
        calls.append(len(points))
        return points.astype(np.float32)

    table = FeatureTable(SPACE, featurize)
    points = SPACE.sample(np.random.default_rng(0), 300)
    distinct = len(np.unique(points, axis=0))

    assert (table(points) == points).all()
    assert (table(points[::-1]) == points[::-1]).all()
    assert calls == [distinct]
    assert table(points[:0]).shape == (0, points.shape[1])


def test_a_full_feature_table_starts_anew() -> None:
    table = FeatureTable(SPACE, lambda points: points.astype(np.float32), limit=50)
    rng = np.random.default_rng(0)
    for _ in range(20):
        points = SPACE.sample(rng, 40)
        assert (table(points) == points).all()


def test_the_ledger_keeps_the_last_outcome_and_skips_the_machines_failures() -> None:
    space = Space([ChoiceKnob("a", (1, 2, 3))])
    ledger = Ledger(space)
    configs = [space.decode(point) for point in space.enumerate()]
    lost = Failed(FailureStage.RUN, FailureKind.WORKER_LOST, "gone")
    wrong = Failed(FailureStage.CHECK, FailureKind.WRONG_OUTPUT, "3 wrong")
    ledger.tell([Trial(configs[0], Timed((5.0,), 5.0)), Trial(configs[1], lost)])
    ledger.tell([Trial(configs[2], Timed((2.0,), 2.0)), Trial(configs[0], wrong)])

    assert ledger.told == 2
    assert ledger.proposed == 3
    assert ledger.ns.tolist() == [np.inf, 2.0]
    assert ledger.best(5).tolist() == [[2]]
    assert len(ledger.draw(np.random.default_rng(0), 3)) == 0


def test_normalised_scores_have_unit_spread() -> None:
    scores = normalised(np.array([1.0, 2.0, 6.0]))

    assert scores.mean() == pytest.approx(0.0)
    assert scores.std() == pytest.approx(1.0)
    assert normalised(np.ones(3)).tolist() == [0.0, 0.0, 0.0]
