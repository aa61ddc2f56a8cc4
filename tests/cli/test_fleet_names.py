"""Names that are none: empty ones, and text that can name nothing."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest
from fleet_site import Town, town

if TYPE_CHECKING:
    from conftest import Run


@pytest.fixture
def fleet(monkeypatch: pytest.MonkeyPatch) -> Iterator[Town]:
    with town() as made:
        monkeypatch.setenv("LOOPWRIGHT_TRACKER", made.url)
        yield made


@pytest.mark.parametrize("words", [("show",), ("drain",), ("quarantine", "--reason", "x")])
def test_a_device_without_a_name_is_exit_code_2(
    run: Run, fleet: Town, words: tuple[str, ...]
) -> None:
    fleet.agent()
    result = run("device", words[0], "", *words[1:])
    assert (result.code, result.out) == (2, "")
    assert result.err.startswith("loopwright: which device? Give its name")
    assert run("device", "ls").out.splitlines()[1].split()[1] == "free"


@pytest.mark.parametrize("name", ["a b", "../x", "x" * 129])
def test_what_cannot_be_a_name_is_exit_code_2_at_once(run: Run, fleet: Town, name: str) -> None:
    fleet.agent()
    for words in (("device", "show"), ("lease", "show"), ("lease", "explain")):
        result = run(*words, name)
        assert (result.code, result.out) == (2, "")
        assert result.err.startswith(f"loopwright: name {name[:40]!r}"[:50])
        assert "characters at most" in result.err or "at most 128 characters" in result.err
        assert len(result.err.splitlines()) == 1


def test_a_lease_without_a_name_is_exit_code_2(run: Run, fleet: Town) -> None:
    fleet.agent()
    fleet.lease()
    result = run("lease", "show", "")
    assert (result.code, result.out) == (2, "")
    assert result.err.startswith("loopwright: which lease or request? Give its id")


@pytest.mark.parametrize(
    "words",
    [
        ("token", "issue", "a b"),
        ("token", "issue", "ann", "--tenant", "x y"),
        ("join", "issue", "--agent", "a b"),
        ("join", "issue", "--label", "a b=c"),
    ],
)
def test_what_cannot_be_a_name_in_a_command_is_exit_code_2_and_no_attack(
    run: Run, fleet: Town, words: tuple[str, ...]
) -> None:
    before = fleet.here.tracker.link_tally.total
    result = run(*words)
    assert (result.code, result.out) == (2, "")
    assert " cannot name " in result.err
    assert fleet.here.tracker.link_tally.total == before
