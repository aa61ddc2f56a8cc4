"""The tracker as a process: restarts, `kill -9`, signals, first start, and what is refused."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import sqlite3
import stat
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import numpy as np
import pytest
from fleet_tracker import QUICK, Client, FakeAgent, info, run, until

from loopwright.errors import ConfigError, FleetError
from loopwright.fleet.security.handshake import Anonymous, ByKey, ByToken, Credential, greet
from loopwright.fleet.store.rows import StoreFencedError
from loopwright.fleet.tracker.config import TrackerConfig
from loopwright.fleet.tracker.serve import ServeOptions, Serving, serve
from loopwright.fleet.wire.link import dial
from loopwright.fleet.wire.messages import DeviceReport, Register, Renew, Renewed

_SERVE = """
import asyncio, json, sys
import numpy as np
from loopwright.fleet.tracker.config import TrackerConfig
from loopwright.fleet.tracker.serve import ServeOptions, serve
config = TrackerConfig(auth=False, sync_active_s=0.1, sync_idle_s=0.2)
options = ServeOptions(listen=(sys.argv[1],), store=sys.argv[2], config=config)
ready = lambda serving: print(json.dumps(serving.addresses), flush=True)
asyncio.run(serve(options, rng=np.random.default_rng(0), log=sys.stderr, ready=ready))
"""


class Process:
    """A tracker of its own."""

    def __init__(self, address: str, store: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", _SERVE, address, store],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    async def address(self) -> str:
        assert self.process.stdout is not None
        line = await asyncio.to_thread(self.process.stdout.readline)
        assert line, self.process.communicate()[1]
        return str(json.loads(line)[0])

    async def end(self, number: int) -> tuple[int, str]:
        """Send a signal; the exit code and what was logged."""
        self.process.send_signal(number)
        _, said = await asyncio.to_thread(self.process.communicate)
        return self.process.returncode, said


async def comes(address: str, role: str, credential: Credential) -> tuple[object, object]:
    """A link to a tracker that may not be up yet."""
    while True:
        try:
            link = await dial(address)
            return link, await greet(link, role, credential)
        except FleetError:
            await asyncio.sleep(0.01)


async def client_of(address: str) -> Client:
    return Client(*await comes(address, "client", Anonymous()))  # type: ignore[arg-type]


async def agent_of(address: str, *devices: str, seq: int = 0, key: bytes = b"") -> FakeAgent:
    link, welcome = await comes(address, "agent", ByKey("pi", key) if key else Anonymous("pi"))
    agent = FakeAgent(link, welcome, "boot-1", {}, seq=seq)  # type: ignore[arg-type]
    agent.reports = {
        name: DeviceReport(name=name, occupancy="idle", health="good") for name in devices
    }
    agent.link.send(Register("boot-1", tuple(map(info, devices))))
    agent.listen()
    return agent


def test_after_kill_9_leases_continue_and_epochs_grow(tmp_path: Path) -> None:
    store = f"sqlite:///{tmp_path}/tracker.db"

    async def work() -> None:
        first = Process("tcp://127.0.0.1:0", store)
        address = await first.address()
        agent = await agent_of(address, "pi/cpu0", "pi/cpu1")
        agent.sync()
        client = await client_of(address)
        kept = await client.acquire("name=pi/cpu0", request="kept", max_wait_ms=5000)
        given_back = await client.acquire("name=pi/cpu1", max_wait_ms=5000)
        agent.serve_lease(kept)
        await agent.told("pi/cpu0", lambda order: order.lease == kept.lease)
        code, _ = await first.end(signal.SIGKILL)
        assert code == -signal.SIGKILL

        second = Process(address, store)
        client = await client_of(address)
        assert client.welcome.tracker_epoch == 2
        again = await agent_of(
            address, "pi/cpu0", "pi/cpu1", seq=agent.seq, key=agent.welcome.device_key
        )
        again.reports = dict(agent.reports)
        again.sync()
        await again.told("pi/cpu0", lambda order: order.lease == kept.lease)
        client.link.send(Renew(kept.lease, kept.epoch))
        assert (await client.hear(Renewed)).verdict == "ok"
        same = await client.acquire("name=pi/cpu0", request="kept")
        assert (same.lease, same.epoch) == (kept.lease, kept.epoch)
        await client.release(given_back)
        newer = await client.acquire("name=pi/cpu1", max_wait_ms=5000)
        assert newer.epoch > given_back.epoch
        assert newer.lease != given_back.lease
        code, said = await second.end(signal.SIGTERM)
        assert code == 0
        assert json.loads(said.splitlines()[-1])["event"] in ("client.left", "agent.left")

    run(work(), 30.0)


def test_the_book_believes_the_device_more_than_the_store(tmp_path: Path) -> None:
    store = f"sqlite:///{tmp_path}/tracker.db"

    async def work() -> None:
        async with serving(
            ServeOptions(listen=("tcp://127.0.0.1:0",), store=store, config=OPEN)
        ) as here:
            agent = await agent_of(here.addresses[0], "pi/cpu0")
            agent.sync()
            client = await client_of(here.addresses[0])
            old = await client.acquire(max_wait_ms=5000)
        with contextlib.closing(sqlite3.connect(tmp_path / "tracker.db")) as rows:
            assert rows.execute("SELECT count(*) FROM leases").fetchone() == (1,)
        async with serving(
            ServeOptions(listen=("tcp://127.0.0.1:0",), store=store, config=OPEN)
        ) as here:
            key = agent.welcome.device_key
            agent = await agent_of(here.addresses[0], "pi/cpu0", seq=agent.seq, key=key)
            agent.reports["pi/cpu0"] = DeviceReport(
                name="pi/cpu0", occupancy="idle", health="good", last_epoch=old.epoch + 5000
            )
            agent.sync()
            client = await client_of(here.addresses[0])
            await until(lambda: here.tracker.book.counts.free == 1)
            assert here.tracker.book.lease(old.lease) is None
            assert (await client.acquire()).epoch > old.epoch + 5000

    run(work())


OPEN = TrackerConfig(auth=False, sync_active_s=QUICK.sync_active_s, sync_idle_s=QUICK.sync_idle_s)


@contextlib.asynccontextmanager
async def serving(options: ServeOptions) -> AsyncIterator[Serving]:
    """A tracker that serves within this process."""
    told = asyncio.Event()
    up: asyncio.Future[Serving] = asyncio.get_running_loop().create_future()
    task = asyncio.ensure_future(
        serve(options, rng=np.random.default_rng(0), ready=up.set_result, until=told)
    )
    done, _ = await asyncio.wait([task, up], return_when=asyncio.FIRST_COMPLETED)
    if task in done:
        task.result()
    try:
        yield up.result()
    finally:
        told.set()
        await task


def test_the_first_start_makes_an_admin_token_once(tmp_path: Path) -> None:
    secret = tmp_path / "admin-token"
    options = ServeOptions(
        listen=(f"unix://{tmp_path}/t.sock", "tcp://127.0.0.1:0"),
        store=f"sqlite:///{tmp_path}/tracker.db",
        config=QUICK,
        token_file=secret,
    )

    async def work() -> None:
        async with serving(options) as here:
            assert stat.S_IMODE(secret.stat().st_mode) == 0o600
            text = secret.read_text().strip()
            assert text == here.admin_token
            assert here.addresses[0] == f"unix://{tmp_path}/t.sock"
            link = await dial(here.addresses[1])
            assert (await greet(link, "client", ByToken(text))).role == 3
        async with serving(options) as here:
            assert here.admin_token == ""
            assert secret.read_text().strip() == text
            assert here.tracker.epoch == 2

    run(work())


@pytest.mark.parametrize(
    ("options", "match"),
    [
        (lambda f: ServeOptions(listen=(), store=f"sqlite:///{f}/t.db"), "needs an address"),
        (
            lambda f: ServeOptions(
                listen=("tcp://0.0.0.0:0",), store=f"sqlite:///{f}/t.db", config=OPEN
            ),
            "without authentication",
        ),
        (
            lambda f: ServeOptions(
                listen=("tcp://0.0.0.0:0",), store=f"sqlite:///{f}/t.db", config=QUICK
            ),
            "in the clear",
        ),
        (
            lambda f: ServeOptions(listen=("tls://127.0.0.1:0",), store=f"sqlite:///{f}/t.db"),
            "needs a certificate",
        ),
        (
            lambda f: ServeOptions(listen=("tcp://127.0.0.1:0",), store=f"sqlite:///{f}"),
            "is a folder",
        ),
        (lambda _: ServeOptions(listen=("tcp://127.0.0.1:0",), store="redis://x"), "not supported"),
    ],
)
def test_what_is_not_safe_or_not_there_is_refused(
    options: Callable[[Path], ServeOptions], match: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=match):
        run(serve(options(tmp_path), rng=np.random.default_rng(0)))
    assert list(tmp_path.iterdir()) == []


def test_a_store_that_is_none_of_ours_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("my notes")
    options = ServeOptions(listen=("tcp://127.0.0.1:0",), store=f"sqlite:///{path}", config=OPEN)
    with pytest.raises(ConfigError, match="is not a database"):
        run(serve(options, rng=np.random.default_rng(0)))
    assert path.read_text() == "my notes"


def test_a_taken_address_does_not_take_the_store_over(tmp_path: Path) -> None:
    async def work() -> None:
        store = f"sqlite:///{tmp_path}/tracker.db"
        async with serving(
            ServeOptions(listen=("tcp://127.0.0.1:0",), store=store, config=OPEN)
        ) as here:
            again = ServeOptions(listen=here.addresses, store=store, config=OPEN)
            with pytest.raises(FleetError, match="another process listens there"):
                await serve(again, rng=np.random.default_rng(0))
            await here.tracker.saved()
            assert here.tracker.fenced is None

    run(work())


def test_a_tracker_that_was_replaced_says_so_and_ends(tmp_path: Path) -> None:
    store = f"sqlite:///{tmp_path}/tracker.db"

    async def work() -> None:
        options = ServeOptions(listen=("tcp://127.0.0.1:0",), store=store, config=OPEN)
        up: asyncio.Future[Serving] = asyncio.get_running_loop().create_future()
        first = asyncio.ensure_future(
            serve(options, rng=np.random.default_rng(0), ready=up.set_result)
        )
        here = await up
        second = Process("tcp://127.0.0.1:0", store)
        await second.address()
        here.tracker.audit("something", "to be saved")
        with pytest.raises(StoreFencedError, match="only the newest may write"):
            await first
        code, _ = await second.end(signal.SIGTERM)
        assert code == 0

    run(work(), 30.0)
