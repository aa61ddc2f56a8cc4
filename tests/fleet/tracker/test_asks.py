"""Questions and commands: what people are told of the fleet, and what they change."""

from __future__ import annotations

from typing import Any

import pytest
from fleet_tracker import Client, Site, info, run, site, until

from loopwright.fleet.security.handshake import ByToken
from loopwright.fleet.store.memory import MemoryRows
from loopwright.fleet.wire.messages import Acquire, Ask, Command, Error, Queued, Register, Released
from loopwright.fleet.words import Admin


async def three(here: Site) -> Client:
    await here.agent("pi", ("pi/cpu0", "pi/cpu1"))
    await here.agent("zed", ("zed/cpu0",), labels={"board": "zynq"})
    client = await here.client()
    await here.free(3)
    return client


def test_devices_are_listed_by_selector_in_order_of_name() -> None:
    async def work() -> tuple[Any, Any, Any]:
        async with site() as here:
            client = await three(here)
            return (
                await client.ask("devices"),
                await client.ask("devices", selector="board=rpi4"),
                await client.ask("devices", name="zed/cpu0"),
            )

    everything, some, one = run(work())
    assert [d["name"] for d in everything] == ["pi/cpu0", "pi/cpu1", "zed/cpu0"]
    assert [d["name"] for d in some] == ["pi/cpu0", "pi/cpu1"]
    assert [d["name"] for d in one] == ["zed/cpu0"]
    first = everything[0]
    assert (first["link"], first["health"], first["admin"]) == ("up", "good", "enabled")
    assert (first["occupancy"], first["grantable"], first["agent"]) == ("idle", True, "pi")
    assert (first["target"], first["device"], first["tier"]) == ("cpu", "a cpu", 1)
    assert first["labels"] == {"board": "rpi4", "kind": "cpu", "name": "pi/cpu0"}


def test_a_device_that_two_agents_take_from_each_other_is_flagged() -> None:
    async def work() -> list[bool]:
        async with site() as here:
            client = await three(here)
            for number in range(2, 2 + here.tracker.config.book.flap_limit):
                newer = await here.agent("zed", ("zed/cpu0",), incarnation=f"boot-{number}")
                await until(lambda agent=newer: agent.answers > 0)
            return [device["flapping"] for device in await client.ask("devices")]

    assert run(work()) == [False, False, True]


def test_a_long_list_comes_in_pages_that_fit() -> None:
    names = [f"pi/cpu{n:03}" for n in range(700)]

    async def work() -> list[str]:
        async with site() as here:
            await here.agent("pi", names)
            client = await here.client()
            await here.free(700)
            return [device["name"] for device in await client.ask("devices")]

    assert run(work()) == names


def test_leases_and_waiting_requests_are_listed() -> None:
    async def work() -> list[Any]:
        async with site() as here:
            client = await three(here)
            await client.acquire("board=zynq", tags={"wl": "conv2d"})
            client.link.send(Acquire(request="second", selector="board=zynq"))
            assert isinstance(await client.link.receive(5), Queued)
            return list(await client.ask("leases"))

    lease, waiting = run(work())
    assert (lease["device"], lease["state"], lease["tenant"]) == ("zed/cpu0", "granted", "local")
    assert lease["tags"] == {"wl": "conv2d"}
    assert 29 < lease["expires_s"] <= 30
    assert (waiting["id"], waiting["state"], waiting["count"]) == ("second", "queued", 1)


def test_explain_says_why_a_request_waits() -> None:
    async def work() -> tuple[Any, Any]:
        async with site() as here:
            client = await three(here)
            await client.command("device.quarantine", device="pi/cpu1", why="canary +11 %")
            await client.acquire("board=rpi4")
            client.link.send(Acquire(request="second", selector="board=rpi4"))
            assert isinstance(await client.link.receive(5), Queued)
            return await client.ask("explain", name="second"), await client.ask(
                "explain", name="nothing"
            )

    waits, unknown = run(work())
    assert waits["state"] == "queued"
    assert "2 match" in waits["text"]
    assert "1 leased" in waits["text"]
    assert "canary +11 %" in waits["text"]
    assert unknown is None


def test_status_counts_everything() -> None:
    async def work() -> dict[str, Any]:
        async with site() as here:
            client = await three(here)
            await client.release(await client.acquire())
            return dict(await client.ask("status"))

    status = run(work())
    assert (status["devices"], status["free"], status["agents"]) == (3, 3, 2)
    assert status["ended"]["released"] == 1
    assert status["by_health"] == {"good": 3}
    assert status["read_only"] == ""
    assert status["settling_s"] == 0.0


@pytest.mark.parametrize(
    ("ask", "detail"),
    [
        (Ask(4, "weather"), "no question 'weather'; there are devices"),
        (Ask(4, "devices", selector="a=="), "selector"),
    ],
)
def test_an_unknown_question_is_answered_and_the_connection_stays(ask: Ask, detail: str) -> None:
    async def work() -> Error:
        async with site() as here:
            client = await three(here)
            client.link.send(ask)
            error = await client.hear(Error)
            assert len(await client.ask("devices")) == 3
            return error

    error = run(work())
    assert not error.fatal
    assert error.answers == 4
    assert error.detail.startswith(detail)


@pytest.mark.parametrize(
    ("what", "admin"),
    [
        ("device.drain", Admin.DRAIN),
        ("device.quarantine", Admin.MAINTENANCE),
        ("device.retire", Admin.RETIRED),
    ],
)
def test_a_device_is_taken_out_and_stays_so_over_a_restart(what: str, admin: Admin) -> None:
    rows = MemoryRows()

    async def work() -> None:
        async with site(rows=rows) as here:
            client = await three(here)
            await client.command(what, device="zed/cpu0", why="new fan")
            assert here.tracker.book.counts.free == 2
            assert rows.devices["zed/cpu0"].admin is admin
        async with site(rows=rows) as here:
            await here.agent("zed", ("zed/cpu0",), labels={"board": "zynq"})
            client = await here.client()
            (device,) = await client.ask("devices", name="zed/cpu0")
            assert (device["admin"], device["why"]) == (admin.value, "new fan")
            await client.command("device.enable", device="zed/cpu0")
            await here.free(1)

    run(work())


def test_a_device_is_probed_when_asked() -> None:
    async def work() -> None:
        async with site() as here:
            agent = await here.agent()
            client = await here.client()
            await here.free(1)
            await client.command("device.probe", device="pi/cpu0")
            await agent.told("pi/cpu0", lambda order: order.probe)

    run(work())


def test_revoking_a_lease_kills_its_session_and_tells_the_holder() -> None:
    async def work() -> str:
        async with site() as here:
            agent = await here.agent()
            client, boss = await here.client(), await here.client()
            await here.free(1)
            grant = await client.acquire()
            agent.serve_lease(grant)
            await agent.told("pi/cpu0", lambda order: order.lease == grant.lease)
            await until(lambda: here.tracker.book.device("pi/cpu0").occupancy.value == "active")  # type: ignore[union-attr]
            await boss.command("lease.revoke", lease=grant.lease, why="mine")
            order = await agent.told("pi/cpu0", lambda order: order.kill)
            assert order.fence >= grant.epoch
            return (await client.hear(Released)).reason

    assert run(work()) == "revoked"


def test_a_user_revokes_leases_of_its_own_tenant_only() -> None:
    async def work() -> tuple[str, Any]:
        async with site() as here:
            boss = await three(here)
            made = await boss.command("token.issue", name="bob")
            bob = await here.client(ByToken(made["token"]))
            foreign, own = await boss.acquire("board=zynq"), await bob.acquire("board=rpi4")
            bob.link.send(Command(1, "lease.revoke", {"lease": foreign.lease}))
            error = await bob.hear(Error)
            bob.link.send(Command(2, "lease.revoke", {"lease": own.lease}))
            await bob.hear(Released)
            return error.detail, here.tracker.book.lease(own.lease)

    detail, lease = run(work())
    assert "role operator" in detail
    assert lease is None


def test_devices_are_preferred_that_have_said_to_have_what_is_wanted() -> None:
    async def work() -> tuple[str, object]:
        async with site() as here:
            agent = await here.agent("pi", ("pi/0", "pi/1", "pi/2"))
            await here.free(3)
            infos = tuple(info(f"pi/{n}") for n in range(3))
            have: tuple[dict[str, str], ...] = ({}, {}, {"bitstream": "abc"})
            agent.link.send(Register(agent.incarnation, infos, modules=have))
            agent.sync()
            await until(lambda: here.tracker.book.device("pi/2").modules == have[2])  # type: ignore[union-attr]
            await here.free(3)
            client = await here.client()
            grant = await client.acquire(modules={"bitstream": "abc"})
            shown = await client.ask("devices", name="pi/2")
            return grant.device.name, shown[0]["modules"]

    assert run(work()) == ("pi/2", {"bitstream": "abc"})


@pytest.mark.parametrize(
    ("command", "detail"),
    [
        (Command(1, "device.explode"), "no command 'device.explode'"),
        (Command(1, "device.drain"), "device.drain needs device"),
        (Command(1, "device.drain", {"device": "no/such"}), "no device is named 'no/such'"),
        (Command(1, "device.quarantine", {"device": "pi/cpu0"}), "needs why"),
        (Command(1, "device.drain", {"device": "pi/cpu0", "x": "y"}), "no argument x"),
        (Command(1, "lease.revoke", {"lease": "l9"}), "no lease or request 'l9' lives"),
        (Command(1, "token.issue", {"name": "bob", "role": "king"}), "no role 'king'"),
        (Command(1, "token.issue", {"name": "../bob"}), "cannot name"),
        (Command(1, "token.issue", {"name": "bob", "ttl_s": "nan"}), "ttl_s 'nan'"),
        (Command(1, "token.revoke", {"id": "none"}), "no token has the id"),
        (Command(1, "join.issue", {"ttl_s": "0"}), "ttl_s '0'"),
        (Command(1, "join.issue", {"labels": "pool"}), "label 'pool' is not KEY=VALUE"),
        (Command(1, "agent.revoke", {"agent": "none"}), "no agent is named"),
    ],
)
def test_a_command_that_cannot_be_is_answered_in_words(command: Command, detail: str) -> None:
    async def work() -> Error:
        async with site() as here:
            client = await three(here)
            client.link.send(command)
            return await client.hear(Error)

    error = run(work())
    assert not error.fatal
    assert detail in error.detail


def test_tokens_codes_and_agents_are_listed_without_secrets() -> None:
    async def work() -> tuple[Any, Any, Any, Any]:
        async with site() as here:
            client = await three(here)
            made = await client.command("token.issue", name="bob", role="operator", scopes="lab")
            code = await client.command("join.issue", labels="pool=lab")
            lists = [await client.command(f"{what}.ls") for what in ("token", "join", "agent")]
            return [made["token"], code["code"]], *lists

    secrets, tokens, codes, agents = run(work())
    assert [(t["name"], t["role"], t["scopes"]) for t in tokens] == [("bob", "operator", ["lab"])]
    assert [(c["used_by"], c["labels"]) for c in codes] == [("", {"pool": "lab"})]
    assert [(a["name"], a["connected"], a["devices"]) for a in agents] == [
        ("pi", True, 2),
        ("zed", True, 1),
    ]
    said = str((tokens, codes, agents))
    assert [secret for secret in secrets if secret.split("_")[2] in said] == []


def test_events_are_watched_as_they_come() -> None:
    async def work() -> list[str]:
        async with site() as here:
            seen: list[str] = []
            stop = here.tracker.watch(lambda event: seen.append(event.what))
            client = await three(here)
            await client.release(await client.acquire())
            stop()
            await client.release(await client.acquire())
            return seen

    assert run(work()).count("lease.end") == 1
