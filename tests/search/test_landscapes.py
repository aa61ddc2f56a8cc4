"""The recorded landscapes in the repository, and the learned policy on one of them."""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np
import pytest
from search_tasks import best_so_far

from loopwright.api.replay import recorded_task
from loopwright.learn.features import featurize
from loopwright.measure.landscape import load
from loopwright.search.feature_table import FeatureTable
from loopwright.search.policies import make_policy

FILES = sorted((Path(__file__).resolve().parents[2] / "landscapes").glob("*.json.gz"))


def test_the_landscapes_that_policies_are_compared_on_are_there() -> None:
    assert {file.name.partition(".")[0] for file in FILES} >= {
        "C2",
        "C6",
        "C9",
        "C12",
        "matmul-512",
    }


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_a_landscape_is_of_todays_templates_and_its_configs_have_features(file: Path) -> None:
    scape = load(file)
    task = recorded_task(scape)

    assert len(scape) > 1000
    assert np.isfinite(featurize(task, scape.space.points[:64])).all()


def test_the_model_needs_128_trials_for_what_random_finds_in_512() -> None:
    scape = load(next(file for file in FILES if file.name.startswith("C9")))
    features = FeatureTable(scape.space, functools.partial(featurize, recorded_task(scape)))
    needed = []
    for seed in range(3):
        best = {}
        for name, trials in (("random", 512), ("model", 160)):
            rng = np.random.default_rng(seed)
            policy = make_policy(name, scape.space, rng, features)
            best[name] = best_so_far(policy, scape, trials)
        reached = np.flatnonzero(best["model"] <= best["random"][-1])
        needed.append(int(reached[0]) + 1 if len(reached) else 999)

    assert np.median(needed) <= 128, needed
