from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loopwright.cli.common import describe, parse_duration, parse_shapes, select, show_ns
from loopwright.errors import ConfigError


@pytest.mark.parametrize(
    ("text", "seconds"), [("90", 90), ("90s", 90), ("5m", 300), ("1h30m", 5400), ("0.5s", 0.5)]
)
def test_a_duration_is_read(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "0", "-1s", "5 minutes", "s", "1d"])
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="is not a duration; write 90s, 5m or 1h30m"):
        parse_duration(text)


def test_shapes_are_read() -> None:
    assert parse_shapes(["a:1x3x4", "b=c=2,5"]) == {"a": (1, 3, 4), "b=c": (2, 5)}
    assert parse_shapes(["input:0:7", "input:1=7"]) == {"input:0": (7,), "input:1": (7,)}
    assert parse_shapes(None) == {}


@pytest.mark.parametrize("text", ["1x3", "a=", "a:", ":2", "a=1x", "a:0x3", "a=nx3"])
def test_what_is_no_shape_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="is not NAME:1x3x224x224"):
        parse_shapes([text])


@given(st.sets(st.integers(0, 9), min_size=1))
def test_a_selection_picks_what_it_names(chosen: set[int]) -> None:
    assert set(select(",".join(map(str, sorted(chosen))), 10)) == chosen


def test_a_selection_has_ranges_and_no_selection_is_all() -> None:
    assert select("0,2-4,3", 6) == (0, 2, 3, 4)
    assert select(None, 3) == (0, 1, 2)


@pytest.mark.parametrize("text", ["6", "a", "", "4-2", "0-9", "-1"])
def test_a_selection_of_what_is_not_there_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="is not among 0 to 5"):
        select(text, 6)


@pytest.mark.parametrize(
    ("ns", "text"), [(912.3, "912 ns"), (45_100, "45.1 us"), (3.2e6, "3.2 ms"), (1.1e9, "1.1 s")]
)
def test_a_time_has_three_digits(ns: float, text: str) -> None:
    assert show_ns(ns) == text


def test_a_task_is_described_by_what_is_not_usual() -> None:
    attrs = (
        ("data", (1, 3, 224, 224)),
        ("weight", (64, 3, 7, 7)),
        ("strides", (2, 2)),
        ("padding", (3, 3, 3, 3)),
        ("dilation", (1, 1)),
        ("groups", 1),
        ("bias", True),
        ("relu", False),
        ("dtype", "float16"),
    )
    text = "conv2d 1x3x224x224 w 64x3x7x7 s2 p3 bias dtype float16"
    assert describe("conv2d", attrs) == text
    assert describe("conv2d", (("padding", (1, 0, 1, 2)),)) == "conv2d p1x0x1x2"
