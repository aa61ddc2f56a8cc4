"""A device of the runtime is served without a driver of its own: processes open it."""

from __future__ import annotations

import asyncio
import hashlib
import secrets
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import measure_kernels as kernels
import numpy as np
import pytest
import tally_device
import tally_target
from agents import Client, connect, idle, options, ticket, until

from loopwright.codegen.artifact import Artifact
from loopwright.errors import EnvironmentFailure
from loopwright.fleet.agent.agent import Agent
from loopwright.fleet.agent.options import DeviceOptions
from loopwright.fleet.client.session import item_of
from loopwright.fleet.local import LocalRunner
from loopwright.fleet.wire.messages import Result, RunBatch
from loopwright.fleet.words import Health
from loopwright.measure.pipeline import Run
from loopwright.measure.request import MeasureRequest
from loopwright.outcome import MeasurePlan, Timed
from loopwright.sandbox.inputs import generate
from loopwright.space.config import Config
from loopwright.templates.task import Task

DEVICE = "here/tally0"
SEED = 5
PLAN = MeasurePlan(repeats=3, run_timeout_s=5.0, run_memory=512 << 20, build_memory=512 << 20)


@pytest.fixture(autouse=True)
def installed(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    tally_target.install(tmp_path_factory.mktemp("tally"), monkeypatch)


def an_agent(folder: Path, kind: str = tally_device.KIND, place: str = "") -> Agent:
    spec = DeviceOptions(DEVICE, kind=kind, place=place)
    return Agent(options(folder), [spec], time.monotonic, secrets.SystemRandom())


@asynccontextmanager
async def serving(folder: Path, place: str = "") -> AsyncIterator[Agent]:
    """An agent with a tally that is ready."""
    async with an_agent(folder, place=place) as agent:
        await until(lambda: agent.devices[DEVICE].health is Health.GOOD)
        yield agent


async def measured(client: Client, text: str) -> tuple[Result, bytes]:
    """What comes of the kernel that a text is."""
    artifact = tally_device.artifact(text)
    run = Run(artifact, PLAN, SEED, want_output=True)
    await client.upload(artifact.code)
    client.link.send(RunBatch((item_of(1, run, hashlib.sha256(artifact.code).digest()),)))
    return await client.result()


async def triples(client: Client) -> None:
    """The device measures, and gets it right."""
    result, output = await measured(client, "scale 3")
    assert (result.status, result.ns) == ("ok", (tally_device.NS * tally_device.N,))
    x = generate("float32", (tally_device.N,), SEED, 0)
    np.testing.assert_array_equal(np.frombuffer(output, np.float32), np.float32(3) * x)


def test_an_agent_serves_it_in_confined_processes(machine_dir: Path) -> None:
    async def scenario() -> None:
        async with serving(machine_dir, "cores=4") as agent:
            client = await connect(agent, ticket(agent, 1, device=DEVICE))
            info = client.opened.device
            assert (info.labels["kind"], info.labels["target"]) == ("tally", "tally-1")
            assert (info.target, info.cores) == ("tally cores=4", ())
            assert info.device.startswith("tally-1u-")
            assert client.opened.modules == {}  # it wants no native runtime
            assert client.opened.tier == 1
            await triples(client)
            await client.close()
            await idle(agent, DEVICE)

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("text", "status", "detail"),
    [
        ("fault 1", "out-of-bounds", "wrote to element 100 of y"),
        ("abort 1", "crash", "SIGABRT"),
        ("scale", "load-error", "the code of tally is broken"),
    ],
)
def test_a_kernel_that_fails_on_it_is_to_blame_and_the_session_goes_on(
    machine_dir: Path, text: str, status: str, detail: str
) -> None:
    async def scenario() -> None:
        async with serving(machine_dir) as agent:
            client = await connect(agent, ticket(agent, 1, device=DEVICE))
            result, _ = await measured(client, text)
            assert result.status == status, result
            assert detail in result.detail
            await triples(client)
            await client.close()
            assert agent.devices[DEVICE].health is Health.GOOD

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("kind", "place", "words"),
    [
        ("broken", "", r"what the device of 'broken' is: .*'tally_device:Nothing'.* cannot be"),
        ("tally", "lanes=2", r"target 'tally lanes=2': option 'lanes=2' is not cores=N"),
    ],
)
def test_one_that_is_not_there_is_told_in_one_line(
    tmp_path: Path, kind: str, place: str, words: str
) -> None:
    async def scenario() -> None:
        agent = an_agent(tmp_path, kind, place)
        with pytest.raises(EnvironmentFailure, match=words) as raised:
            await agent.start()
        assert "Traceback" not in str(raised.value)
        await agent.close()

    asyncio.run(scenario())


def build(task: Task, config: Config) -> Artifact:
    """What a builder makes for it."""
    del task, config
    return tally_device.artifact("scale 3")


def test_the_runner_of_this_machine_measures_on_it(tmp_path: Path) -> None:
    target = tally_target.parse("tally cores=1")
    request = MeasureRequest(kernels.task(), kernels.config("double"), PLAN)
    with LocalRunner(build, cache_dir=tmp_path, target=target) as runner:
        outcome = runner.submit(request).result(60.0)

    assert isinstance(outcome, Timed), outcome
    assert outcome.ns == (tally_device.NS * tally_device.N,)
    assert outcome.where is not None
    assert outcome.where.device == "here/tally0"
