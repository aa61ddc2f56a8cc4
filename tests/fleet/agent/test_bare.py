"""An agent whose host has NumPy and msgspec alone: clients bring the native runtime."""

from __future__ import annotations

import asyncio
import hashlib
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import measure_kernels as kernels
import msgspec
import numpy as np
import pytest
from agents import DEVICE, Client, connect, item, options, running, ticket
from bare import bare_environment, bare_python
from fleet_tracker import Site, site, until
from fleet_tracker import run as run_site

from loopwright.fleet.agent import describe
from loopwright.fleet.agent.agent import Agent
from loopwright.fleet.agent.options import AgentOptions
from loopwright.fleet.client.aio import AsyncFleet
from loopwright.fleet.client.control import Control
from loopwright.fleet.client.results import RemoteResult
from loopwright.fleet.client.runtimes import Runtimes
from loopwright.fleet.request import LeaseRequest
from loopwright.fleet.security.handshake import ByToken
from loopwright.fleet.wire.link import Link, dial
from loopwright.fleet.wire.messages import Configure, Configured, Error, Opened
from loopwright.fleet.words import NO_RUNTIME, RUNTIME
from loopwright.measure.pipeline import Run
from loopwright.outcome import MeasurePlan, cores_for
from loopwright.runtime.cpu.native import runtime_object
from loopwright.runtime.object import elf
from loopwright.sandbox.inputs import generate

LIMIT_S = 60.0
PLAN = MeasurePlan(warmup=1, repeats=3, min_repeat_s=0.0005)


def digest_of(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> str:
    return bare_python(tmp_path_factory.mktemp("venv"))


@pytest.fixture
def begin(python: str, tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts the agent of such a host."""
    processes: list[subprocess.Popen[str]] = []

    def start(*arguments: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [python, "-m", "loopwright.fleet.agent", "--name", "pi", "--drift", "0", "--cache-dir",
             str(tmp_path / "pi"), "--device", f"cpu0={cores_for(1)[0]}", *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=bare_environment(),
            cwd=tmp_path,
        )  # fmt: skip
        processes.append(process)
        return process

    try:
        yield start
    finally:
        for process in processes:
            process.kill()
            process.communicate()


def test_the_host_has_no_compiler(python: str) -> None:
    for name in ("llvmlite", "ml_dtypes", "typer", "sqlalchemy"):
        done = subprocess.run([python, "-c", f"import {name}"], capture_output=True, check=False)
        assert done.returncode == 1, name


@asynccontextmanager
async def client_of(here: Site, cache_dir: Path) -> AsyncIterator[AsyncFleet]:
    """A client as `lw.fleet.connect` makes it."""
    made = await (await here.client()).command("token.issue", name="ann")

    async def reach() -> Link:
        return await dial(here.address)

    loop = asyncio.get_running_loop()
    control = Control(reach, ByToken(made["token"]), loop.time, lambda: 0.5)
    fleet = AsyncFleet(control, dial, loop.time, runtimes=Runtimes(cache_dir))
    await fleet.start()
    try:
        yield fleet
    finally:
        await fleet.close()


def modules_of(here: Site) -> object:
    """What the tracker knows to be in place, from the agent or from what was wanted."""
    device = here.tracker.book.device("pi/cpu0")
    return None if device is None else device.modules


def test_a_candidate_runs_with_the_runtime_that_a_client_brings_once(
    begin: Callable[..., subprocess.Popen[str]], code: bytes, machine_dir: Path
) -> None:
    timed = Run(kernels.artifact(code, "double"), PLAN, 3, want_output=True)

    digest = digest_of(runtime_object(machine_dir))

    async def work() -> list[tuple[Opened, int, RemoteResult]]:
        found: list[tuple[Opened, int, RemoteResult]] = []
        async with site() as here:
            made = await (await here.client()).command("join.issue", agent="pi")
            begin("--tracker", here.address, "--join", made["code"])
            async with client_of(here, machine_dir) as fleet:
                await here.free(1)
                for _ in range(2):
                    async with fleet.lease(LeaseRequest(selector="name=pi/cpu0")) as (lease,):
                        session = await fleet.open(lease)
                        brought = session.sent_bytes
                        (ran,) = [one async for one in session.run_batch([timed])]
                        found.append((session.opened, brought, ran))
                        await session.close()
                    await until(lambda: modules_of(here) == {RUNTIME: digest})
        return found

    first, second = run_site(work(), LIMIT_S)
    assert first[0].modules == {RUNTIME: NO_RUNTIME}
    assert first[1] > 1000
    assert second[0].modules == {RUNTIME: digest}
    assert second[1] == 0
    x = generate("float32", (kernels.N,), 3, 0)
    for _, _, ran in (first, second):
        assert ran.result.status == "ok", ran.result
        assert len(ran.result.ns) == PLAN.repeats
        np.testing.assert_array_equal(np.frombuffer(ran.output, np.float32), x + x)


# --- by hand, on an agent in this process that thinks it has no runtime ---


@asynccontextmanager
async def bare(
    made: AgentOptions, monkeypatch: pytest.MonkeyPatch, uploads: Path | None = None
) -> AsyncIterator[Agent]:
    """An agent as on a machine without a compiler."""
    described = describe.describe

    async def without(cache_dir: Path) -> describe.HostMachine:
        return msgspec.structs.replace(await described(cache_dir), runtime=b"")

    monkeypatch.setattr(describe, "describe", without)
    async with running(made, uploads) as agent:
        yield agent


async def configured(client: Client, content: bytes) -> tuple[str, ...]:
    """The kinds that putting a runtime in place has changed."""
    digest = await client.upload(content)
    answer = await client.ask(Configure({RUNTIME: digest.hex()}))
    assert isinstance(answer, Configured), answer
    return answer.changed


def test_without_a_runtime_no_candidate_is_to_blame(
    machine_dir: Path, code: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def work() -> None:
        async with bare(options(machine_dir), monkeypatch) as agent:
            client = await connect(agent, ticket(agent, 1))
            await client.upload(code)
            (lost,) = await client.run(item(code, "double"))
            assert lost.status == "infra"
            assert "there is no native runtime here" in lost.detail
            assert await configured(client, runtime_object(machine_dir)) == (RUNTIME,)
            assert await configured(client, runtime_object(machine_dir)) == ()
            await client.doubles(code)
            await client.close()

    asyncio.run(work())


@pytest.mark.parametrize("wrong", ["no object", "another object"])
def test_a_runtime_that_cannot_be_linked_costs_no_candidate_and_no_device(
    machine_dir: Path, code: bytes, wrong: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = b"no object" if wrong == "no object" else code

    async def work() -> None:
        async with bare(options(machine_dir), monkeypatch) as agent:
            client = await connect(agent, ticket(agent, 1))
            assert await configured(client, content) == (RUNTIME,)
            await client.upload(code)
            (lost,) = await client.run(item(code, "double"))
            assert lost.status == "infra"
            assert "the native runtime cannot be linked" in lost.detail
            await client.close()
            client = await connect(agent, ticket(agent, 2))
            assert await configured(client, runtime_object(machine_dir)) == (RUNTIME,)
            await client.doubles(code)
            await client.close()

    asyncio.run(work())


def altered(agent: Agent, content: bytes) -> None:
    """Have the disk keep something else in place of an upload."""
    digest = hashlib.sha256(content).digest()
    agent.devices[DEVICE].context.agent.blobs._path(digest).write_bytes(b"something else")


@pytest.mark.parametrize("alone", [True, False], ids=["bare", "with its own"])
def test_a_runtime_that_was_altered_costs_items_and_neither_the_session_nor_the_device(
    machine_dir: Path, tmp_path: Path, code: bytes, monkeypatch: pytest.MonkeyPatch, alone: bool
) -> None:
    brought = runtime_object(machine_dir) + b"\0"
    plain = options(machine_dir, drift=100.0)
    made = replace(plain, timers=replace(plain.timers, canary_s=0.0))
    host = bare(made, monkeypatch, tmp_path) if alone else running(made, tmp_path)

    async def work() -> None:
        async with host as agent:
            client = await connect(agent, ticket(agent, 1))
            assert await configured(client, brought) == (RUNTIME,)
            await client.doubles(code)
            altered(agent, brought)
            await agent.devices[DEVICE].runner.clean()  # another needs it again
            for number in (1, 2, 3):
                (lost,) = await client.run(item(code, "double", number))
                assert lost.status == "infra", lost
                assert lost.detail.startswith("the module runtime in place: blob"), lost
            assert await configured(client, brought) == ()  # uploaded again
            await client.doubles(code)
            altered(agent, brought)
            await client.close()
            client = await connect(agent, ticket(agent, 2))
            await client.close()

    asyncio.run(work())


def test_the_runtime_of_a_host_is_replaced_for_those_who_want_another(
    machine_dir: Path, code: bytes
) -> None:
    async def work() -> None:
        async with running(options(machine_dir)) as agent:
            client = await connect(agent, ticket(agent, 1))
            own = runtime_object(machine_dir)
            assert client.opened.modules == {RUNTIME: digest_of(own)}
            assert await configured(client, own) == ()
            await client.doubles(code)
            assert await configured(client, own + b"\0") == (RUNTIME,)
            await client.doubles(code)
            assert await configured(client, own) == (RUNTIME,)
            await client.doubles(code)
            await client.close()

    asyncio.run(work())


def test_a_device_has_no_more_kinds_of_modules_than_fit_into_messages(
    machine_dir: Path, code: bytes
) -> None:
    async def work() -> None:
        async with running(options(machine_dir)) as agent:
            client = await connect(agent, ticket(agent, 1))
            digest = (await client.upload(code)).hex()
            answers = [await client.ask(Configure({f"k{n}": digest})) for n in range(6)]
            assert answers[:5] == [Configured((f"k{n}",)) for n in range(5)]  # the runtime is one
            assert isinstance(answers[5], Error)
            assert "at most 6 kinds" in answers[5].detail
            await client.close()

    asyncio.run(work())


def test_what_must_be_signed_takes_no_runtime_of_others(machine_dir: Path) -> None:
    async def work() -> None:
        made = replace(options(machine_dir), signed_only=True)
        async with running(made) as agent:
            client = await connect(agent, ticket(agent, 1))
            assert client.opened.modules == {}
            digest = await client.upload(b"another")
            answer = await client.ask(Configure({RUNTIME: digest.hex()}))
            assert isinstance(answer, Error)
            assert answer.code == "auth"
            await client.close()

    asyncio.run(work())


def test_a_runtime_is_made_for_the_device_and_not_for_the_client(tmp_path: Path) -> None:
    machines = {"x86_64": elf.X86_64, "aarch64": elf.AARCH64}
    for arch, machine in machines.items():
        made = elf.parse(runtime_object(tmp_path, arch))
        assert made.machine == machine
        assert {"lw_repeat", "lw_canary"} <= {symbol.name for symbol in made.symbols}
