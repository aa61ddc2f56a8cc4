from __future__ import annotations

from pathlib import Path

import pytest

from loopwright.codegen.backends import GROUP, backend
from loopwright.errors import ConfigError
from loopwright.plugins import plugin

PART = """
class Toy:
    language = "steps"
    def text(self, kernel, params, target): return ""
    def artifact(self, kernel, params, target): raise NotImplementedError
TOY = Toy()
NOTHING = object()
"""


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A package beside this one with a back end for one kind, and something else for another."""
    points = tmp_path / "toy_backend-1.0.dist-info"
    points.mkdir()
    (points / "METADATA").write_text("Name: toy_backend\nVersion: 1.0\n")
    (points / "entry_points.txt").write_text(
        f"[{GROUP}]\ntoy = toy_backend:TOY\nbad = toy_backend:NOTHING\n"
    )
    (tmp_path / "toy_backend.py").write_text(PART)
    monkeypatch.syspath_prepend(tmp_path)
    plugin.cache_clear()


def test_a_cpu_is_served_by_llvm_unless_told_otherwise() -> None:
    assert backend("cpu").language == "llvm"
    assert backend("cpu", "llvm") is backend("cpu")


def test_a_language_that_a_kind_has_not_is_refused_with_those_it_has() -> None:
    with pytest.raises(ConfigError, match=r"in 'cuda' for cpu targets.*: llvm"):
        backend("cpu", "cuda")


@pytest.mark.usefixtures("package")
def test_another_package_brings_the_back_end_of_a_kind() -> None:
    assert backend("toy").language == "steps"
    assert backend("toy", "steps") is backend("toy")
    with pytest.raises(ConfigError, match=r"in 'llvm' for toy targets.*: steps"):
        backend("toy", "llvm")


@pytest.mark.usefixtures("package")
def test_a_part_that_is_not_a_back_end_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"'bad' of loopwright\.backends is not a back end"):
        backend("bad")


@pytest.mark.usefixtures("package")
def test_an_unknown_kind_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ConfigError, match="kind 'abacus'; there is for bad, cpu, toy"):
        backend("abacus")
