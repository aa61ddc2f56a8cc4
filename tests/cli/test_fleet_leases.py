from __future__ import annotations

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING

import msgspec
import pytest
from fleet_site import Town, town

from loopwright.cli.fleet.text import lease_left
from loopwright.fleet.views import LeaseView

if TYPE_CHECKING:
    from conftest import Run

DAY_S = 86_400.0


@pytest.fixture
def fleet(monkeypatch: pytest.MonkeyPatch) -> Iterator[Town]:
    with town() as made:
        monkeypatch.setenv("LOOPWRIGHT_TRACKER", made.url)
        yield made


def test_leases_are_listed_before_requests_that_wait(run: Run, fleet: Town) -> None:
    assert run("lease", "ls").out == "no device is leased, and nobody waits\n"
    fleet.agent()
    lease = fleet.lease(tags={"wl": "conv2d"})
    request = fleet.want()
    lines = run("lease", "ls").out.splitlines()
    assert lines[1].split()[:5] == [lease, "granted", "pi/cpu0", "local", "wl=conv2d"]
    assert lines[2].split()[:4] == [request, "queued", "board=rpi4", "local"]
    found = json.loads(run("lease", "ls", "-o", "json").out)["leases"]
    assert {view["id"] for view in found} == {lease, request}


def test_a_lease_is_shown_with_its_epoch_and_holder(run: Run, fleet: Town) -> None:
    fleet.agent()
    lease = fleet.lease(priority=2)
    lines = run("lease", "show", lease).out.splitlines()
    shown = {line.split()[0]: line.split(maxsplit=1)[1] for line in lines}
    assert (shown["device"], shown["epoch"], shown["priority"]) == ("pi/cpu0", "1", "interactive")


def test_explain_says_why_a_request_waits(run: Run, fleet: Town) -> None:
    fleet.agent("pi", "pi/cpu0", "pi/cpu1")
    assert run("device", "quarantine", "pi/cpu1", "--reason", "canary +11 %").code == 0
    fleet.lease()
    text = run("lease", "explain", fleet.want()).out
    assert "2 match, 1 leased and free in <= " in text
    assert "1 quarantined: canary +11 %" in text


def test_explain_says_how_many_are_ahead(run: Run, fleet: Town) -> None:
    fleet.agent()
    fleet.lease()
    fleet.want()
    assert run("lease", "explain", fleet.want()).out.endswith(", 1 ahead of it\n")


def test_explain_says_why_a_lease_ended(run: Run, fleet: Town) -> None:
    fleet.agent()
    lease = fleet.lease()
    assert run("lease", "revoke", lease, "--reason", "needed elsewhere").code == 0
    text = run("lease", "explain", lease).out
    assert text.startswith("ended: revoked")
    assert "needed elsewhere" in text


def test_an_operator_takes_the_board_from_its_holder_and_from_all_others(
    run: Run, fleet: Town
) -> None:
    fleet.agent()
    lease, waits = fleet.lease(), fleet.want()
    result = run("lease", "revoke", lease, "--drain", "--reason", "to solder")
    assert result.out == (
        f"{lease}: revoked; pi/cpu0 is drained: `loopwright device enable pi/cpu0` lends it again\n"
    )
    assert "draining: to solder" in run("device", "ls").out
    assert "1 draining: to solder" in run("lease", "explain", waits).out
    refused = run("lease", "revoke", waits, "--drain")
    assert (refused.code, "has none that could be drained" in refused.err) == (2, True)


def test_a_lease_whose_holder_is_away_is_marked() -> None:
    view = LeaseView(id="l1", state="active", device="pi/cpu0", age_s=60.0, expires_s=20.0)
    assert lease_left(view) == "1m00s old, 20s left"
    away = msgspec.structs.replace(view, away_s=2.0)
    assert lease_left(away) == "1m00s old, 20s left, holder away"


@pytest.mark.parametrize("what", ["explain", "show", "revoke"])
def test_a_lease_that_is_not_known_is_exit_code_2(run: Run, fleet: Town, what: str) -> None:
    assert fleet.url
    result = run("lease", what, "l9.9")
    assert result.code == 2
    assert result.err.startswith("loopwright: no lease or request 'l9.9' ")
    assert len(result.err.splitlines()) == 1


def test_explain_tells_devices_that_will_not_be_free_when_their_leases_end(
    run: Run, fleet: Town
) -> None:
    fleet.agent()
    fleet.lease()
    assert run("device", "drain", "pi/cpu0", "--reason", "new fan").code == 0
    text = run("lease", "explain", fleet.want()).out
    assert "is queued: 1 matches, 1 leased, then draining: new fan\n" in text


def test_the_clock_of_the_wall_has_no_say_in_leases(run: Run, fleet: Town) -> None:
    fleet.agent()
    lease = fleet.lease()
    for jump in (DAY_S, -2 * DAY_S):
        fleet.wall.now += jump
        (view,) = json.loads(run("lease", "ls", "-o", "json").out)["leases"]
        assert (view["id"], view["state"]) == (lease, "granted")
        assert 0 < view["expires_s"] <= 40


def test_the_audit_has_what_was_done_by_whom_within_the_time(run: Run, fleet: Town) -> None:
    import time

    fleet.wall.now = time.time() - 2 * 3600
    fleet.agent()
    assert run("device", "drain", "pi/cpu0", "--reason", "before").code == 0
    fleet.wall.now = time.time() - 60
    assert run("device", "enable", "pi/cpu0", "--reason", "after").code == 0
    lines = run("audit", "--since", "1h").out.splitlines()
    assert any("device.enable pi/cpu0 by uid-" in line and "after" in line for line in lines)
    assert not any("device.drain" in line for line in lines)
    assert "device.drain" in run("audit", "--since", "1d").out
    found = json.loads(run("audit", "--since", "3h", "--of", "pi/cpu0", "-o", "json").out)
    assert {event["subject"] for event in found["events"]} == {"pi/cpu0"}
