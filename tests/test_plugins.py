from __future__ import annotations

from pathlib import Path

import pytest

from loopwright.errors import EnvironmentFailure
from loopwright.plugins import plugin, plugin_names

GROUP = "loopwright.tests"


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A package beside this one that brings two parts, of which one cannot be imported."""
    points = tmp_path / "brings-1.0.dist-info"
    points.mkdir()
    (points / "METADATA").write_text("Name: brings\nVersion: 1.0\n")
    (points / "entry_points.txt").write_text(
        f"[{GROUP}]\nfine = brings_part:PART\nbroken = brings_part:MISSING\n"
    )
    (tmp_path / "brings_part.py").write_text("PART = 7\n")
    monkeypatch.syspath_prepend(tmp_path)
    plugin.cache_clear()


@pytest.mark.usefixtures("package")
def test_a_part_of_another_package_is_found_by_its_name() -> None:
    assert plugin(GROUP, "fine") == 7
    assert plugin_names(GROUP) == ("broken", "fine")


@pytest.mark.usefixtures("package")
def test_a_part_that_cannot_be_loaded_is_an_error_that_names_it() -> None:
    with pytest.raises(EnvironmentFailure, match=r"brings_part:MISSING.*broken"):
        plugin(GROUP, "broken")


def test_a_name_that_no_package_brings_is_none() -> None:
    assert plugin(GROUP, "nothing") is None
