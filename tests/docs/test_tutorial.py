from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]
TUTORIAL = ROOT / "docs" / "tutorial.md"
PAGES = sorted((ROOT / "docs").glob("*.md"))


@pytest.fixture
def run_docs(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    spec = importlib.util.spec_from_file_location("run_docs", ROOT / "tools" / "run_docs.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "run_docs", module)
    spec.loader.exec_module(module)
    return module


def test_the_tutorial_runs_and_prints_what_it_says(run_docs: ModuleType, tmp_path: Path) -> None:
    text = TUTORIAL.read_text()
    outputs = run_docs.run(run_docs.parse(text), tmp_path, "tutorial")
    # If this is meant to change: python tools/run_docs.py docs/tutorial.md --update
    assert run_docs.with_outputs(text, outputs) == text
    assert {"tutorial.db", "tutorial.png", "tutorial.svg"} <= {p.name for p in tmp_path.iterdir()}


def test_outputs_are_put_behind_their_blocks(run_docs: ModuleType) -> None:
    page = (
        '# T\n\n```python\nprint("a")\n```\n\n```text\nold\n```\n\nwords\n\n```python\nx = 1\n```\n'
    )
    new = run_docs.with_outputs(page, ["a\n", ""])
    assert new == page.replace("old", "a")
    assert run_docs.with_outputs(new, ["a\n", ""]) == new


def test_a_page_whose_code_fails_is_an_error(run_docs: ModuleType, tmp_path: Path) -> None:
    page = run_docs.parse("```python\nraise ValueError('no')\n```\n")
    with pytest.raises(run_docs.RunError, match="ValueError: no"):
        run_docs.run(page, tmp_path, "page")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_and_source_files_that_a_page_names_are_there(page: Path) -> None:
    text = page.read_text()
    links = re.findall(r"\]\(([^)#:]+)\)", text)
    files = re.findall(r"`((?:\w+/)+\w+\.py)(?:: \w+)?`", text)
    package = ROOT / "src" / "loopwright"
    places = [page.parent / link for link in links]
    missing = [str(place) for place in places if not place.exists()]
    missing += [f for f in files if not ((package / f).exists() or (ROOT / f).exists())]
    assert missing == []
