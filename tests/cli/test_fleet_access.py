from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from fleet_site import Town, town
from fleet_tracker import WALL

from loopwright.errors import NoDeviceError
from loopwright.fleet.client.api import connect

if TYPE_CHECKING:
    from conftest import Run

DAY_S = 86_400.0


@pytest.fixture
def fleet(monkeypatch: pytest.MonkeyPatch) -> Iterator[Town]:
    with town() as made:
        monkeypatch.setenv("LOOPWRIGHT_TRACKER", made.url)
        yield made


def test_a_token_is_all_there_is_on_standard_output(run: Run, fleet: Town) -> None:
    result = run("token", "issue", "ann", "--role", "viewer", "--ttl", "30d")
    token = result.out.strip()
    assert token.startswith("lwt_")
    assert "ann, viewer" in result.err
    assert token not in result.err
    assert run("device", "ls", "--fleet", fleet.tcp, "--token", token).code == 0


def test_a_listing_of_tokens_has_no_secret(run: Run, fleet: Town) -> None:
    token = fleet.token("ann", "operator")
    listing = run("token", "ls")
    assert token.split("_")[1] in listing.out
    assert token.split("_")[2] not in listing.out + run("token", "ls", "-o", "json").out
    assert listing.out.splitlines()[1].split()[1:4] == ["ann", "ann", "operator"]


def test_a_token_for_pools_sees_all_and_leases_only_theirs(run: Run, fleet: Town) -> None:
    fleet.agent("a", pool="lab")
    fleet.agent("b", pool="attic")
    result = run("token", "issue", "ci", "--scope", "lab", "--scope", "roof")
    assert "ci, user, pool lab,roof, until" in result.err
    assert run("token", "ls").out.splitlines()[1].split()[1:5] == ["ci", "ci", "user", "lab,roof"]
    with connect(fleet.tcp, token=result.out.strip()) as client:
        assert len(client.devices()) == 2
        with client.lease() as lease:
            assert lease.devices[0].name == "a/cpu0"
        with pytest.raises(NoDeviceError):
            client.lease("pool=attic")


def test_a_token_that_was_revoked_comes_in_no_more(run: Run, fleet: Town) -> None:
    token = fleet.token()
    assert run("token", "revoke", token.split("_")[1]).code == 0
    result = run("device", "ls", "--fleet", fleet.tcp, "--token", token)
    assert (result.code, result.out) == (6, "")
    assert "was revoked; ask for a new one" in result.err


def test_a_token_that_has_expired_says_so_whatever_the_clock_did(run: Run, fleet: Town) -> None:
    token = fleet.token(ttl_s="3600")
    fleet.wall.now = WALL + DAY_S
    result = run("device", "ls", "--fleet", fleet.tcp, "--token", token)
    assert result.code == 6
    assert "has expired; ask for a new one" in result.err
    fleet.wall.now = WALL - DAY_S
    assert run("device", "ls", "--fleet", fleet.tcp, "--token", token).code == 0


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda token: token[:-1] + ("a" if token[-1] != "a" else "b"), "has a typo"),
        (lambda _: "password", "that is not a token: it must begin with lwt_"),
        (lambda _: "", "a token is needed here; give it with --token"),
    ],
)
def test_a_wrong_token_is_exit_code_6_on_one_line(
    run: Run, fleet: Town, change: object, words: str
) -> None:
    assert callable(change)
    given = change(fleet.token())
    result = run("tracker", "status", "--fleet", fleet.tcp, "--token", given)
    assert result.code == 6
    assert words in result.err
    assert len(result.err.splitlines()) == 1
    assert result.err.count(fleet.tcp) == 1


def test_what_a_role_may_not_do_is_exit_code_6_and_in_the_audit(run: Run, fleet: Town) -> None:
    fleet.agent()
    viewer = ("--fleet", fleet.tcp, "--token", fleet.token("eve", "viewer"))
    result = run("device", "drain", "pi/cpu0", *viewer)
    assert result.code == 6
    assert result.err == ("loopwright: device.drain needs the role operator, eve has viewer\n")
    assert run("token", "issue", "mallory", "--role", "admin", *viewer).code == 6
    log = run("audit", "--since", "3650d").out
    assert "device.drain.refused pi/cpu0 by eve" in log
    assert "token.issue.refused mallory by eve" in log


@pytest.mark.parametrize("what", ["token", "agent"])
def test_what_nobody_knows_cannot_be_revoked_and_is_exit_code_2(
    run: Run, fleet: Town, what: str
) -> None:
    assert fleet.url
    result = run(what, "revoke", "nobody")
    assert (result.code, result.out) == (2, "")
    assert result.err.startswith(f"loopwright: no {what} ")
    assert f"see `{what} ls`" in result.err


@pytest.mark.parametrize("ttl", ["soon", "-1d", "99999d"])
def test_a_ttl_that_is_none_is_exit_code_2(run: Run, fleet: Town, ttl: str) -> None:
    assert fleet.url
    assert run("token", "issue", "ann", "--ttl", ttl).code == 2


def test_a_token_may_be_for_ever(run: Run, fleet: Town) -> None:
    assert fleet.url
    found = json.loads(run("token", "issue", "ann", "--ttl", "never", "-o", "json").out)
    assert found["expires"] is None


def test_a_role_that_is_none_is_exit_code_2(run: Run, fleet: Town) -> None:
    assert fleet.url
    result = run("token", "issue", "ann", "--role", "king")
    assert result.code == 2
    assert "there are viewer, user, operator, admin" in result.err


def test_a_join_code_is_shown_with_the_command_that_uses_it(run: Run, fleet: Town) -> None:
    result = run("join", "issue", "--agent", "pi3", "--label", "rack=r1", "--label", "room=2")
    assert result.out.startswith("lwj_")
    assert f"loopwright device serve --tracker {fleet.url} --name pi3 --join CODE" in result.err
    listing = json.loads(run("join", "ls", "-o", "json").out)["codes"]
    assert listing[0]["labels"] == {"rack": "r1", "room": "2"}
    assert run("join", "ls").out.splitlines()[1].split()[1] == "pi3"


def test_agents_are_listed_and_revoked(run: Run, fleet: Town) -> None:
    agent = fleet.agent()
    assert run("agent", "ls").out.splitlines()[1].split() == ["pi", "connected", "1"]
    assert run("agent", "revoke", "pi").code == 0
    fleet.wait(lambda: bool(agent.closed))
    assert run("agent", "ls").out.splitlines()[1].split()[:2] == ["pi", "revoked"]


# --- certificates ---


def test_an_authority_and_a_server_are_made_in_one_command(run: Run, tmp_path: Path) -> None:
    result = run("ca", "init", "ca", "--name", "lab.example", "--name", "127.0.0.1")
    assert result.code == 0
    made = {path.name: path.stat().st_mode & 0o777 for path in (tmp_path / "ca").iterdir()}
    assert made == {"ca.crt": 0o644, "ca.key": 0o600, "server.crt": 0o644, "server.key": 0o600}
    assert "--listen tls://0.0.0.0:7070 --tls-dir ca" in result.out
    again = run("ca", "init", "ca")
    assert again.code == 2
    assert "is there already" in again.err


def test_a_client_gets_a_certificate_of_its_own(run: Run, tmp_path: Path) -> None:
    assert run("ca", "init", "ca").code == 0
    found = json.loads(run("ca", "issue", "ca", "ann", "--client", "-o", "json").out)
    assert found == {"certificate": "ca/ann.crt", "key": "ca/ann.key"}
    assert (tmp_path / "ca" / "ann.key").is_file()
    again = run("ca", "issue", "ca", "ann", "--client").out
    assert "LOOPWRIGHT_CERT=ca/ann.crt takes the place of a token of ann" in again
    assert run("ca", "issue", "ca", "ann", "bob", "--client").code == 2
    assert run("ca", "issue", "nowhere", "host").code == 2


def test_a_builders_secret_key_stays_in_its_file(run: Run, tmp_path: Path) -> None:
    pytest.importorskip("cryptography")
    from loopwright.fleet.security.signing import load_builder, read_public

    result = run("ca", "builder", "ann")
    secret = tmp_path / "ann.builder"
    assert secret.stat().st_mode & 0o777 == 0o600
    assert load_builder(secret).public == read_public(result.out)
    assert "tune with --sign ann.builder" in result.err
    assert "--signed-only --builder KEY" in result.err
    assert secret.read_text().strip() not in result.out + result.err
    again = run("ca", "builder", "ann")
    assert (again.code, again.out) == (2, "")
    assert "ann.builder is there already" in again.err
    assert load_builder(secret).public == read_public(result.out)
