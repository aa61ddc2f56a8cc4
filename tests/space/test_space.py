from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from synthetic import product_at_most

from loopwright.errors import ConfigError
from loopwright.sched.extent import Size
from loopwright.space.config import Config
from loopwright.space.constraints import Constraint
from loopwright.space.knobs import AnnotateKnob, ChoiceKnob, ReorderKnob, SplitKnob
from loopwright.space.space import Space

KNOBS = (
    SplitKnob("w", 12, 2, "verbose", tails=True),
    SplitKnob("c", 16, 3),
    ChoiceKnob("unroll", (1, 2, 4)),
    ChoiceKnob("pack", (True, False)),
    ReorderKnob("order", ("x", "y")),
    AnnotateKnob("marks", ("x",), ("none", "vectorize")),
)
FITS = product_at_most(16, ("w", 1), ("c", 2), reason="the tile leaves registers")
PACKED = Constraint(
    ("pack", "unroll"), lambda v: ~v["pack"] | (v["unroll"] > 1), "packing needs unrolling"
)


@pytest.fixture(scope="module")
def space() -> Space:
    return Space(KNOBS, (FITS, PACKED))


def brute_force(space: Space) -> set[Config]:
    """The valid configs, by Python and one at a time."""
    found: set[Config] = set()
    for values in itertools.product(*(knob.values for knob in space.knobs)):
        config = dict(zip(space.names, values, strict=True))
        w, c = config["w"], config["c"]
        assert isinstance(w, tuple)
        assert isinstance(c, tuple)
        fits = int(w[1]) * int(c[2]) <= 16
        if fits and not (config["pack"] is True and config["unroll"] == 1):
            found.add(Config.of(config))
    return found


def test_enumerate_is_the_valid_configs(space: Space) -> None:
    listed = [space.decode(point) for point in space.enumerate()]

    assert len(listed) == len(set(listed))
    assert set(listed) == brute_force(space)


@given(seed=st.integers(0, 2**32 - 1))
@settings(max_examples=25, deadline=None)
def test_decode_and_encode_round_trip(seed: int) -> None:
    space = Space(KNOBS, (FITS, PACKED))
    points = space.sample(np.random.default_rng(seed), 20)

    for point in points:
        config = space.decode(point)
        assert (space.encode(config) == point).all()
        assert (space.encode(Config.from_json(config.key)) == point).all()


@given(seed=st.integers(0, 2**32 - 1))
@settings(max_examples=25, deadline=None)
def test_neighbours_are_valid_and_differ_in_one_knob(seed: int) -> None:
    space = Space(KNOBS, (FITS, PACKED))
    rng = np.random.default_rng(seed)
    points = space.sample(rng, 100)
    moved = space.neighbour(rng, points)

    assert space.valid(moved).all()
    assert ((moved != points).sum(axis=1) == 1).all()


def test_samples_are_valid_and_reach_every_config_evenly(space: Space) -> None:
    points = space.sample(np.random.default_rng(1), 40_000)
    _, counts = np.unique(space.keys(points), return_counts=True)
    expected = 40_000 / len(space.enumerate())

    assert space.valid(points).all()
    assert len(counts) == len(space.enumerate())
    assert counts.std() < 1.2 * np.sqrt(expected)  # Poisson: 1.0


def test_sampling_repeats_for_a_seed(space: Space) -> None:
    one, two = (space.sample(np.random.default_rng(3), 50) for _ in range(2))

    assert (one == two).all()


def test_the_estimated_share_is_near_the_true_one(space: Space) -> None:
    share = len(space.enumerate()) / space.cardinality

    assert space.estimate_valid(np.random.default_rng(0)) == pytest.approx(share, abs=0.02)


def test_a_space_beyond_64_bits_is_sampled_and_told_apart() -> None:
    knobs = [SplitKnob(f"s{i}", 1 << 20, 4) for i in range(8)]
    space = Space(knobs, [product_at_most(1 << 20, ("s0", 3), ("s7", 3))])
    rng = np.random.default_rng(0)
    points = space.sample(rng, 4096)

    assert space.cardinality == len(knobs[0].values) ** 8
    assert space.cardinality > 2**64
    assert space.valid(points).all()
    assert len(np.unique(space.keys(points))) == len(np.unique(points, axis=0))
    assert space.valid(space.neighbour(rng, points)).all()
    with pytest.raises(ConfigError, match="more than the 1048576"):
        space.enumerate()


def tight() -> Space:
    knobs = [SplitKnob("a", 1024, 4), SplitKnob("b", 1024, 4)]
    same = Constraint(
        ("a", "b"),
        lambda v: (
            (v["a"][1] * v["b"][1] == 512) & (v["a"][2] == v["b"][3]) & (v["a"][3] * v["b"][2] == 4)
        ),
        "the tiles must match",
    )
    return Space(knobs, [same])


def test_tight_constraints_are_sampled_knob_by_knob() -> None:
    space = tight()
    valid = space.enumerate()
    points = space.sample(np.random.default_rng(0), 2000)

    assert len(valid) / space.cardinality < 1 / 512
    assert space.valid(points).all()
    assert len(np.unique(space.keys(points))) > 0.9 * len(valid)


def test_what_cannot_be_satisfied_is_an_error_that_names_the_reason() -> None:
    never = Constraint(("a",), lambda v: v["a"][1] > 99, "a must be huge")
    space = Space([SplitKnob("a", 8, 2), ChoiceKnob("c", (1, 2))], [never])

    with pytest.raises(ConfigError, match=r"knobs a was found.*a must be huge"):
        space.sample(np.random.default_rng(0), 4)
    assert len(space.enumerate()) == 0


def test_a_point_without_neighbours_stays() -> None:
    only = Constraint(("a", "c"), lambda v: (v["a"][1] == 1) & (v["c"] == 2), "one is right")
    space = Space([SplitKnob("a", 8, 2), ChoiceKnob("c", (1, 2))], [only])
    rng = np.random.default_rng(0)
    point = space.sample(rng, 1)

    assert (space.neighbour(rng, point) == point).all()


def test_neighbourhood_is_every_valid_single_change(space: Space) -> None:
    point = space.enumerate()[17]
    around = space.neighbourhood(point)
    every = space.enumerate()

    wanted = every[(every != point).sum(axis=1) == 1]
    assert set(space.keys(around).tolist()) == set(space.keys(wanted).tolist())


def test_half_of_the_moves_of_a_split_go_close() -> None:
    space = Space([SplitKnob("a", 4096, 2)])  # sizes 1, 2, 4, ... 4096
    rng = np.random.default_rng(0)
    points = np.full((4000, 1), 6)
    change = np.abs(space.neighbour(rng, points)[:, 0] - 6)

    near = (change <= 3).mean()
    assert near == pytest.approx(0.5 + 0.5 * 6 / 12, abs=0.04)


def test_batches_group_by_structure_and_hold_the_sizes(space: Space) -> None:
    points = space.sample(np.random.default_rng(5), 200)
    rows_seen: list[int] = []
    for rows, batch in space.batches(points):
        rows_seen += rows.tolist()
        assert len(batch) == len(rows)
        for place, row in enumerate(rows):
            config = space.decode(points[row])
            for name in ("unroll", "pack", "order", "marks"):
                assert batch[name] == config[name]
            for name in ("w", "c"):
                sizes = [s.values[place] for s in batch.sizes(name) if isinstance(s, Size)]
                assert tuple(sizes) == config[name]
    assert sorted(rows_seen) == list(range(200))


def test_batches_of_nothing_are_none(space: Space) -> None:
    assert space.batches(np.empty((0, len(KNOBS)), dtype=np.int64)) == []


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"extra": 1}, "has knob 'extra', which this space does not"),
        ({"unroll": 3}, "knob 'unroll' has no value 3"),
        ({"unroll": True}, "knob 'unroll' has no value True"),
        ({"w": (5, 3)}, r"knob 'w' has no value \(5, 3\)"),
    ],
)
def test_a_config_of_another_template_is_refused(
    space: Space, change: dict[str, int | bool | tuple[int, ...]], match: str
) -> None:
    config = space.decode(space.enumerate()[0])

    with pytest.raises(ConfigError, match=match):
        space.encode(Config.of(dict(config.items) | change))


def test_a_config_that_lacks_a_knob_is_refused(space: Space) -> None:
    with pytest.raises(ConfigError, match="lacks knob 'w'"):
        space.encode(Config.of({"c": (16, 1, 1)}))


def test_refusal_gives_the_reason_of_the_broken_constraint(space: Space) -> None:
    config = dict(space.decode(space.enumerate()[0]).items) | {"w": (1, 12), "c": (1, 1, 16)}
    point = space.encode(Config.of(config))

    assert space.refusal(point) == "the tile leaves registers"
    assert space.refusal(space.enumerate()[0]) is None


def test_wrong_spaces_are_refused() -> None:
    with pytest.raises(ConfigError, match="share a name"):
        Space([ChoiceKnob("a", (1,)), ChoiceKnob("a", (2,))])
    with pytest.raises(ConfigError, match="names knob 'z'"):
        Space([ChoiceKnob("a", (1,))], [Constraint(("z",), lambda _: True, "x")])


@pytest.mark.parametrize("verdict", [np.array([1, 0]), np.array([True, False, True]), "yes"])
def test_a_predicate_must_give_a_bool_for_each_point(verdict: object) -> None:
    wrong = Constraint(("a",), lambda _: verdict, "reason")  # type: ignore[arg-type,return-value]  # meant
    space = Space([ChoiceKnob("a", (1, 2))], [wrong])

    with pytest.raises(ConfigError, match="'reason': the predicate gave"):
        space.valid(np.array([[0], [1]]))
