"""Clients that come with a certificate: who they are to the tracker, and for how long."""

from __future__ import annotations

import datetime
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from fleet_tracker import Client, Site, run, site, until

from loopwright.errors import AuthError
from loopwright.fleet.security.handshake import ByCertificate, greet
from loopwright.fleet.wire.link import dial
from loopwright.fleet.wire.listener import Listener
from loopwright.fleet.wire.messages import Command, Done, Error
from loopwright.fleet.words import Role
from loopwright.serving import tls

pytest.importorskip("cryptography", reason="the extra [tls] is not installed")
from loopwright.fleet.security import authority  # it needs the extra

NOW = datetime.datetime.now(datetime.UTC)  # OpenSSL asks the machine's clock, so must the test
TLS = "tls://127.0.0.1:0"
HOUR_S = 3600.0


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("ca")
    authority.init(made, NOW)
    authority.issue_server(made, ["127.0.0.1"], NOW)
    authority.issue_client(made, "ada", NOW)
    return made


@asynccontextmanager
async def trusting(folder: Path, *, clients: bool = True) -> AsyncIterator[tuple[Site, str]]:
    """A tracker, and where it listens for those with certificates."""
    context = tls.server_context(folder, clients=folder / "ca.crt" if clients else None)
    async with site() as here:
        tally = here.tracker.link_tally
        async with Listener(TLS, here.tracker.serve, tls=context, tally=tally) as listener:
            yield here, listener.addresses[0]


async def come(folder: Path, address: str) -> Client:
    """Ada, with her certificate."""
    own = tls.files_of(folder, "ada")
    link = await dial(address, tls=tls.client_context(folder, own))
    try:
        return Client(link, await greet(link, "client", ByCertificate()))
    except AuthError:
        link.abort()
        raise


def test_a_certificate_gives_the_least_of_what_the_tokens_of_its_name_allow(folder: Path) -> None:
    async def work() -> None:
        async with trusting(folder) as (here, address):
            owner = await here.client()
            await here.agent("lab", ("lab/cpu0",), labels={"pool": "lab"})
            await here.agent("pi", ("pi/cpu0",), labels={"pool": "attic"})
            await here.free(2)
            for more in ({"role": "operator"}, {"scopes": "lab", "tenant": "t"}, {}):
                await owner.command("token.issue", name="ada", **more)
            await owner.command("token.issue", name="bob", role="viewer")
            ada = await come(folder, address)
            assert (ada.welcome.principal, ada.welcome.role) == ("ada", int(Role.USER))
            assert (await ada.acquire("")).device.name == "lab/cpu0"
            assert [lease.tenant for lease in here.tracker.book.leases()] == ["t"]

    run(work())


def test_a_certificate_counts_as_long_as_a_token_of_its_name_does(folder: Path) -> None:
    async def work() -> None:
        async with trusting(folder) as (here, address):
            owner = await here.client()
            with pytest.raises(AuthError, match="names 'ada', who has no valid token here"):
                await come(folder, address)
            made = await owner.command("token.issue", name="ada")
            ada = await come(folder, address)
            assert (await owner.command("token.revoke", id=made["id"]))["closed"] == 1
            await ada.link.wait_closed()
            with pytest.raises(AuthError, match="who has no valid token here"):
                await come(folder, address)
            await owner.command("token.issue", name="ada", ttl_s=str(HOUR_S))
            (await come(folder, address)).link.close()
            here.wall.now += HOUR_S
            with pytest.raises(AuthError, match="who has no valid token here"):
                await come(folder, address)
            assert here.tracker.link_tally.figures() == {"unknown-token": 3}

    run(work())


def test_a_tracker_that_asks_for_no_certificates_says_so(folder: Path) -> None:
    async def work() -> None:
        async with trusting(folder, clients=False) as (here, address):
            owner = await here.client()
            await owner.command("token.issue", name="ada")
            with pytest.raises(AuthError, match=r"no certificate was asked for .*--client-ca"):
                await come(folder, address)

    run(work())


def test_a_certificate_makes_nobody_an_agent(folder: Path) -> None:
    async def work() -> None:
        async with trusting(folder) as (here, address):
            await (await here.client()).command("token.issue", name="ada")
            own = tls.files_of(folder, "ada")
            link = await dial(address, tls=tls.client_context(folder, own))
            with pytest.raises(AuthError, match="cannot name an agent"):
                await greet(link, "agent", ByCertificate())
            link.abort()
            assert here.tracker.agents == {}

    run(work())


def test_a_certificate_is_held_to_the_role_that_it_has(folder: Path) -> None:
    async def work() -> None:
        async with trusting(folder) as (here, address):
            owner = await here.client()
            made = await owner.command("token.issue", name="ada", role="viewer")
            ada = await come(folder, address)
            ada.link.send(Command(1, "token.ls"))
            assert (await ada.hear(Error)).code == "auth"
            await owner.command("token.issue", name="ada", role="admin")
            await owner.command("token.revoke", id=made["id"])
            await until(lambda: ada.link.closed)
            again = await come(folder, address)
            again.link.send(Command(1, "token.ls"))
            assert await again.hear(Done)

    run(work())
