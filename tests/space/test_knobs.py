from __future__ import annotations

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loopwright.errors import ConfigError
from loopwright.space.knobs import (
    AnnotateKnob,
    ChoiceKnob,
    Knob,
    ReorderKnob,
    SplitKnob,
    SplitPolicy,
    narrowed,
)


@given(
    extent=st.integers(1, 48),
    parts=st.integers(1, 3),
    policy=st.sampled_from(["factors", "power2", "verbose", "all"]),
    tails=st.booleans(),
    max_factor=st.none() | st.integers(1, 20),
)
def test_split_values_cover_the_extent_and_are_distinct(
    extent: int, parts: int, policy: SplitPolicy, tails: bool, max_factor: int | None
) -> None:
    split = SplitKnob("s", extent, parts, policy, max_factor=max_factor, tails=tails)

    assert len(set(split.values)) == len(split.values)
    for value in split.values:
        inner = math.prod(value[1:])
        assert len(value) == parts
        assert value[0] == -(-extent // inner)
        if not tails or policy == "factors":
            assert math.prod(value) == extent
        if max_factor is not None:
            assert all(size <= max_factor for size in value[1:])


@given(extent=st.integers(1, 60))
def test_factors_are_all_divisions_of_the_extent(extent: int) -> None:
    divisors = [d for d in range(1, extent + 1) if extent % d == 0]
    wanted = {
        (extent // (a * b), a, b)
        for a, b in itertools.product(divisors, divisors)
        if extent % (a * b) == 0
    }

    assert set(SplitKnob("s", extent, 3).values) == wanted


@given(extent=st.integers(1, 60))
def test_all_with_tails_has_every_inner_size(extent: int) -> None:
    split = SplitKnob("s", extent, 2, "all", tails=True)

    assert [inner for _, inner in split.values] == list(range(1, extent + 1))


def test_power2_with_tails_reaches_one_tile_over_everything() -> None:
    values = SplitKnob("s", 56, 2, "power2", tails=True).values

    assert values == ((56, 1), (28, 2), (14, 4), (7, 8), (4, 16), (2, 32), (1, 64))


def test_power2_without_tails_divides() -> None:
    assert SplitKnob("s", 56, 2, "power2").values == ((56, 1), (28, 2), (14, 4), (7, 8))


def test_max_factor_bounds_each_part() -> None:
    split = SplitKnob("s", 64, 3, max_factor=(4, 16))

    assert max(v[1] for v in split.values) == 4
    assert max(v[2] for v in split.values) == 16


def test_listed_split_takes_inner_or_whole_values() -> None:
    split = SplitKnob("s", 56, 2, "listed", candidates=((14,), (2, 28)))

    assert split.values == ((4, 14), (2, 28))


def test_reorder_without_candidates_is_every_permutation() -> None:
    assert len(ReorderKnob("o", ("a", "b", "c")).values) == 6


def test_annotate_is_the_product_of_options() -> None:
    assert AnnotateKnob("a", ("x", "y"), ("none", "vec")).values[1] == ("none", "vec")
    assert len(AnnotateKnob("a", ("x", "y"), ("none", "vec")).values) == 4


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: SplitKnob("s", 0), "extent 0"),
        (lambda: SplitKnob("s", 8, 2, "odd"), "unknown policy 'odd'"),  # type: ignore[arg-type]  # meant
        (lambda: SplitKnob("s", 8, 3, max_factor=(4,)), "needs 2 bounds"),
        (lambda: SplitKnob("s", 8, 2, "listed", candidates=((3, 2),)), "must be 4"),
        (lambda: SplitKnob("s", 8, 2, "listed", candidates=((1, 2, 3),)), "needs 2 sizes"),
        (lambda: SplitKnob("s", 8, 2, max_factor=0), "no value"),
        (lambda: SplitKnob("s", 16384, 4, "all", tails=True), "over 200000 values"),
        (lambda: ChoiceKnob("c", ()), "no value"),
        (lambda: ChoiceKnob("c", (1, 2, 1)), "twice"),
        (lambda: ChoiceKnob("", (1,)), "no name"),
        (lambda: ReorderKnob("o", ("a", "b"), (("a", "c"),)), "not an order"),
        (lambda: AnnotateKnob("a", ("x",), ("none",), (("vec",),)), "candidate"),
    ],
)
def test_wrong_knobs_are_refused(make: object, match: str) -> None:
    assert callable(make)
    with pytest.raises(ConfigError, match=match):
        make()


def test_one_and_true_are_different_options() -> None:
    assert ChoiceKnob("c", (1, True)).values == (1, True)


@pytest.mark.parametrize(
    ("knob", "kept"),
    [
        (SplitKnob("s", 8, 2), [(4, 2), (1, 8)]),
        (ChoiceKnob("c", (1, True, "x")), [True]),
        (ReorderKnob("o", ("a", "b")), [("b", "a")]),
        (AnnotateKnob("a", ("x",), ("none", "vec")), [("vec",)]),
    ],
)
def test_narrowed_keeps_only_what_is_listed(knob: Knob, kept: list[object]) -> None:
    small = narrowed(knob, kept)  # type: ignore[arg-type]  # each of its knob's kind

    assert [(type(v), v) for v in small.values] == [(type(v), v) for v in kept]


def test_narrowing_to_nothing_is_refused() -> None:
    with pytest.raises(ConfigError, match="none of"):
        narrowed(ChoiceKnob("c", (1, 2)), [3])
