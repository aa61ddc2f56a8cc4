"""What makes a device good or bad, and who may judge it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest
from agents import DEVICE, Client, connect, idle, item, options, running, ticket, until

from loopwright.errors import FleetError
from loopwright.fleet.agent import heat, probing, runs
from loopwright.fleet.agent.agent import Agent
from loopwright.fleet.agent.canary import Canary
from loopwright.fleet.agent.driver import CanaryFailed, CanaryRun
from loopwright.fleet.agent.options import AgentOptions
from loopwright.fleet.agent.wardens import Worker
from loopwright.fleet.wire.messages import Configure, Configured
from loopwright.fleet.words import RUNTIME, Health
from loopwright.runtime.cpu.native import runtime_object
from loopwright.sandbox.orders import Over
from loopwright.sandbox.wire import RunReply


class Stuck:
    """While `on`, no session ends clean, as when something of it cannot be killed."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.on = False
        end = Worker.end

        async def unclean(worker: Worker) -> Over:
            over = await end(worker)
            if not self.on:
                return over
            worker._warden._on_unclean()
            return msgspec.structs.replace(over, clean=False)

        monkeypatch.setattr(Worker, "end", unclean)


@pytest.fixture
def stuck(monkeypatch: pytest.MonkeyPatch) -> Stuck:
    return Stuck(monkeypatch)


def recorded(monkeypatch: pytest.MonkeyPatch) -> list[Health]:
    """The device's health at each change, from now on."""
    seen: list[Health] = []
    change = Agent._on_change

    def record(agent: Agent) -> None:
        seen.extend(device.health for device in agent.devices.values())
        change(agent)

    monkeypatch.setattr(Agent, "_on_change", record)
    return seen


def probe(agent: Agent) -> None:
    agent.devices[DEVICE].prober.wanted.set()


async def dropped(agent: Agent, client: Client) -> None:
    """Close a session."""
    await client.close()
    await idle(agent)


def test_a_device_that_cannot_be_cleaned_is_never_good_and_opens_no_session(
    machine_dir: Path, code: bytes, monkeypatch: pytest.MonkeyPatch, stuck: Stuck
) -> None:
    seen = recorded(monkeypatch)

    async def scenario() -> None:
        async with running(options(machine_dir)) as agent:
            device = agent.devices[DEVICE]
            stuck.on = True
            client = await connect(agent, ticket(agent, 1))
            await dropped(agent, client)
            assert device.health is Health.BAD
            seen.clear()
            for epoch in (2, 3):
                probes = seen.count(Health.PROBING)
                probe(agent)
                await until(lambda n=probes: seen.count(Health.PROBING) > n)
                await until(lambda: device.health is Health.BAD)
                with pytest.raises(FleetError, match=r"does not work: .* cannot be killed"):
                    await connect(agent, ticket(agent, epoch))
            assert Health.GOOD not in seen
            stuck.on = False
            probe(agent)
            await until(lambda: device.health is Health.GOOD)
            client = await connect(agent, ticket(agent, 4))
            await client.doubles(code)
            await client.close()

    asyncio.run(scenario())


def test_no_other_process_is_begun_beside_one_that_cannot_be_killed(
    machine_dir: Path, code: bytes, stuck: Stuck
) -> None:
    async def scenario() -> None:
        async with running(options(machine_dir)) as agent:
            client = await connect(agent, ticket(agent, 1))
            device = agent.devices[DEVICE]
            await client.upload(code)
            stuck.on = True
            await device.runner.clean()
            for number in (1, 2, 3):
                (result,) = await client.run(item(code, "double", number))
                assert result.status == "infra", result  # and never the candidate's crash
                assert "cannot be killed" in result.detail
            stuck.on = False
            await dropped(agent, client)

    asyncio.run(scenario())


# --- canaries ---


def timing_canaries(machine_dir: Path) -> AgentOptions:
    """An agent that times its canary after each batch, and finds every time good enough."""
    plain = options(machine_dir, drift=100.0)
    return replace(plain, timers=replace(plain.timers, canary_s=0.0))


def test_a_runtime_that_a_client_brought_does_not_judge_the_device(
    machine_dir: Path, code: bytes
) -> None:
    async def scenario() -> None:
        async with running(timing_canaries(machine_dir)) as agent:
            canary = agent.devices[DEVICE].prober.canary
            client = await connect(agent, ticket(agent, 1))
            digest = await client.upload(runtime_object(machine_dir) + b"\0")
            answer = await client.ask(Configure({RUNTIME: digest.hex()}))
            assert answer == Configured((RUNTIME,))
            before = canary.runs
            for _ in range(3):
                await client.doubles(code)
            assert canary.runs == before
            await dropped(agent, client)
            await until(lambda: canary.runs > before)  # the host's own looks after it

    asyncio.run(scenario())


def test_the_hosts_own_canary_is_timed_between_batches(machine_dir: Path, code: bytes) -> None:
    async def scenario() -> None:
        async with running(timing_canaries(machine_dir)) as agent:
            canary = agent.devices[DEVICE].prober.canary
            client = await connect(agent, ticket(agent, 1))
            await client.doubles(code)
            before = canary.runs
            await client.doubles(code)
            await until(lambda: canary.runs > before)
            await client.close()

    asyncio.run(scenario())


@pytest.mark.parametrize("ns", [(0.0,), (-5.0, 10.0), (float("nan"),), (float("inf"),), ()])
def test_times_that_cannot_be_are_not_believed(ns: tuple[float, ...]) -> None:
    reply = RunReply(ns=ns, timed_s=0.1, run_s=0.2)

    assert runs.implausible(reply, 1.0) == "the times are not valid"


@pytest.mark.parametrize("ns", [0.0, -5.0, float("nan"), float("inf")])
def test_a_canary_that_took_no_time_is_no_baseline(ns: float) -> None:
    canary = Canary(0.05)

    async def run() -> CanaryRun:
        return CanaryRun(ns)

    with pytest.raises(CanaryFailed, match="is not a valid time"):
        asyncio.run(probing.judge(run, 1, canary))

    assert canary.runs == 0


def test_a_device_that_was_first_timed_hot_says_what_it_is_judged_by() -> None:
    canary = Canary(0.05)
    for ns in (250.0,) * 3 + (200.0,) * 20:
        canary.observe(ns)

    found = probing.verdict(canary)

    assert found.health is Health.GOOD
    assert "takes 20.0% less than when the agent started" in found.detail


# --- heat ---


def test_a_thermometer_is_read_again_when_what_it_said_is_old(tmp_path: Path) -> None:
    file, now = tmp_path / "temp", 0.0
    file.write_text("40000")
    read = heat.Thermometer((file,), lambda: now)
    assert read.celsius(1.0) == 40.0
    file.write_text("90000")

    found = [read.celsius(1.0)]
    now = 1.0
    found.append(read.celsius(1.0))

    assert found == [40.0, 90.0]


def test_the_temperature_is_reported_without_a_run(
    machine_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "temp").write_text("61500")
    zones: Callable[[], tuple[Path, ...]] = lambda: (tmp_path / "temp",)  # noqa: E731
    monkeypatch.setattr(heat, "zones", zones)

    async def scenario() -> None:
        async with running(options(machine_dir)) as agent:
            assert agent.devices[DEVICE].report().temperature_c == 61.5

    asyncio.run(scenario())
