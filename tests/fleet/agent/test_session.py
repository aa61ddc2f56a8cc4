"""Sessions of an agent over a pair of links, without a tracker."""

from __future__ import annotations

import asyncio
from pathlib import Path

from agents import DEVICE, connect, idle, options, running, ticket

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
