from __future__ import annotations

import datetime
import importlib
import os
import ssl
import stat
import sys
from pathlib import Path

import pytest
from fleet_links import LOOPBACK, run, served

from loopwright.errors import AuthError, ConfigError, FleetError
from loopwright.fleet.wire.faults import Denied, Fault
from loopwright.fleet.wire.link import Link, dial
from loopwright.fleet.wire.listener import Listener, ListenLimits
from loopwright.fleet.wire.messages import Ping, Pong
from loopwright.serving import tls

pytest.importorskip("cryptography", reason="the extra [tls] is not installed")
from loopwright.fleet.security import authority  # it needs the extra

NOW = datetime.datetime.now(datetime.UTC)  # OpenSSL asks the machine's clock, so must the test
TLS = LOOPBACK.replace("tcp", "tls")


async def pong(link: Link) -> None:
    message = await link.receive()
    assert isinstance(message, Ping)
    link.established()
    link.send(Pong(message.seq))
    await link.wait_closed()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("ca")
    authority.init(made, NOW)
    authority.issue_server(made, ["127.0.0.1", "localhost"], NOW)
    authority.issue_server(made, ["elsewhere.example"], NOW, file="elsewhere")
    authority.issue_client(made, "ada", NOW)
    return made


def test_messages_cross_tls_and_both_ends_know_it(folder: Path) -> None:
    async def work() -> None:
        context = tls.server_context(folder)
        trust = tls.client_context(folder)
        async with served(pong, TLS, tls=context, trust=trust) as (_, link):
            assert link.peer.tls
            assert link._transport is not None
            assert link._transport.get_extra_info("ssl_object").version() == "TLSv1.3"
            link.send(Ping(4))
            assert await link.receive(5) == Pong(4)

    run(work())


def test_a_link_over_tls_may_be_closed_again(folder: Path) -> None:
    whys: list[str] = []

    async def twice(link: Link) -> None:
        await link.receive()
        link.close("once")
        link.close("again")
        await link.wait_closed()
        whys.append(link.why)

    async def work() -> None:
        context = tls.server_context(folder)
        trust = tls.client_context(folder)
        async with served(twice, TLS, tls=context, trust=trust) as (_, link):
            link.send(Ping(1))
            link.close()
            link.close()
            await link.wait_closed()

    run(work())
    assert whys == ["once"]


@pytest.mark.parametrize("name", ["ada", ""])
def test_a_client_is_known_by_the_name_in_its_certificate_if_it_has_one(
    folder: Path, name: str
) -> None:
    names: list[str] = []

    async def note(link: Link) -> None:
        names.append(link.peer.certificate)
        await pong(link)

    async def work() -> None:
        context = tls.server_context(folder, clients=folder / "ca.crt")
        own = tls.files_of(folder, name) if name else None
        trust = tls.client_context(folder, own)
        async with served(note, TLS, tls=context, trust=trust) as (_, link):
            link.send(Ping(4))
            assert await link.receive(5) == Pong(4)

    run(work())
    assert names == [name]


@pytest.mark.parametrize("whose", ["another authority's", "a server's"])
def test_a_certificate_that_is_no_clients_is_refused(
    folder: Path, tmp_path: Path, whose: str
) -> None:
    own = tls.files_of(folder, "server")
    if whose != "a server's":
        authority.init(tmp_path, NOW)
        own = authority.issue_client(tmp_path, "ada", NOW)

    async def work() -> None:
        context = tls.server_context(folder, clients=folder / "ca.crt")
        async with Listener(TLS, pong, tls=context) as listener:
            link = await dial(listener.addresses[0], tls=tls.client_context(folder, own))
            with pytest.raises(FleetError):  # TLS 1.3 tells the client only after its first bytes
                await link.receive(5)
            await link.wait_closed()
            assert listener.tally.of(Fault.TLS) == 1

    run(work())


def test_a_server_of_another_authority_is_refused(folder: Path, tmp_path: Path) -> None:
    authority.init(tmp_path, NOW)

    async def work() -> None:
        context = tls.server_context(folder)
        async with Listener(TLS, pong, tls=context) as listener:
            with pytest.raises(AuthError, match="TLS failed"):
                await dial(listener.addresses[0], tls=tls.client_context(tmp_path))

    run(work())


def test_a_server_with_another_name_is_refused(folder: Path) -> None:
    async def work() -> None:
        context = tls.server_context(folder, file="elsewhere")
        async with Listener(TLS, pong, tls=context) as listener:
            with pytest.raises(AuthError, match="TLS failed"):
                await dial(listener.addresses[0], tls=tls.client_context(folder))

    run(work())


def test_a_certificate_that_has_expired_is_refused(folder: Path) -> None:
    long_ago = NOW - datetime.timedelta(days=1000)
    authority.issue_server(folder, ["127.0.0.1"], long_ago, file="old")

    async def work() -> None:
        context = tls.server_context(folder, file="old")
        async with Listener(TLS, pong, tls=context) as listener:
            with pytest.raises(AuthError, match="expired"):
                await dial(listener.addresses[0], tls=tls.client_context(folder))

    run(work())


def test_tls_of_an_older_version_is_refused(folder: Path) -> None:
    context = tls.client_context(folder)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.maximum_version = ssl.TLSVersion.TLSv1_2

    async def work() -> None:
        async with Listener(TLS, pong, tls=tls.server_context(folder)) as listener:
            with pytest.raises(FleetError, match=r"TLS"):
                await dial(listener.addresses[0], tls=context)
            assert listener.tally.of(Fault.TLS) == 1

    run(work())


def test_a_client_that_never_finishes_its_tls_handshake_is_closed(folder: Path) -> None:
    limits = ListenLimits(handshake_s=0.15)

    async def work() -> None:
        async with Listener(TLS, pong, tls=tls.server_context(folder), limits=limits) as one:
            plain = await dial(one.addresses[0].replace("tls", "tcp"))
            await plain.wait_closed()
            assert one.half_open == 0
            assert one.tally.total == 1

    run(work())


def test_dialling_tls_where_nobody_answers_gives_up(folder: Path) -> None:
    async def silent(link: Link) -> None:
        await link.wait_closed()

    async def work() -> None:
        async with Listener(LOOPBACK, silent) as listener:
            where = listener.addresses[0].replace("tcp", "tls")
            with pytest.raises(FleetError, match="did not answer") as caught:
                await dial(where, tls=tls.client_context(folder), timeout_s=0.1)
            assert caught.value.retryable

    run(work())


def test_private_keys_are_the_owners_alone(folder: Path) -> None:
    keys = [path for path in folder.iterdir() if path.suffix == ".key"]
    assert len(keys) >= 4
    assert {stat.S_IMODE(path.stat().st_mode) for path in keys} == {0o600}


def test_the_folder_of_an_authority_is_made_for_its_owner_alone(tmp_path: Path) -> None:
    authority.init(tmp_path / "new", NOW)
    assert stat.S_IMODE((tmp_path / "new").stat().st_mode) == 0o700


def test_a_key_that_others_may_read_is_refused(tmp_path: Path) -> None:
    authority.init(tmp_path, NOW)
    made = authority.issue_server(tmp_path, ["lab"], NOW)
    made.key.chmod(0o644)
    with pytest.raises(ConfigError, match="chmod 600"):
        tls.server_context(tmp_path)


def test_an_authority_is_never_overwritten(tmp_path: Path) -> None:
    made = authority.init(tmp_path, NOW)
    before = made.key.read_bytes()
    with pytest.raises(ConfigError, match="is there already"):
        authority.init(tmp_path, NOW)
    assert made.key.read_bytes() == before


def test_a_new_server_certificate_replaces_the_old(tmp_path: Path) -> None:
    authority.init(tmp_path, NOW)
    before = authority.issue_server(tmp_path, ["lab"], NOW).certificate.read_bytes()
    assert authority.issue_server(tmp_path, ["lab"], NOW).certificate.read_bytes() != before


@pytest.mark.parametrize("name", ["../x", "/etc/x", "a/b", "ca", "", ".hidden", "x\0y"])
def test_a_certificate_never_leaves_its_folder(folder: Path, name: str) -> None:
    with pytest.raises((ConfigError, Denied)):
        authority.issue_client(folder, name, NOW)


@pytest.mark.parametrize("names", [[], ["not a host"], ["bücher.example"]])
def test_a_server_needs_names_that_are_hosts(folder: Path, names: list[str]) -> None:
    with pytest.raises((ConfigError, Denied)):
        authority.issue_server(folder, names, NOW, file="odd")


def test_a_folder_without_an_authority_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="loopwright ca init"):
        authority.issue_client(tmp_path, "ada", NOW)
    with pytest.raises(ConfigError, match="loopwright ca issue"):
        tls.server_context(tmp_path)
    with pytest.raises(ConfigError, match="not the certificate of an authority"):
        tls.client_context(tmp_path)


def test_a_folder_that_cannot_be_made_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="cannot be made"):
        authority.init(tmp_path / "file" / "ca", NOW)
    assert os.listdir(tmp_path) == ["file"]  # noqa: PTH208  # names, not paths


def test_without_the_extra_making_certificates_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "cryptography", None)
    monkeypatch.delitem(sys.modules, "loopwright.fleet.security.authority")
    with pytest.raises(ConfigError, match=r"loopwright\[tls\]"):
        importlib.import_module("loopwright.fleet.security.authority")
