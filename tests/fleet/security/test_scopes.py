"""Attacks on a tracker with a token that is for one pool of devices only."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from fleet_tracker import Client, Site, run, site

from loopwright.fleet.security.handshake import ByToken
from loopwright.fleet.wire.messages import Acquire, Command, Done, Error, Refused

OURS, THEIRS = "lab/cpu0", "attic/cpu0"


@asynccontextmanager
async def scoped(role: str) -> AsyncIterator[tuple[Site, Client]]:
    """A tracker with a device in each of two pools, and a client whose token is for `lab`."""
    async with site() as here:
        for pool, device in (("lab", OURS), ("attic", THEIRS)):
            await here.agent(pool, (device,), labels={"pool": pool})
        await here.free(2)
        owner = await here.client()
        made = await owner.command("token.issue", name="ci", role=role, scopes="lab")
        yield here, await here.client(ByToken(str(made["token"])))
        owner.link.close()


@pytest.mark.parametrize(
    "selector",
    [
        "",
        "pool=attic",
        "pool in (attic,lab)",
        "!pool",
        "pool!=lab",
        f"name={THEIRS}",
        f"name in ({THEIRS},{OURS})",
    ],
)
def test_no_selector_leases_a_device_of_another_pool(selector: str) -> None:
    async def work() -> None:
        async with scoped("user") as (here, client):
            for name in ("r1", "r2"):  # the second when ours is leased
                client.link.send(Acquire(request=name, selector=selector, max_wait_ms=0))
                answer = await client.link.receive(5)
                if not isinstance(answer, Refused):
                    (grant,) = answer.grants  # type: ignore[union-attr]  # a Granted
                    assert grant.device.name == OURS
            assert [lease.device for lease in here.tracker.book.leases()] in ([], [OURS])

    run(work())


@pytest.mark.parametrize(
    ("what", "arguments"),
    [
        ("device.drain", {"device": THEIRS}),
        ("device.quarantine", {"device": THEIRS, "why": "x"}),
        ("device.retire", {"device": THEIRS}),
        ("device.probe", {"device": THEIRS}),
        ("lease.revoke", {"lease": "theirs"}),
    ],
)
def test_a_command_about_another_pool_is_refused_and_counted(
    what: str, arguments: dict[str, str]
) -> None:
    async def work() -> None:
        async with scoped("operator") as (here, client):
            holder = await here.client()
            held = await holder.acquire(f"name={THEIRS}")
            if "lease" in arguments:
                arguments["lease"] = held.lease
            client.link.send(Command(1, what, arguments))
            refused = await client.hear(Error)
            assert refused.code == "auth"
            said = f"{THEIRS} is outside of what ci may use: pool lab"
            assert refused.detail == said
            assert here.tracker.link_tally.figures() == {"wrong-scope": 1}
            assert here.tracker.book.lease(held.lease) is not None
            client.link.send(Command(2, "device.drain", {"device": OURS}))
            assert (await client.hear(Done)).id == 2

    run(work())


@pytest.mark.parametrize("scopes", ["a b", "lab), name in (x", ",".join(map(str, range(17)))])
def test_scopes_that_are_none_are_refused(scopes: str) -> None:
    async def work() -> str:
        async with site() as here:
            owner = await here.client()
            owner.link.send(Command(1, "token.issue", {"name": "ci", "scopes": scopes}))
            return (await owner.hear(Error)).code

    assert run(work()) == "bad-request"


def test_an_admin_cannot_be_limited_to_a_pool() -> None:
    async def work() -> str:
        async with site() as here:
            owner = await here.client()
            arguments = {"name": "ci", "scopes": "lab", "role": "admin"}
            owner.link.send(Command(1, "token.issue", arguments))
            return (await owner.hear(Error)).detail

    assert "one with scopes limits nothing" in run(work())
