from __future__ import annotations

from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loopwright import jsonio

values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)


@dataclass(frozen=True)
class Point:
    x: int
    y: tuple[float, ...] = ()


@given(values)
def test_a_value_comes_back(value: object) -> None:
    assert jsonio.loads(jsonio.dumps(value), object) == value


@given(st.dictionaries(st.text(), st.integers(0, 9)))
def test_equal_values_have_equal_text_and_digest(value: dict[str, int]) -> None:
    other = dict(reversed(value.items()))
    assert jsonio.dumps(value) == jsonio.dumps(other)
    assert jsonio.digest(value) == jsonio.digest(other)


def test_canonical_text_is_one_line_with_sorted_keys() -> None:
    assert jsonio.dumps({"b": [1, 2], "a": "x\n"}) == '{"a":"x\\n","b":[1,2]}'


def test_a_dataclass_comes_back_typed() -> None:
    assert jsonio.loads(jsonio.dumps(Point(1, (0.5,))), Point) == Point(1, (0.5,))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"x": "one"}', r"Expected `int`, got `str` - at `\$.x`"),
        ('{"x"', "truncated"),
        ("{}", "missing required field `x`"),
        (b"\xff", "malformed|invalid|decode"),
    ],
)
def test_text_that_does_not_fit_is_refused_with_the_place(text: str | bytes, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        jsonio.loads(text, Point)
