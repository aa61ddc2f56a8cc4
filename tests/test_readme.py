"""The README and the help agree with the package."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from loopwright import settings

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text()


def test_the_readme_names_every_setting() -> None:
    documented = set(re.findall(r"`(LOOPWRIGHT_\w+)`", README))
    assert documented == set(re.findall(r"LOOPWRIGHT_\w+", settings.__doc__ or ""))


@pytest.mark.parametrize("file", re.findall(r"\]\((?!http)([^)#]+)\)", README))
def test_a_file_that_the_readme_links_is_there(file: str) -> None:
    assert (ROOT / file).is_file()


def test_the_result_has_its_markers() -> None:
    assert README.index("<!-- result: begin -->") < README.index("<!-- result: end -->")
