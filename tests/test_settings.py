from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pytest

from loopwright import settings
from loopwright.errors import ConfigError

ROW = re.compile(r"^\| (LOOPWRIGHT_\w+)\s*\| (\w+)\s*\|", re.MULTILINE)


def test_the_table_and_the_fields_agree() -> None:
    rows = dict(ROW.findall(settings.__doc__ or ""))
    assert list(rows.values()) == [f.name for f in dataclasses.fields(settings.Settings)]


@pytest.mark.parametrize(
    "variable",
    ["CACHE_DIR", "RECORDS", "TRACE", "TRACEBACK", "TRACKER", "TOKEN", "CA", "CERT", "SIGN"],
)
def test_each_variable_of_the_table_decides_its_field(variable: str) -> None:
    rows = dict(ROW.findall(settings.__doc__ or ""))
    name = f"LOOPWRIGHT_{variable}"
    plain = settings.from_environment({})
    changed = settings.from_environment({name: "1"})
    differing = [
        f.name
        for f in dataclasses.fields(plain)
        if getattr(plain, f.name) != getattr(changed, f.name)
    ]
    assert differing == [rows[name]]


def test_the_cache_follows_the_xdg_base_folder() -> None:
    values = {"XDG_CACHE_HOME": "/c", "HOME": "/h"}
    assert settings.from_environment(values).cache_dir == Path("/c/loopwright")
    assert settings.from_environment({"HOME": "/h"}).cache_dir == Path("/h/.cache/loopwright")


def test_a_switch_that_is_neither_on_nor_off_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"LOOPWRIGHT_TRACEBACK='perhaps'.*use 1 or 0"):
        settings.from_environment({"LOOPWRIGHT_TRACEBACK": "perhaps"})


def test_a_token_is_not_in_what_is_printed_of_the_settings() -> None:
    assert "lwt_x" not in repr(settings.from_environment({"LOOPWRIGHT_TOKEN": "lwt_x"}))
