"""Label selectors: what they mean, how they are written, what is refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loopwright.errors import ConfigError
from loopwright.fleet.selector import MAX_CHARS, MAX_TERMS, MAX_VALUES, Operator, parse

GPU = {"kind": "gpu", "arch": "sm_80", "board": "a100", "fast": "", "name": "h1/gpu0"}


class TestMatches:
    @pytest.mark.parametrize(
        "text",
        [
            "",
            "  ",
            "kind=gpu",
            "kind == gpu",
            "kind=gpu, arch in (sm_80,sm_90), board!=rpi3, !broken, fast",
            "arch in ( sm_80 )",
            "arch notin (sm_70,sm_75)",
            "os!=linux",
            "os notin (linux)",
            "name=h1/gpu0",
            'kind="gpu"',
        ],
    )
    def test_holds(self, text: str) -> None:
        assert parse(text).matches(GPU)

    @pytest.mark.parametrize(
        "text",
        [
            "kind=cpu",
            "kind!=gpu",
            "arch in (sm_70,sm_90)",
            "arch notin (sm_80)",
            "os=linux",
            "os in (linux,android)",
            "os",
            "!fast",
            "kind=gpu,os",
            "kind=GPU",
        ],
    )
    def test_does_not_hold(self, text: str) -> None:
        assert not parse(text).matches(GPU)

    def test_words_of_operators_are_names_too(self) -> None:
        assert parse("in").matches({"in": "1"})
        assert parse("notin=in").matches({"notin": "in"})
        assert parse("in in (notin)").matches({"in": "notin"})


class TestText:
    def test_one_selector_has_one_text(self) -> None:
        texts = ("b in (y,x,x),a", " a , b in (x , y) ", "a,a,b in(y,x)")
        assert {str(parse(text)) for text in texts} == {"a, b in (x,y)"}
        assert len({parse(text) for text in texts}) == 1

    def test_a_single_value_is_written_with_a_sign(self) -> None:
        assert str(parse("a in (x), b notin (y)")) == "a=x, b!=y"

    def test_values_that_are_no_words_are_quoted(self) -> None:
        selector = parse(r'board="Raspberry Pi 4, \"B\"", path="a\\b", none=""')
        assert selector.matches({"board": 'Raspberry Pi 4, "B"', "path": "a\\b", "none": ""})
        assert parse(str(selector)) == selector


class TestRefused:
    @pytest.mark.parametrize(
        ("text", "said"),
        [
            ("kind=", r"character 6: expected a value, at the end"),
            ("=gpu", r"character 1: expected a label's name, at '=gpu'"),
            ("kind=gpu arch=x", r"character 10: expected a comma between terms, at 'arch=x'"),
            ("kind=gpu,", r"a term is missing after the last comma"),
            (",kind", r"character 1: expected a label's name"),
            ("a in (x", r"character 8: expected a comma or '\)' after a value, at the end"),
            ("a in ()", r"character 7: expected a value"),
            ("a inside", r"character 3: expected a comma between terms, at 'inside'"),
            ('a="x', r"character 3: a quote that is not closed"),
            ("!", r"expected a label's name after '!'"),
            ("!a=b", r"expected a comma"),
            ("a=b;c", r"character 4: expected a comma between terms, at ';c'"),
            ("a=" + "x" * MAX_CHARS, rf"{MAX_CHARS + 2} characters; at most {MAX_CHARS}"),
            (",".join(f"a{i}" for i in range(MAX_TERMS + 1)), f"more than {MAX_TERMS} terms"),
            (
                f"a in ({','.join(str(i) for i in range(MAX_VALUES + 1))})",
                f"more than {MAX_VALUES} values",
            ),
        ],
    )
    def test_says_where(self, text: str, said: str) -> None:
        with pytest.raises(ConfigError, match=said):
            parse(text)


keys = st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9._/:@+-]{0,8}", fullmatch=True)
values = st.text(max_size=8)


@st.composite
def written(draw: st.DrawFn) -> str:
    """A selector as a person might write it."""
    terms = []
    space = st.sampled_from(["", " ", "  "])

    def value() -> str:
        text = draw(values).replace("\\", "\\\\").replace('"', '\\"')
        return f'"{text}"'

    for _ in range(draw(st.integers(0, 5))):
        key, gap = draw(keys), draw(space)
        kind = draw(st.sampled_from(Operator))
        if kind is Operator.EXISTS:
            terms.append(key)
        elif kind is Operator.MISSING:
            terms.append(f"!{gap}{key}")
        elif draw(st.booleans()):
            terms.append(f"{key}{gap}{'=' if kind is Operator.IN else '!='}{gap}{value()}")
        else:
            inside = ",".join(value() for _ in range(draw(st.integers(1, 3))))
            terms.append(f"{key} {kind.value}{gap}({inside})")
    return f"{draw(space)},".join(terms)


class TestLaws:
    @given(written())
    def test_round_trip(self, text: str) -> None:
        selector = parse(text)
        again = parse(str(selector))
        assert again == selector
        assert str(again) == str(selector)

    @given(st.text(max_size=40))
    def test_any_text_is_a_selector_or_a_clear_error(self, text: str) -> None:
        try:
            selector = parse(text)
        except ConfigError:
            return
        assert parse(str(selector)) == selector

    @given(written(), st.dictionaries(keys, values, max_size=4))
    def test_a_selector_holds_when_each_term_does(self, text: str, labels: dict[str, str]) -> None:
        selector = parse(text)
        alone = [parse(str(term)).matches(labels) for term in selector.terms]
        assert selector.matches(labels) is all(alone)
