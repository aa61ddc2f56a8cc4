from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from loopwright.errors import ConfigError, TemplateError
from loopwright.sched.extent import Size
from loopwright.space.config import Config, ConfigBatch
from loopwright.space.knobs import KnobValue

VALUES: st.SearchStrategy[KnobValue] = (
    st.integers(-(2**40), 2**40)
    | st.booleans()
    | st.text(max_size=5)
    | st.lists(st.integers(0, 99), min_size=1, max_size=4).map(tuple)
    | st.lists(st.text(max_size=3), min_size=1, max_size=4).map(tuple)
)


@given(st.dictionaries(st.text(min_size=1, max_size=6), VALUES, max_size=5))
def test_json_round_trips(values: dict[str, KnobValue]) -> None:
    config = Config.of(values)

    assert Config.from_json(config.to_json()) == config
    assert Config.from_json(json.dumps(config.to_json())) == config
    assert Config.from_json(config.key) == config
    for name, value in values.items():
        assert type(config[name]) is type(value)
        assert config[name] == value


def test_the_order_of_knobs_does_not_matter() -> None:
    one, other = Config.of({"a": 1, "b": (2, 3)}), Config.of({"b": (2, 3), "a": 1})

    assert one == other
    assert hash(one) == hash(other)
    assert one.key == '{"a":1,"b":[2,3]}'
    assert str(one) == "a=1 b=2x3"


def test_one_and_true_differ() -> None:
    assert Config.of({"a": 1}) != Config.of({"a": True})


@pytest.mark.parametrize(
    ("data", "match"),
    [
        ("{", "not JSON"),
        ("[1]", "not a JSON object"),
        ('{"a": 1.5}', "'a' holds 1.5"),
        ('{"a": [1, "x"]}', "a value is"),
        ('{"a": null}', "a value is"),
    ],
)
def test_what_is_no_config_is_refused(data: str, match: str) -> None:
    with pytest.raises(ConfigError, match=match):
        Config.from_json(data)


def test_knobs_are_read_as_what_they_are() -> None:
    config = Config.of({"n": 4, "f": True, "w": "x", "s": (2, 3), "o": ("a", "b")})

    assert config.integer("n") == 4
    assert config.flag("f") is True
    assert config.text("w") == "x"
    assert config.sizes("s") == (2, 3)
    assert config.words("o") == ("a", "b")
    for read, name in [
        (config.integer, "f"),
        (config.flag, "n"),
        (config.text, "n"),
        (config.sizes, "o"),
        (config.words, "s"),
    ]:
        with pytest.raises(ConfigError, match=f"knob '{name}' holds"):
            read(name)  # type: ignore[operator]  # a table of methods
    with pytest.raises(ConfigError, match="no knob 'z'"):
        config["z"]


def test_a_batch_has_the_face_of_a_config_and_refuses_branches() -> None:
    sizes = (Size(np.array([2, 4])), Size(np.array([8, 4])))
    batch = ConfigBatch(2, Config.of({"n": 4, "f": False, "w": "x", "o": ("a",)}), {"s": sizes})

    assert len(batch) == 2
    assert batch["n"] == 4
    assert batch.names() == ("f", "n", "o", "s", "w")
    assert (batch.integer("n"), batch.flag("f"), batch.text("w")) == (4, False, "x")
    assert batch.words("o") == ("a",)
    assert batch.sizes("s") is sizes
    with pytest.raises(TemplateError, match="branched on a tile size"):
        bool(batch.sizes("s")[0])
    with pytest.raises(ConfigError, match="not a split"):
        batch.sizes("n")
