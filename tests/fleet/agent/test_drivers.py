"""Devices of other kinds: what an agent does with a driver, and with one that fails."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import msgspec
import pytest
from agents import Client, connect, idle, item, options, ticket, until
from toy_driver import HANG, KIND, MODULE, ToyDriver

from loopwright.errors import ConfigError, EnvironmentFailure, FleetError
from loopwright.fleet.agent import drivers, running
from loopwright.fleet.agent.agent import Agent
from loopwright.fleet.agent.device import AgentDevice
from loopwright.fleet.agent.driver import Driver, DriverContext, DriverError
from loopwright.fleet.agent.main import read
from loopwright.fleet.agent.options import DeviceOptions
from loopwright.fleet.wire.messages import Configure, Configured, DeviceOrder, Result, RunBatch
from loopwright.fleet.words import Admin, Health, Occupancy
from loopwright.kernel_call import Form, KernelCall

TOY, OTHER = "here/toy0", "here/toy1"
CODE = b"toy 250"


@dataclass
class Host:
    """An agent with two toys; `faults` are those of the first, by method."""

    faults: dict[str, Exception]
    drivers: dict[str, ToyDriver] = field(default_factory=dict)
    agent: Agent = field(init=False)

    @property
    def device(self) -> AgentDevice:
        return self.agent.devices[TOY]

    @property
    def driver(self) -> ToyDriver:
        return self.drivers[TOY]

    async def session(self, epoch: int, name: str = TOY) -> Client:
        lease = f"{name}-{epoch}"
        return await connect(self.agent, ticket(self.agent, epoch, device=name, lease=lease))

    async def works(self, epoch: int, name: str = TOY) -> None:
        """A session on a device measures."""
        client = await self.session(epoch, name)
        (result,) = await measured(client)
        assert (result.status, result.ns) == ("ok", (250.0, 250.0))
        await client.close()
        await idle(self.agent, name)

    async def probed(self) -> None:
        """An operator's probe has been made."""
        before = self.driver.calls["begin"]
        self.device.prober.wanted.set()
        await until(lambda: self.driver.calls["begin"] > before)
        await until(lambda: self.device.health is not Health.PROBING)


@asynccontextmanager
async def toys(
    folder: Path, faults: dict[str, Exception] | None = None, **changes: object
) -> AsyncIterator[Host]:
    """An agent with two toys."""
    host = Host({} if faults is None else faults)

    def make(spec: DeviceOptions, _: DriverContext) -> Driver:
        made = host.drivers[spec.name] = ToyDriver(spec, host.faults if spec.name == TOY else {})
        return made

    specs = [DeviceOptions(name, kind=KIND) for name in (TOY, OTHER)]
    plain = options(folder, **changes)
    quick = replace(plain, timers=replace(plain.timers, beat_s=0.01, grace_s=0.01))
    host.agent = Agent(quick, specs, time.monotonic, secrets.SystemRandom(), drivers=make)
    async with host.agent:
        await until(lambda: host.agent.devices[OTHER].health is Health.GOOD)
        yield host


def run(scenario: Callable[[], object]) -> None:
    asyncio.run(scenario())  # type: ignore[arg-type]


def call(code: bytes = CODE, number: int = 0, **changes: object) -> KernelCall:
    plain = item(code, "toy", number, n_outputs=0, params=(), **changes)
    return msgspec.structs.replace(plain, repeats=2, kind=KIND, form=Form.STREAM.value)


async def measured(client: Client, code: bytes = CODE) -> list[Result]:
    await client.upload(code)
    return await client.run(call(code))


def boom(text: str = "boom\nand more") -> Exception:
    return ValueError(text)


# --- a device of another kind ---


def test_a_device_of_another_kind_measures_what_it_understands(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with toys(tmp_path) as host:
            info = host.device.info()
            assert info.labels["kind"] == KIND
            assert info.labels["arch"] == "stack"
            assert (info.target, info.device, info.cores) == ("toy", "toy-1", ())
            client = await host.session(1)
            assert "runtime" not in client.opened.modules  # it wants no native runtime
            await client.upload(CODE)
            client.link.send(RunBatch((call(want_output=True),)))
            result, output = await client.result()
            assert (result.status, result.ns) == ("ok", (250.0, 250.0))
            assert output == CODE
            await client.close()

    run(scenario)


def test_a_module_is_placed_once_a_session_and_before_what_needs_it(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with toys(tmp_path) as host:
            client = await host.session(1)
            digest = (await client.upload(b"bits")).hex()
            assert await client.ask(Configure({MODULE: digest})) == Configured((MODULE,))
            for _ in range(2):
                await measured(client)
            assert host.driver.placed == {MODULE: b"bits"}
            assert host.driver.calls["place"] == 1
            await client.close()
            await idle(host.agent, TOY)
            client = await host.session(2)  # it stays in place, and clean has undone it
            await measured(client)
            assert host.driver.calls["place"] == 2
            assert host.driver.placed == {MODULE: b"bits"}
            await client.close()

    run(scenario)


def test_a_canary_that_is_off_marks_results(tmp_path: Path) -> None:
    async def scenario() -> None:
        plain = options(tmp_path)
        timers = replace(plain.timers, canary_s=0.0)
        async with toys(tmp_path, drift=0.05, timers=timers) as host:
            await until(lambda: host.device.health is Health.GOOD)
            host.driver.canary_ns = 150.0
            client = await host.session(1)
            results = [(await measured(client))[0] for _ in range(8)]
            assert results[0].status == "ok"
            assert results[-1].status == "drift"
            assert "the canary is off by +50.0%" in results[-1].detail
            await client.close()

    run(scenario)


def test_a_device_without_a_canary_is_good(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with toys(tmp_path) as host:
            host.driver.canary_ns = None
            await host.probed()
            assert host.device.health is Health.GOOD

    run(scenario)


# --- drivers that fail ---


def test_a_driver_that_cannot_say_what_its_device_is_costs_that_device_alone(
    tmp_path: Path,
) -> None:
    line = "the toy driver failed to say what its device is: ValueError: boom and more"

    async def scenario() -> None:
        async with toys(tmp_path, {"describe": boom()}) as host:
            assert (host.device.health, host.device.detail) == (Health.BAD, line)
            assert host.device.report().health == "bad"
            assert host.device.info().labels["kind"] == KIND
            with pytest.raises(FleetError, match=f"{TOY} does not work: {line}"):
                await host.session(1)
            await host.works(1, OTHER)

    run(scenario)


def test_an_agent_whose_devices_all_cannot_be_described_does_not_start(tmp_path: Path) -> None:
    async def scenario() -> None:
        spec = DeviceOptions(TOY, kind=KIND)
        agent = Agent(
            options(tmp_path),
            [spec],
            time.monotonic,
            secrets.SystemRandom(),
            drivers=lambda spec, _: ToyDriver(spec, {"describe": boom("no bus")}),
        )
        with pytest.raises(EnvironmentFailure, match="say what its device is: ValueError: no bus"):
            await agent.start()
        await agent.close()

    run(scenario)


@pytest.mark.parametrize("times", [1, 3])
@pytest.mark.parametrize(
    ("method", "words"),
    [
        (
            "place",
            "the toy driver failed to place the module program {digest}",
        ),
        ("run", "the toy driver failed to run a kernel"),
    ],
)
def test_a_driver_that_fails_in_a_session_costs_items_and_no_candidate_is_blamed(
    tmp_path: Path, method: str, words: str, times: int
) -> None:
    async def scenario() -> None:
        async with toys(tmp_path) as host:
            client = await host.session(1)
            digest = (await client.upload(b"bits")).hex()
            await client.ask(Configure({MODULE: digest}))
            host.faults[method] = boom()
            for _ in range(times):
                (result,) = await measured(client)
                assert (result.status, result.kind, result.lost) == ("infra", "worker-lost", 0)
                line = words.format(digest=digest[:12])
                assert result.detail == f"{line}: ValueError: boom and more"
            assert host.device.health is Health.BAD
            assert host.device.occupancy is Occupancy.ACTIVE  # the lease is not lost
            host.faults.clear()
            (result,) = await measured(client)  # nor is the session
            assert result.status == "ok"
            assert (await client.close()).reason == "released"
            await until(lambda: host.device.health is Health.GOOD)  # a probe has found nothing
            await host.works(2)

    run(scenario)


def test_a_device_that_a_candidate_takes_along_twice_blames_it(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with toys(tmp_path) as host:
            client = await host.session(1)
            host.faults["run"] = DriverError("the board has rebooted")
            (first,) = await measured(client)
            (second,) = await measured(client)
            assert (first.status, first.lost) == ("infra", 1)
            assert "the board has rebooted" in first.detail
            assert (second.status, second.lost) == ("crash", 2)
            assert host.device.health is Health.GOOD
            host.faults.clear()
            assert (await measured(client))[0].status == "ok"
            await client.close()

    run(scenario)


def test_a_driver_that_never_answers_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(running, "_LATE_S", 0.0)

    async def scenario() -> None:
        async with toys(tmp_path) as host:
            client = await host.session(1)
            await client.upload(HANG)
            (result,) = await client.run(call(HANG, run_timeout_ms=1))
            assert result.status == "infra"
            assert "it said nothing for" in result.detail
            assert (await measured(client))[0].status == "ok"
            await client.close()

    run(scenario)


def test_a_device_that_its_driver_cannot_clean_is_bad_until_it_can(tmp_path: Path) -> None:
    line = "the toy driver failed to clean up: ValueError: boom and more"

    async def scenario() -> None:
        async with toys(tmp_path) as host:
            client = await host.session(1)
            assert (await measured(client))[0].status == "ok"
            host.faults["clean"] = boom()
            assert (await client.close()).reason == "released"
            await idle(host.agent, TOY)
            assert (host.device.health, host.device.detail) == (Health.BAD, line)
            with pytest.raises(FleetError, match=f"does not work: {line}"):
                await host.session(2)
            await host.probed()
            assert host.device.health is Health.BAD
            host.faults.clear()
            await host.probed()
            assert host.device.health is Health.GOOD
            await host.works(3)

    run(scenario)


@pytest.mark.parametrize(
    ("method", "line"),
    [
        ("canary", "the probe failed: the toy driver failed to time its canary: ValueError: boom"),
        ("begin", "the probe failed: the toy driver failed to begin a session: ValueError: boom"),
    ],
)
def test_a_driver_that_fails_a_probe_makes_the_device_bad_until_the_next(
    tmp_path: Path, method: str, line: str
) -> None:
    async def scenario() -> None:
        async with toys(tmp_path) as host:
            await until(lambda: host.device.health is Health.GOOD)
            host.faults[method] = boom("boom")
            await host.probed()
            assert (host.device.health, host.device.detail) == (Health.BAD, line)
            host.faults.clear()
            await host.probed()
            assert host.device.health is Health.GOOD
            await host.works(1)

    run(scenario)


def test_a_session_that_cannot_be_begun_is_refused_in_one_line(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with toys(tmp_path) as host:
            await until(lambda: host.device.health is Health.GOOD)
            host.faults["begin"] = boom()
            line = "the toy driver failed to begin a session: ValueError: boom and more"
            with pytest.raises(FleetError, match=line):
                await host.session(1)
            await until(lambda: host.device.health is Health.BAD)
            host.faults.clear()
            await host.probed()
            await host.works(2)

    run(scenario)


def test_a_canary_that_fails_between_batches_costs_no_result(tmp_path: Path) -> None:
    async def scenario() -> None:
        plain = options(tmp_path)
        timers = replace(plain.timers, canary_s=0.0)
        async with toys(tmp_path, drift=0.05, timers=timers) as host:
            await until(lambda: host.device.health is Health.GOOD)
            client = await host.session(1)
            host.faults["canary"] = boom()
            for _ in range(3):
                assert (await measured(client))[0].status == "ok"
            await until(lambda: host.device.health is Health.BAD)
            assert "failed to time its canary" in host.device.detail
            host.faults.clear()
            assert (await client.close()).reason == "released"
            await until(lambda: host.device.health is Health.GOOD)

    run(scenario)


@pytest.mark.parametrize(
    ("method", "words"), [("beat", "look after its device"), ("extend", "extend a session")]
)
def test_a_driver_that_fails_while_a_lease_goes_on_ends_neither_it_nor_others(
    tmp_path: Path, method: str, words: str
) -> None:
    async def scenario() -> None:
        async with toys(tmp_path) as host:
            client = await host.session(1)
            host.faults[method] = boom()
            order = DeviceOrder(
                name=TOY, lease=f"{TOY}-1", epoch=1, ttl_ms=60_000, admin=Admin.ENABLED.value
            )
            host.device.apply(order)
            await until(lambda: host.device.health is Health.BAD)
            assert f"failed to {words}: ValueError: boom and more" in host.device.detail
            await host.works(1, OTHER)
            assert (await measured(client))[0].status == "ok"
            host.faults.clear()
            await client.close()
            await until(lambda: host.device.health is Health.GOOD)

    run(scenario)


def test_a_driver_that_does_not_keep_its_device_makes_it_bad(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def keep(self: ToyDriver, events: object) -> None:
        del events
        if self.spec.name == TOY:
            raise boom()

    good = ToyDriver.keep

    async def either(self: ToyDriver, events: object) -> None:
        await keep(self, events)
        await good(self, events)  # type: ignore[arg-type]

    monkeypatch.setattr(ToyDriver, "keep", either)

    async def scenario() -> None:
        async with toys(tmp_path) as host:
            await until(lambda: host.device.health is Health.BAD)
            assert host.device.detail == (
                "the toy driver failed to keep its device: ValueError: boom and more"
            )
            await host.works(1, OTHER)

    run(scenario)


def test_a_driver_that_cannot_end_does_not_keep_others_from_ending(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with toys(tmp_path) as host:
            host.faults["close"] = boom()
            client = await host.session(1)
        assert host.drivers[TOY].calls["close"] == host.drivers[OTHER].calls["close"] == 1
        assert client.link.closed

    run(scenario)


# --- which driver ---


def test_a_kind_without_a_driver_is_refused_with_those_that_there_are(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"here/x: there is no driver of kind 'abacus'.* cpu;"):
        Agent(
            options(tmp_path),
            [DeviceOptions("here/x", kind="abacus")],
            time.monotonic,
            secrets.SystemRandom(),
        )


def test_another_package_can_bring_a_driver(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def brought(group: str, name: str) -> object:
        assert (group, name) == ("loopwright.drivers", KIND)
        return lambda spec, _: ToyDriver(spec, {})

    monkeypatch.setattr(drivers, "plugin", brought)
    context = DriverContext(options(tmp_path), time.monotonic, secrets.SystemRandom())

    made = drivers.driver_of(DeviceOptions(TOY, kind=KIND), context)

    assert isinstance(made, ToyDriver)


def test_a_driver_that_cannot_be_made_is_told_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def make(*_: object) -> Driver:
        raise boom("no toy")

    monkeypatch.setattr(drivers, "plugin", lambda *_: make)
    context = DriverContext(options(tmp_path), time.monotonic, secrets.SystemRandom())

    with pytest.raises(ConfigError, match=f"{TOY}: the toy driver fails: ValueError: no toy"):
        drivers.driver_of(DeviceOptions(TOY, kind=KIND), context)


def test_the_command_line_names_devices_of_other_kinds(tmp_path: Path) -> None:
    pairs = ("cpu0=0,1", "gpu0=opencl:1", "t=toy")
    words = ["--name", "h", *(word for pair in pairs for word in ("--device", pair))]

    found = read(words, tmp_path, [0, 1]).devices

    assert [(d.name, d.kind, d.place, d.cores) for d in found] == [
        ("h/cpu0", "cpu", "", (0, 1)),
        ("h/gpu0", "opencl", "1", ()),
        ("h/t", "toy", "", ()),
    ]
