"""A tracker with too much to do at once: everybody is let in, after a while and some tries."""

from __future__ import annotations

import asyncio
import datetime
import itertools
import socket
import time
from pathlib import Path

import pytest
from fleet_tracker import Site, run, site

from loopwright.errors import AuthError, FleetError
from loopwright.fleet.client.control import Control, ControlConfig
from loopwright.fleet.client.patience import Patience, patiently
from loopwright.fleet.security.handshake import Anonymous, ByToken, Credential
from loopwright.fleet.wire import listener as listener_module
from loopwright.fleet.wire.faults import Fault
from loopwright.fleet.wire.link import BusyError, Link, dial, pair
from loopwright.fleet.wire.listener import Listener, ListenLimits
from loopwright.fleet.wire.messages import Ping, Pong
from loopwright.serving import tls

MANY = 60
QUICK = ControlConfig(reconnect_s=0.001, reconnect_max_s=0.004, busy_s=0.05)


class TestPatience:
    def test_waits_grow_and_differ(self) -> None:
        chances = itertools.cycle([0.0, 0.5, 0.99])
        waits = Patience(0.1, 0.5, 10.0).waits(lambda: next(chances))
        found = list(itertools.islice(waits, 6))
        assert found == pytest.approx([0.05, 0.2, 0.596, 0.25, 0.5, 0.745])

    def test_who_is_busy_is_tried_again(self) -> None:
        tries: list[float] = []

        async def attempt() -> str:
            tries.append(0.0)
            if len(tries) < 4:
                raise BusyError("tls://lab:1")
            return "in"

        waits = Patience(0.0, 0.0, 10.0)
        assert run(patiently(attempt, waits, lambda: 0.0, lambda: 0.0)) == "in"
        assert len(tries) == 4

    def test_not_for_ever(self) -> None:
        times = itertools.count(0.0, 1.0)

        async def attempt() -> str:
            raise BusyError("tls://lab:1")

        said = r"tls://lab:1 is busy, .*: it hung up .* \(\d+ tries in 1[01] s\)"
        with pytest.raises(BusyError, match=said) as caught:
            run(patiently(attempt, Patience(0.0, 0.0, 10.0), lambda: next(times), lambda: 0.0))
        assert caught.value.retryable

    @pytest.mark.parametrize("error", [AuthError("no"), FleetError("nobody", retryable=True)])
    def test_who_refuses_or_is_not_there_is_not(self, error: FleetError) -> None:
        tries: list[float] = []

        async def attempt() -> str:
            tries.append(0.0)
            raise error

        with pytest.raises(FleetError):
            run(patiently(attempt, Patience(0.0, 0.0, 10.0), lambda: 0.0, lambda: 0.0))
        assert len(tries) == 1


def test_a_client_says_that_the_tracker_is_busy_which_hangs_up_on_it() -> None:
    async def work() -> None:
        calls: list[Link] = []

        async def hang_up() -> Link:
            ours, theirs = await pair()
            calls.append(theirs)
            theirs.abort("no time")
            return ours

        control = Control(hang_up, Anonymous(), time.monotonic, lambda: 0.5, QUICK)
        with pytest.raises(BusyError, match=r"is busy.*: it hung up before it let this one in"):
            await control.start()
        assert len(calls) > 2

    run(work())


def test_one_that_hangs_up_in_the_midst_of_tls_is_busy(folder: Path) -> None:
    async def work() -> None:
        def hang_up(_: object, writer: asyncio.StreamWriter) -> None:
            writer.transport.abort()

        async with await asyncio.start_server(hang_up, "127.0.0.1", 0) as server:
            port = server.sockets[0].getsockname()[1]
            with pytest.raises(BusyError, match=f"tls://127.0.0.1:{port} is busy"):
                await dial(f"tls://127.0.0.1:{port}", tls=tls.client_context(folder))

    run(work())


def test_one_that_speaks_no_tls_is_not_busy(folder: Path) -> None:
    async def talk(link: Link) -> None:
        await link.receive()

    async def work() -> None:
        async with Listener("tcp://127.0.0.1:0", talk) as listener:
            where = listener.addresses[0].replace("tcp", "tls")
            with pytest.raises(AuthError, match="TLS failed"):
                await dial(where, tls=tls.client_context(folder))

    run(work())


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("cryptography", reason="the extra [tls] is not installed")
    from loopwright.fleet.security import authority

    made = tmp_path_factory.mktemp("ca")
    now = datetime.datetime.now(datetime.UTC)  # OpenSSL asks the machine's clock, so must the test
    authority.init(made, now)
    authority.issue_server(made, ["127.0.0.1"], now)
    return made


@pytest.fixture
def remote(monkeypatch: pytest.MonkeyPatch) -> None:
    """This machine counts as another."""
    monkeypatch.setattr(listener_module, "is_loopback", lambda host: not host)


@pytest.mark.usefixtures("remote")
def test_a_crowd_from_one_host_is_let_in(folder: Path) -> None:
    async def work() -> None:
        async with site() as here:
            made = await (await here.client()).command("token.issue", name="ci")
            context, tally = tls.server_context(folder), here.tracker.link_tally
            async with Listener(
                "tls://127.0.0.1:0", here.tracker.serve, tls=context, tally=tally
            ) as listener:
                address, trusted = listener.addresses[0], tls.client_context(folder)
                crowd = [_client(address, trusted, ByToken(made["token"])) for _ in range(MANY)]
                await asyncio.gather(*(control.start() for control in crowd))
                assert _there(here) == MANY
                assert tally.of(Fault.HANDSHAKE_TIMEOUT) == tally.of(Fault.TOO_MANY) == 0
                await asyncio.gather(*(control.close() for control in crowd))

    run(work())


def _client(address: str, trusted: object, who: Credential) -> Control:
    async def connect() -> Link:
        return await dial(address, tls=trusted)  # type: ignore[arg-type]  # a context

    return Control(connect, who, time.monotonic, lambda: 0.5, ControlConfig(reconnect_s=0.01))


def _there(here: Site) -> int:
    return sum(1 for client in here.tracker.clients.values() if client.who.name == "ci")


@pytest.mark.usefixtures("remote")
def test_a_handshake_that_goes_on_is_not_put_out_for_others() -> None:
    async def two_steps(link: Link) -> None:
        for number in (1, 2):
            assert await link.receive() == Ping(number)
            link.send(Pong(number))
        link.established()
        await link.wait_closed()

    async def work() -> None:
        limits = ListenLimits(half_open=4, half_open_per_host=2, handshake_s=15.0, waiting_s=15.0)
        async with Listener("tcp://127.0.0.1:0", two_steps, limits=limits) as listener:
            links = []
            for number in range(10):
                links.append(await dial(listener.addresses[0]))
                links[-1].send(Ping(1))
                while listener.half_open <= number:
                    await asyncio.sleep(0.001)
            for link in links:  # each is served in its turn, when one before it is done
                assert await link.receive(10) == Pong(1)
                link.send(Ping(2))
                assert await link.receive(10) == Pong(2)
            assert listener.tally.figures() == {}
            assert listener.half_open == 0
            for link in links:
                link.close()
                await link.wait_closed()

    run(work())


@pytest.mark.usefixtures("remote")
def test_who_has_spoken_before_anybody_looked_is_not_taken_for_silent() -> None:
    async def one_step(link: Link) -> None:
        assert await link.receive() == Ping(1)
        link.send(Pong(1))
        link.established()
        await link.wait_closed()

    async def work() -> None:
        limits = ListenLimits(half_open_per_host=2)
        ping = await _bytes_of(Ping(1))
        async with Listener("tcp://127.0.0.1:0", one_step, limits=limits) as listener:
            host, port = listener.addresses[0].removeprefix("tcp://").split(":")
            socks = []
            for _ in range(20):  # all within one turn of the loop
                sock = socket.create_connection((host, int(port)))
                sock.sendall(ping)
                socks.append(sock)
            while len(listener.links) < 20 or listener.half_open:
                await asyncio.sleep(0.001)
            assert listener.tally.figures() == {}
            for sock in socks:
                sock.close()

    run(work())


async def _bytes_of(message: Ping) -> bytes:
    """A message as it is on the wire."""
    loop = asyncio.get_running_loop()
    one, other = socket.socketpair()
    one.setblocking(False)
    _, link = await loop.create_connection(Link, sock=other)
    link.send(message)
    found = await loop.sock_recv(one, 100)
    link.abort()
    one.close()
    return found
