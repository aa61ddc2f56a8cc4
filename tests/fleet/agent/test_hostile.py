"""Candidates that misbehave in every way we know, through a session of an agent."""

from __future__ import annotations

import asyncio
import platform
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from agents import Client, Hosted, N, connect, item, options, running, ticket

import hostile_kernels
from hostile_kernels import Hostile
from loopwright.fleet.agent import wardens
from loopwright.fleet.wire.messages import RunBatch
from loopwright.fleet.words import CONCLUSIVE, RunStatus, Tier
from loopwright.runtime.cpu.native import object_code
from loopwright.sandbox.inputs import generate

KINDS = hostile_kernels.hostile()[1]
PROBES = hostile_kernels.probes("/victim", "/folder")
SHORT_MS = 250
MEMORY = 256 << 20


@pytest.fixture(scope="module")
def host(machine_dir: Path) -> Iterator[Hosted]:
    hosted = Hosted(options(machine_dir))
    yield hosted
    hosted.close()


@pytest.fixture(scope="module")
def client(host: Hosted) -> Client:
    return host.call(host.session())


@pytest.fixture(scope="module")
def hostile_code(machine_dir: Path) -> bytes:
    return object_code(hostile_kernels.hostile()[0], machine_dir)


@pytest.fixture(scope="module")
def somebodys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("somebody")
    folder.chmod(0o777)
    victim = folder / "victim"
    victim.write_text("precious")
    victim.chmod(0o666)
    return victim


@pytest.fixture(scope="module")
def probe_code(machine_dir: Path, somebodys: Path) -> bytes:
    made = hostile_kernels.probes(str(somebodys), str(somebodys.parent))
    return object_code(hostile_kernels.probe_text(made), machine_dir)


def test_there_are_enough_kinds_and_probes() -> None:
    assert len({kind.name for kind in KINDS}) >= 20
    assert len({probe.name for probe in PROBES}) >= 30


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_a_hostile_candidate_is_blamed_and_the_session_goes_on(
    host: Hosted, client: Client, hostile_code: bytes, kind: Hostile
) -> None:
    async def scenario() -> None:
        await client.upload(hostile_code)
        limit = SHORT_MS if kind.waits else 5000
        run = item(hostile_code, kind.name, run_timeout_ms=limit, run_memory=MEMORY)
        (result,) = await client.run(run)
        assert result.status == kind.status.value, result
        assert RunStatus(result.status) in CONCLUSIVE
        assert result.tier == Tier.T1
        assert result.kind == "" or result.detail
        await client.doubles(hostile_code)

    host.call(scenario())


def test_code_that_runs_when_it_is_loaded_is_refused(
    host: Hosted, client: Client, machine_dir: Path
) -> None:
    code = object_code(hostile_kernels.CONSTRUCTOR, machine_dir)

    async def scenario() -> None:
        await client.upload(code)
        (result,) = await client.run(item(code, "double"))
        assert result.status == RunStatus.LOAD_ERROR.value, result

    host.call(scenario())


async def probed(client: Client, code: bytes, name: str) -> tuple[str, float]:
    """The status of a probe, and what its system call returned."""
    await client.upload(code)
    client.link.send(RunBatch((item(code, name, want_output=True),)))
    result, output = await client.result()
    if result.status != RunStatus.OK.value:
        return result.status, -1.0
    told = np.frombuffer(output, np.float32)
    x = generate("float32", (N,), 3, 0)
    np.testing.assert_array_equal(told[1:], (x + x)[1:])
    return result.status, float(told[0])


@pytest.mark.skipif(platform.machine() != "x86_64", reason="numbers of system calls of x86-64")
@pytest.mark.parametrize("number", range(len(PROBES)), ids=lambda n: PROBES[n].name)
def test_no_way_leads_out_of_the_sandbox(
    host: Hosted, client: Client, probe_code: bytes, somebodys: Path, number: int
) -> None:
    name = PROBES[number].name

    status, told = host.call(probed(client, probe_code, name))

    assert client.opened.tier == Tier.T1
    assert status in (RunStatus.OK.value, RunStatus.SANDBOX_VIOLATION.value)
    assert told < 0, f"{name} succeeded"
    assert somebodys.read_text() == "precious"
    assert [path.name for path in somebodys.parent.iterdir()] == ["victim"]


def test_probes_reach_what_is_there_without_a_sandbox(machine_dir: Path, probe_code: bytes) -> None:
    async def scenario() -> None:
        async with running(options(machine_dir, tier=Tier.T0)) as agent:
            client = await connect(agent, ticket(agent, 1))
            assert client.opened.tier == Tier.T0
            for name in ("open_passwd", "open_victim", "list_folder"):
                status, told = await probed(client, probe_code, name)
                assert status == RunStatus.OK.value
                assert told >= 0
            await client.close()

    asyncio.run(scenario())


@pytest.mark.skipif(not wardens.bubblewrap_is_there(), reason="bubblewrap is not installed")
def test_a_bubble_adds_to_what_confines(
    machine_dir: Path, probe_code: bytes, hostile_code: bytes
) -> None:
    async def scenario() -> None:
        async with running(options(machine_dir, tier=Tier.T2)) as agent:
            client = await connect(agent, ticket(agent, 1))
            assert client.opened.tier == Tier.T2, client.opened.device.labels
            await client.doubles(hostile_code)
            for name in ("open_victim", "unlink_victim", "inet_socket", "kill_all"):
                _, told = await probed(client, probe_code, name)
                assert told < 0
            await client.close()

    asyncio.run(scenario())
