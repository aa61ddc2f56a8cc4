"""Sessions of an agent over a pair of links, without a tracker."""

from __future__ import annotations

import asyncio
from pathlib import Path

import msgspec
from agents import DEVICE, connect, idle, item, options, running, ticket

from loopwright.fleet.agent.options import SessionLimits
from loopwright.fleet.wire.messages import Error, PutHead, RunBatch
from loopwright.fleet.words import EndReason


def test_a_candidate_is_measured_and_its_output_comes_back(machine_dir: Path, code: bytes) -> None:
    async def scenario() -> None:
        async with running(options(machine_dir)) as agent:
            client = await connect(agent, ticket(agent, 1))
            assert client.opened.device.name == DEVICE
            await client.doubles(code)
            closed = await client.close()
            assert closed.reason == EndReason.RELEASED.value
            await idle(agent)

    asyncio.run(scenario())


def test_what_was_refused_is_said(tmp_path: Path, code: bytes) -> None:
    """An upload by its digest, a batch by its first item: others of the session are not meant."""

    async def scenario() -> None:
        limits = SessionLimits(blob=1 << 10, batch=2)
        async with running(options(tmp_path, limits=limits)) as agent:
            client = await connect(agent, ticket(agent, 1))
            digest = bytes(range(32))
            await client.link.send_data(PutHead(digest, 0, 1 << 20), b"x")
            upload = await client.link.receive()
            numbered = [msgspec.structs.replace(item(code, "double"), id=i) for i in (7, 8, 9)]
            batch = await client.ask(RunBatch(tuple(numbered)))
            for refused, by in ((upload, (digest, 0)), (batch, (b"", 7))):
                assert isinstance(refused, Error)
                assert (refused.digest, refused.item, refused.fatal) == (*by, False)
            await client.close()

    asyncio.run(scenario())
