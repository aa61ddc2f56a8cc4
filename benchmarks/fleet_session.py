"""Sessions over TCP: how long one takes to open, uploads, and a thousand strangers who say nothing.

    python benchmarks/fleet_session.py [--quick] [-o json]

A tracker and an agent are processes of their own, started by the commands. The client treats
loopback as a network that others are on, so that all frames of a session carry a MAC. `open` is
from the dial to the session's first word, on a lease that is there. For the strangers, a thousand
connections are made to the tracker and as many to the agent, which say nothing; then a holder opens
a session, and a new client says HELLO to the tracker, each first in half of the rounds.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import resource
import socket
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

import harness
from fleet_part import Part, Row, run_alone
from fleet_roles import real_fleet
from harness import figure
from loopwright.fleet.client.aio import AsyncFleet
from loopwright.fleet.client.control import Control
from loopwright.fleet.client.lease import HeldLease
from loopwright.fleet.client.session import Blob
from loopwright.fleet.request import LeaseRequest
from loopwright.fleet.security.handshake import ByToken, greet
from loopwright.fleet.wire.address import parse
from loopwright.fleet.wire.link import Link, dial
from loopwright.outcome import cores_for

STRANGERS = 1_000
BLOB_BYTES = 64 << 20
_SPARE_DESCRIPTORS = 512
_AFTER = 4  # opens and hellos beside the same strangers


@dataclass(slots=True)
class Beside:
    """Milliseconds of what was asked for beside silent connections."""

    opens: list[float]
    hellos: list[float]


async def _far(address: str) -> Link:
    """A link as to another machine: secrets must not go over it, and frames need a MAC."""
    link = await dial(address)
    link.peer = replace(link.peer, local=False)
    return link


@contextlib.asynccontextmanager
async def _leased(address: str, token: str) -> AsyncIterator[tuple[AsyncFleet, HeldLease]]:
    chance = np.random.default_rng(0).random
    control = Control(functools.partial(dial, address), ByToken(token), time.monotonic, chance)
    fleet = AsyncFleet(control, _far, time.monotonic)
    await fleet.start()
    try:
        async with fleet.lease(LeaseRequest()) as (held,):
            yield fleet, held
    finally:
        await fleet.close()


async def open_ms(fleet: AsyncFleet, held: HeldLease) -> float:
    """Milliseconds from the dial to an open session, which is closed again."""
    begin = time.perf_counter()
    session = await fleet.open(held)
    spent = (time.perf_counter() - begin) * 1e3
    await session.close()
    return spent


async def hello_ms(address: str, token: str) -> float:
    """Milliseconds from the dial to the tracker's welcome."""
    begin = time.perf_counter()
    link = await dial(address)
    await greet(link, "client", ByToken(token))
    spent = (time.perf_counter() - begin) * 1e3
    link.close()
    return spent


async def uploads(fleet: AsyncFleet, held: HeldLease, rounds: int) -> tuple[float, int]:
    """MB/s of the first upload of a blob, the median; and bytes sent by the second of each."""
    rng = np.random.default_rng(0)
    speeds: list[float] = []
    again = 0
    for _ in range(rounds):
        blob = Blob.of(rng.bytes(BLOB_BYTES))
        session = await fleet.open(held)
        begin = time.perf_counter()
        await session.upload([blob])
        speeds.append(BLOB_BYTES / 1e6 / (time.perf_counter() - begin))
        await session.close()
        session = await fleet.open(held)  # a new one, which knows nothing of the first
        again += await session.upload([blob])
        await session.close()
    return statistics.median(speeds), again


@contextlib.contextmanager
def strangers(addresses: tuple[str, ...], count: int) -> Iterator[None]:
    """Connections to each of `addresses` that say nothing."""
    places = [(parse(address).host, parse(address).port) for address in addresses]
    with contextlib.ExitStack() as stack:
        for _ in range(count):
            for place in places:
                stack.enter_context(socket.create_connection(place))
        yield


async def beside_strangers(
    addresses: tuple[str, ...],
    opens: Callable[[], Awaitable[float]],
    hellos: Callable[[], Awaitable[float]],
    rounds: int,
) -> Beside:
    """What opening a session and a hello take beside silent connections to `addresses`."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = min(most, 2 * STRANGERS + _SPARE_DESCRIPTORS)
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, most))
    found = Beside([], [])
    for number in range(rounds):
        asked = [(opens, found.opens), (hellos, found.hellos)]
        with strangers(addresses, STRANGERS):
            for _ in range(_AFTER):
                for ask, times in asked if number % 2 else asked[::-1]:
                    times.append(await ask())
    return found


async def _measure(address: str, token: str, *, quick: bool) -> Part:
    async with _leased(address, token) as (fleet, held):
        harness.progress("sessions are opened, blobs sent")
        opens = [await open_ms(fleet, held) for _ in range(35 if quick else 205)][5:]
        speed, again = await uploads(fleet, held, 2 if quick else 5)
        harness.progress(f"{STRANGERS:,} silent connections to the tracker, and to the agent")
        beside = await beside_strangers(
            (address, held.device.addresses[0]),
            functools.partial(open_ms, fleet, held),
            functools.partial(hello_ms, address, token),
            6 if quick else 50,
        )
    p50, p99 = np.percentile(opens, [50, 99])
    figures = (
        figure("session open", float(p50), "ms", at_most=10.0),
        figure("session open, 1,000 silent, p99", _p99(beside.opens), "ms", at_most=50.0),
        figure("hello, 1,000 silent, p99", _p99(beside.hellos), "ms", at_most=50.0),
        figure("upload with MAC", speed, "MB/s", at_least=200.0),
        figure("second upload of a blob", again, "bytes", at_most=0.0),
    )
    rows = (
        Row("session open, p99", float(p99), "ms"),
        Row("session open beside 1,000 silent, p50", statistics.median(beside.opens), "ms"),
        Row("hello beside 1,000 silent, p50", statistics.median(beside.hellos), "ms"),
    )
    return Part(figures, rows)


def measure(quick: bool) -> Part:  # noqa: FBT001  # as all parts of fleet.py
    """Opens, uploads, strangers."""
    with tempfile.TemporaryDirectory(prefix="lw-") as name:
        folder = Path(name)
        with real_fleet(folder, cores_for(1)) as (_, address):
            token = (folder / "admin").read_text().strip()
            return asyncio.run(_measure(address, token, quick=quick))


def _p99(times: list[float]) -> float:
    return float(np.percentile(times, 99))


if __name__ == "__main__":
    sys.exit(harness.run(lambda words: run_alone("fleet_session", __doc__, measure, words)))
