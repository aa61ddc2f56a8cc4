"""The commands and options that the pages about fleets name are there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import typer

from loopwright.cli.main import application
from loopwright.fleet.agent.main import parser

DOCS = Path(__file__).resolve().parent.parent.parent / "docs"
PAGES = ("fleet.md", "runbook.md")
GROUPS = ("tracker", "device", "lease", "token", "join", "agent", "ca")
SHELL = re.compile(r"^    loopwright ([^#\n]+?)(?:#.*)?$", re.MULTILINE)


def named() -> list[tuple[str, list[str]]]:
    """Page and words of each command line that stands in a block."""
    return [
        (page, line.split()) for page in PAGES for line in SHELL.findall((DOCS / page).read_text())
    ]


@pytest.mark.parametrize(("page", "words"), named(), ids=lambda value: str(value)[:40])
def test_a_command_of_the_pages_is_there_with_its_options(page: str, words: list[str]) -> None:
    del page
    command = typer.main.get_command(application())
    depth = 2 if words[0] in GROUPS else 1
    for word in words[:depth]:
        found = getattr(command, "commands", {})
        assert word in found
        command = found[word]
    if words[:2] == ["device", "serve"]:
        known = {option for action in parser()._actions for option in action.option_strings}
    else:
        known = {option for parameter in command.params for option in parameter.opts}
    assert {word for word in words if word.startswith("--")} <= known


def test_the_pages_name_each_command_in_a_table_or_block() -> None:
    text = "".join((DOCS / page).read_text() for page in PAGES)
    command = typer.main.get_command(application())
    for group in GROUPS:
        for name in getattr(command, "commands", {})[group].commands:
            assert re.search(rf"{group}[ `][\w\\|` ]*{name}\b", text), f"{group} {name}"
