"""The page on the architecture says what the package is, not what it was."""

from __future__ import annotations

import re
from pathlib import Path

import house
import pytest

PAGE = house.ROOT / "docs" / "architecture.md"
BEGIN, END = "<!-- packages: begin -->\n", "\n<!-- packages: end -->"
PAGES = [*sorted((house.ROOT / "docs").glob("*.md")), house.ROOT / "CONTRIBUTING.md"]
INNER = sorted(name for name in {m.rpartition(".")[0] for m in house.import_graph()} if name)


def test_the_table_of_packages_is_that_of_their_heads(pytestconfig: pytest.Config) -> None:
    """Write it anew: pytest tests/docs/test_architecture.py --update-golden"""
    before, _, rest = PAGE.read_text().partition(BEGIN)
    table, _, after = rest.partition(END)
    if pytestconfig.getoption("--update-golden"):
        PAGE.write_text(before + BEGIN + house.packages_table() + END + after)
    else:
        assert table == house.packages_table()


@pytest.mark.parametrize("package", INNER)
def test_each_package_says_what_it_is_for(package: str) -> None:
    assert house.purpose(package)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_each_file_of_the_package_that_a_page_names_is_there(page: Path) -> None:
    named = set(re.findall(r"(?<![\w./-])([a-z_]+(?:/[a-z_0-9]+)+\.py)\b", page.read_text()))
    places = (house.PACKAGE, house.ROOT, house.ROOT / "tests" / "support")
    assert {n for n in named if not any((place / n).is_file() for place in places)} == set()
