from __future__ import annotations

import json
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


def test_a_fleet_without_devices_says_how_to_add_one(run: Run, fleet: Town) -> None:
    result = run("device", "ls")
    assert (result.code, result.out) == (
        0,
        f"no device has registered at {fleet.url}; add one: loopwright device serve\n",
    )


def test_devices_are_listed_with_what_they_do(run: Run, fleet: Town) -> None:
    fleet.agent("pi", "pi/cpu0", "pi/cpu1")
    lease = fleet.lease("name=pi/cpu0")
    lines = run("device", "ls").out.splitlines()
    assert lines[0].split() == ["NAME", "STATE", "KIND", "LEASE"]
    assert lines[1].split() == ["pi/cpu0", "reserved", "rpi4", lease]
    assert lines[2].split() == ["pi/cpu1", "free", "rpi4", "-"]


def test_the_wide_listing_has_the_four_fields_and_the_labels(run: Run, fleet: Town) -> None:
    fleet.agent(rack="r1")
    lines = run("device", "ls", "-o", "wide").out.splitlines()
    row = dict(zip(lines[0].split(), lines[1].split(), strict=True))
    fields = ("LINK", "HEALTH", "ADMIN", "OCCUPANCY")
    assert [row[field] for field in fields] == ["up", "good", "enabled", "idle"]
    assert row["LABELS"] == "board=rpi4,kind=cpu,rack=r1"


@pytest.mark.parametrize("how", [("rack=r1",), ("-l", "rack=r1"), ("--selector", "rack in (r1)")])
def test_a_selector_picks_devices(run: Run, fleet: Town, how: tuple[str, ...]) -> None:
    fleet.agent("a", rack="r1")
    fleet.agent("b", rack="r2")
    found = json.loads(run("device", "ls", *how, "-o", "json").out)
    assert found["fleet"] == fleet.url
    assert [view["name"] for view in found["devices"]] == ["a/cpu0"]


@pytest.mark.parametrize(
    ("selector", "words"),
    [
        ("bord=rpi4", "no device has a label 'bord'; there are board, kind, name"),
        ("board=rpi5", "no device matches 'board=rpi5'; board is rpi4"),
        ("board=rpi4,name=x", "no device matches 'name=x'; name is pi/cpu0"),
    ],
)
def test_no_device_matches_is_exit_code_3_and_says_what_there_is(
    run: Run, fleet: Town, selector: str, words: str
) -> None:
    fleet.agent()
    result = run("device", "ls", selector, "-o", "json")
    assert result.code == 3
    assert result.err == f"loopwright: {words}\n"
    assert json.loads(result.out)["devices"] == []


def test_terms_that_match_apart_but_not_together_are_told(run: Run, fleet: Town) -> None:
    fleet.agent("a", rack="r1")
    fleet.agent("b", rack="r2")
    result = run("device", "ls", "rack=r1,name=b/cpu0")
    assert result.code == 3
    assert "no device matches all of 'rack=r1,name=b/cpu0'" in result.err


def test_a_selector_that_is_none_is_exit_code_2(run: Run, fleet: Town) -> None:
    result = run("device", "ls", "board=(")
    assert result.code == 2
    assert "character" in result.err
    assert fleet.url not in result.out


def test_a_selector_given_twice_is_exit_code_2(run: Run, fleet: Town) -> None:
    assert fleet.url
    assert run("device", "ls", "a=b", "-l", "a=c").code == 2


def test_all_that_is_known_of_a_device_is_shown(run: Run, fleet: Town) -> None:
    fleet.agent()
    lines = run("device", "show", "pi/cpu0").out.splitlines()
    shown = {line.split()[0]: line.split(maxsplit=1)[1] for line in lines}
    assert shown["state"] == "free"
    assert shown["agent"] == "pi (incarnation boot-1)"
    assert shown["labels"] == "board=rpi4,kind=cpu,name=pi/cpu0"
    assert json.loads(run("device", "show", "pi/cpu0", "-o", "json").out)["target"] == "cpu"


def test_a_device_that_two_agents_have_is_shown_as_flapping(run: Run, fleet: Town) -> None:
    fleet.agent()
    assert "flapping" not in run("device", "show", "pi/cpu0").out
    for number in range(2, 5):
        fleet.agent(incarnation=f"boot-{number}")
    assert "two agents have it; stop one of them" in run("device", "show", "pi/cpu0").out
    assert json.loads(run("device", "ls", "-o", "json").out)["devices"][0]["flapping"] is True


@pytest.mark.parametrize("words", [("show",), ("drain",), ("quarantine", "--reason", "x")])
def test_a_device_that_is_not_known_is_exit_code_3(
    run: Run, fleet: Town, words: tuple[str, ...]
) -> None:
    fleet.agent()
    result = run("device", words[0], "pi/cpu7", *words[1:])
    assert result.code == 3
    assert result.err == "loopwright: no device is named 'pi/cpu7'; see `loopwright device ls`\n"


def test_a_quarantine_keeps_a_device_from_being_lent_and_says_why(run: Run, fleet: Town) -> None:
    fleet.agent()
    assert run("device", "quarantine", "pi/cpu0", "--reason", "the fan is broken").code == 0
    assert "quarantined: the fan is broken" in run("device", "ls").out
    assert run("device", "enable", "pi/cpu0").code == 0
    assert run("device", "ls").out.splitlines()[1].split()[1] == "free"


def test_a_quarantine_without_a_reason_is_exit_code_2(run: Run, fleet: Town) -> None:
    fleet.agent()
    assert run("device", "quarantine", "pi/cpu0").code == 2


def test_a_device_that_drains_ends_its_lease_first(run: Run, fleet: Town) -> None:
    fleet.agent()
    fleet.lease()
    assert "draining" in run("device", "drain", "pi/cpu0").out
    assert run("device", "ls").out.splitlines()[1].split("  ")[1].strip() == (
        "reserved, then drain"
    )


def test_a_probe_is_ordered(run: Run, fleet: Town) -> None:
    agent = fleet.agent()
    assert run("device", "probe", "pi/cpu0", "-o", "json").code == 0
    fleet.wait(lambda: any(order.probe for order in agent.orders.values()))


def test_the_command_of_serving_names_the_tracker_of_the_settings() -> None:
    from pathlib import Path

    from loopwright.cli.fleet.launch import agent_command
    from loopwright.settings import Settings

    settings = Settings(Path("/c"), "sqlite://", tracker="tls://lab:7070", ca=Path("/ca.crt"))
    command = agent_command(["--label", "board=rpi4"], settings)
    assert command[1:4] == ["-P", "-m", "loopwright.fleet.agent"]
    assert command[4:] == (
        ["--label", "board=rpi4", "--tracker", "tls://lab:7070", "--ca", "/ca.crt"]
    )
    assert agent_command(["--tracker=tcp://x:1"], settings)[4:] == (
        ["--tracker=tcp://x:1", "--ca", "/ca.crt"]
    )
    assert agent_command(["--help"], settings)[4:] == ["--help"]
