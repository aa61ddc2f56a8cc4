"""What every policy must do, and that those that learn are worth it."""

from __future__ import annotations

import numpy as np
import pytest
from search_tasks import best_so_far, featurizer
from synthetic import synthetic, synthetic_space

from loopwright.errors import ConfigError
from loopwright.measure.landscape import Landscape
from loopwright.outcome import Failed, FailureKind, FailureStage, Timed
from loopwright.search.policies import NAMES, make_policy
from loopwright.search.policy import Policy, Trial
from loopwright.space.knobs import ChoiceKnob, SplitKnob
from loopwright.space.restricted import RestrictedSpace
from loopwright.space.space import Space


def policy(name: str, space: Space, seed: int = 0) -> Policy:
    return make_policy(name, space, np.random.default_rng(seed), featurizer(space))


def small(scape: Landscape, n: int) -> RestrictedSpace:
    return RestrictedSpace(Space(scape.space.knobs), scape.space.points[:n])


@pytest.mark.parametrize("name", NAMES)
def test_proposals_are_valid_and_never_repeated(name: str) -> None:
    space = synthetic_space()
    asked = policy(name, space).ask(100)

    assert len(asked) == 100
    assert len(set(asked)) == 100
    assert space.valid(np.stack([space.encode(config) for config in asked])).all()


@pytest.mark.parametrize("name", NAMES)
def test_a_space_is_exhausted_exactly_once(name: str, scape: Landscape) -> None:
    space = small(scape, 60)
    under_test = policy(name, space)
    asked = []
    while batch := under_test.ask(7):
        asked += batch
        under_test.tell([Trial(config, Timed((1.0,), 1.0 + len(asked))) for config in batch])

    assert len(asked) == len(set(asked)) == 60
    assert under_test.ask(1) == []


@pytest.mark.parametrize("name", NAMES)
def test_the_same_seed_asks_the_same(name: str, scape: Landscape) -> None:
    one, two = (best_so_far(policy(name, scape.space, 5), scape, 70) for _ in range(2))

    assert (one == two).all()


@pytest.mark.parametrize("name", NAMES)
def test_what_was_told_is_not_asked_for(name: str, scape: Landscape) -> None:
    space = small(scape, 80)
    told = [space.decode(point) for point in space.points[:40]]
    under_test = policy(name, space)
    under_test.tell([Trial(config, Timed((1.0,), 1.0)) for config in told])
    asked = under_test.ask(80)

    assert len(asked) == 40
    assert not set(asked) & set(told)


@pytest.mark.parametrize("name", NAMES)
def test_failures_only_do_not_stop_a_policy(name: str, scape: Landscape) -> None:
    under_test = policy(name, scape.space)
    crash = Failed(FailureStage.RUN, FailureKind.CRASH, "signal 11")
    lost = Failed(FailureStage.RUN, FailureKind.WORKER_LOST, "gone")
    for outcome in (crash, lost, crash):
        asked = under_test.ask(40)
        under_test.tell([Trial(config, outcome) for config in asked])

    assert len(under_test.ask(10)) == 10


@pytest.mark.parametrize(("name", "share"), [("model", 0.9), ("genetic", 0.97), ("autotvm", 0.92)])
def test_what_learns_beats_random(name: str, share: float) -> None:
    learned, random = [], []
    for seed in range(4):
        scape = synthetic(seed)
        learned.append(best_so_far(policy(name, scape.space, seed), scape, 128)[-1])
        random.append(best_so_far(policy("random", scape.space, seed), scape, 128)[-1])

    assert np.log(np.array(learned) / random).mean() < np.log(share)


def test_the_model_reaches_randoms_best_of_512_within_128_trials() -> None:
    needed = []
    for seed in range(4):
        scape = synthetic(seed % 2)
        goal = best_so_far(policy("random", scape.space, 100 + seed), scape, 512)[-1]
        curve = best_so_far(policy("model", scape.space, seed), scape, 192)
        reached = np.flatnonzero(curve <= goal)
        needed.append(int(reached[0]) + 1 if len(reached) else 999)

    assert np.median(needed) <= 128, needed


def test_grid_walks_in_order() -> None:
    space = Space([ChoiceKnob("a", (1, 2)), SplitKnob("b", 4, 2)])
    asked = policy("grid", space).ask(10)

    assert [(c["a"], c["b"]) for c in asked] == [
        (a, b) for a in (1, 2) for b in ((4, 1), (2, 2), (1, 4))
    ]


def test_grid_refuses_a_large_space() -> None:
    space = Space([SplitKnob(f"s{i}", 1 << 16, 4) for i in range(4)])

    with pytest.raises(ConfigError, match="use another policy than grid"):
        policy("grid", space)


def test_an_unknown_policy_is_refused_by_name() -> None:
    with pytest.raises(ConfigError, match="unknown policy 'tpe'; use one of model, genetic"):
        policy("tpe", synthetic_space())
