from __future__ import annotations

import asyncio
import hashlib
import socket
import threading
from pathlib import Path

import pytest
from fleet_links import KEY, LOOPBACK, OTHER_KEY, run, served, until

from loopwright.errors import ConfigError, FleetError
from loopwright.fleet.security.mac import channel_macs
from loopwright.fleet.wire.codec import Data, Incoming, to_frame
from loopwright.fleet.wire.faults import Fault
from loopwright.fleet.wire.frame import FrameError
from loopwright.fleet.wire.link import Link, LinkClosed, LinkLimits, dial, pair
from loopwright.fleet.wire.listener import Listener
from loopwright.fleet.wire.messages import (
    Error,
    Ping,
    Pong,
    PutHead,
)

DIGEST = bytes(32)
ADDRESSES = ("tcp://127.0.0.1:0", "unix://{folder}/s.sock")


async def echo(link: Link) -> None:
    link.established()
    while True:
        message, stream = await link.receive_on_stream()
        assert isinstance(message, Ping)
        link.send(Pong(message.seq), stream)


@pytest.mark.parametrize("address", ADDRESSES)
def test_messages_cross_in_order_with_their_stream(address: str, tmp_path: Path) -> None:
    async def work() -> list[tuple[Incoming, int]]:
        async with served(echo, address.format(folder=tmp_path)) as (_, link):
            for seq in range(50):
                link.send(Ping(seq), stream=seq * 3)
            return [await link.receive_on_stream() for _ in range(50)]

    assert run(work()) == [(Pong(seq), seq * 3) for seq in range(50)]


def test_a_pair_is_two_ends_of_one_connection() -> None:
    async def work() -> None:
        one, other = await pair()
        one.send(Ping(1))
        other.send(Ping(2))
        assert await other.receive(1) == Ping(1)
        assert await one.receive(1) == Ping(2)
        assert one.peer.local
        assert one.peer.uid is not None
        one.close("enough")
        await other.wait_closed()
        assert other.closed
        assert one.why == "enough"

    run(work())


def test_messages_before_the_end_are_still_received() -> None:
    async def work() -> None:
        one, other = await pair()
        one.send(Ping(1))
        one.send(Ping(2))
        one.close()
        await other.wait_closed()
        assert [await other.receive(), await other.receive()] == [Ping(1), Ping(2)]
        with pytest.raises(LinkClosed, match="closed the connection"):
            await other.receive()
        with pytest.raises(LinkClosed):
            other.send(Ping(3))

    run(work())


def test_receive_gives_up_after_its_time_and_loses_nothing() -> None:
    async def work() -> None:
        one, other = await pair()
        with pytest.raises(TimeoutError):
            await other.receive(0.01)
        one.send(Ping(7))
        assert await other.receive(1) == Ping(7)
        one.close()
        await other.wait_closed()

    run(work())


def test_a_message_in_single_bytes_is_one_message() -> None:
    async def work() -> None:
        data = to_frame(Ping(5), 9).encode() + to_frame(Ping(6)).encode()
        loop = asyncio.get_running_loop()
        mine, theirs = socket.socketpair()
        _, link = await loop.create_connection(Link, sock=theirs)
        mine.setblocking(False)
        for byte in data:
            await loop.sock_sendall(mine, bytes((byte,)))
        assert await link.receive_on_stream(1) == (Ping(5), 9)
        assert await link.receive(1) == Ping(6)
        mine.close()
        await link.wait_closed()

    run(work())


def test_callbacks_get_what_had_arrived_before_and_the_end_once() -> None:
    async def work() -> None:
        one, other = await pair()
        got: list[Incoming] = []
        ends: list[str] = []
        one.send(Ping(1))
        one.send(Ping(2))
        assert await other.receive(1) == Ping(1)
        other.on_message(lambda message, _: got.append(message), ends.append)
        await until(lambda: len(got) == 1)
        one.send(Ping(3))
        await until(lambda: len(got) == 2)
        one.close()
        await other.wait_closed()
        await until(lambda: bool(ends))
        assert got == [Ping(2), Ping(3)]
        assert len(ends) == 1
        assert "closed the connection" in ends[0]

    run(work())


def test_the_end_is_told_when_it_came_before_the_callback() -> None:
    async def work() -> None:
        one, other = await pair()
        one.close()
        await other.wait_closed()
        ends: list[str] = []
        other.on_message(lambda *_: None, ends.append)
        await until(lambda: bool(ends))
        assert len(ends) == 1

    run(work())


def test_answers_from_a_callback_go_out_when_it_closes_the_link() -> None:
    async def work() -> None:
        one, other = await pair()

        def answer(message: Incoming, stream: int) -> None:
            assert isinstance(message, Ping)
            other.send(Pong(message.seq), stream)
            if message.seq == 2:
                other.close("done")

        other.on_message(answer, lambda _: None)
        for seq in range(5):
            one.send(Ping(seq))
        assert [await one.receive(1) for _ in range(3)] == [Pong(0), Pong(1), Pong(2)]
        with pytest.raises(LinkClosed):
            await one.receive(1)

    run(work())


def test_a_callback_that_fails_closes_its_link_alone() -> None:
    async def work() -> None:
        one, other = await pair()
        said: list[dict[str, object]] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: said.append(context))
        ends: list[str] = []

        def fail(message: Incoming, stream: int) -> None:
            raise ValueError(f"{message} {stream}")

        other.on_message(fail, ends.append)
        one.send(Ping(1))
        await one.wait_closed()
        await until(lambda: bool(ends))
        assert isinstance(said[0]["exception"], ValueError)

    run(work())


def test_reading_that_is_paused_delivers_nothing_until_it_goes_on() -> None:
    async def work() -> None:
        one, other = await pair()
        got: list[Incoming] = []

        def take(message: Incoming, _: int) -> None:
            got.append(message)
            if len(got) == 2:
                other.pause_reading()

        other.on_message(take, lambda _: None)
        for seq in range(4):
            one.send(Ping(seq))
        await until(lambda: len(got) == 2)
        one.send(Ping(4))
        for _ in range(20):
            await asyncio.sleep(0)
        assert len(got) == 2
        other.resume_reading()
        await until(lambda: len(got) == 5)
        one.close()
        await other.wait_closed()

    run(work())


def test_what_is_not_read_is_bounded_and_the_sender_waits() -> None:
    async def work() -> None:
        one, other = await pair()
        chunk = bytes(1 << 20)
        sent = 0

        async def send() -> None:
            nonlocal sent
            for index in range(40):
                await one.send_data(PutHead(DIGEST, index << 20, 40 << 20), chunk)
                sent += 1

        task = asyncio.create_task(send())
        for _ in range(200):
            await asyncio.sleep(0)
        assert sent < 20
        assert other._decoder.buffered < 4 << 20
        for index in range(40):
            got = await other.receive(5)
            assert isinstance(got, Data)
            assert isinstance(got.head, PutHead)
            assert got.head.offset == index << 20
        await task
        one.close()
        await other.wait_closed()

    run(work())


@pytest.mark.parametrize("mac", [False, True])
def test_largest_frames_never_stall_a_bounded_reader(mac: bool) -> None:
    async def work() -> None:
        one, other = await pair(LinkLimits(unread=(1 << 20) + 1024))
        if mac:
            one.protect(*channel_macs(KEY, dialer=True))
            other.protect(*channel_macs(KEY, dialer=False))
        total, chunk = 12, bytes(range(256)) * 4096

        async def send() -> None:
            for index in range(total):
                await one.send_data(PutHead(DIGEST, index << 20, total << 20), chunk)

        task = asyncio.create_task(send())
        for _ in range(total):
            got = await other.receive(5)
            assert isinstance(got, Data)
            assert hashlib.sha256(got.data).digest() == hashlib.sha256(chunk).digest()
        await task
        one.close()
        await other.wait_closed()

    run(work())


def test_a_peer_that_does_not_read_is_cut_off() -> None:
    async def work() -> None:
        one, other = await pair(LinkLimits(unsent=4 << 20))
        other.pause_reading()
        message = Error(code="x", detail="y" * 16_000)
        for _ in range(2000):
            if one.closed:
                break
            one.send(message)
        with pytest.raises(LinkClosed, match="does not read"):
            one.send(message)
        assert one.tally.of(Fault.SLOW_READER) == 1
        await one.wait_closed()
        other.close()
        await other.wait_closed()

    run(work())


def test_drain_ends_when_the_link_does() -> None:
    async def work() -> None:
        one, other = await pair(LinkLimits(unsent=64 << 20))
        other.pause_reading()
        for _ in range(400):
            one.send(Error(code="x", detail="y" * 16_000))
        task = asyncio.create_task(one.drain())
        await asyncio.sleep(0)
        assert not task.done()
        other.abort()
        with pytest.raises(LinkClosed):
            await task
        await one.wait_closed()

    run(work())


def test_closing_does_not_wait_for_a_peer_that_does_not_read() -> None:
    async def work() -> None:
        one, other = await pair(LinkLimits(linger_s=0.02))
        other.pause_reading()
        for _ in range(200):
            one.send(Error(code="x", detail="y" * 16_000))
        one.close()
        await one.wait_closed()
        other.close()
        await other.wait_closed()

    run(work())


@pytest.mark.parametrize("callbacks", [False, True])
def test_bytes_that_are_no_frame_close_the_link_and_say_why(callbacks: bool) -> None:
    async def work() -> None:
        ends: list[str] = []

        async def handler(link: Link) -> None:
            link.established()
            if callbacks:
                link.on_message(lambda *_: None, ends.append)
                return
            try:
                await link.receive()
            except FrameError as error:
                ends.append(str(error))
                raise

        async with served(handler) as (listener, link):
            assert link._transport is not None
            link._transport.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            told = await link.receive(2)
            assert isinstance(told, Error)
            assert told.code == "protocol"
            await link.wait_closed()
            await until(lambda: bool(ends))
            assert "expected a frame" in ends[0]
            assert listener.tally.of(Fault.BAD_FRAME) == 1

    run(work())


def test_nothing_is_received_after_a_frame_that_was_refused() -> None:
    async def work() -> None:
        one, other = await pair()
        other.protect(*channel_macs(KEY, dialer=False))
        one.send(Ping(1))
        one.send(Ping(2))
        with pytest.raises(FrameError, match="without the MAC"):
            await other.receive(1)
        with pytest.raises(LinkClosed):
            await other.receive(1)
        await one.wait_closed()

    run(work())


def test_protection_begins_between_two_frames_that_came_together() -> None:
    async def work() -> None:
        one, other = await pair()
        one.send(Ping(1))
        one.protect(*channel_macs(KEY, dialer=True))
        one.send(Ping(2))
        await until(lambda: other._decoder.buffered > 40)
        assert await other.receive(1) == Ping(1)
        other.protect(*channel_macs(KEY, dialer=False))
        assert await other.receive(1) == Ping(2)
        other.send(Pong(2))
        assert await one.receive(1) == Pong(2)
        one.close()
        await other.wait_closed()

    run(work())


def test_another_key_closes_the_link() -> None:
    async def work() -> None:
        one, other = await pair()
        one.protect(*channel_macs(KEY, dialer=True))
        other.protect(*channel_macs(OTHER_KEY, dialer=False))
        one.send(Ping(1))
        with pytest.raises(FrameError, match="not authentic"):
            await other.receive(1)
        assert other.tally.of(Fault.BAD_MAC) == 1
        await one.wait_closed()

    run(work())


def test_tcp_links_notice_dead_peers_and_do_not_delay_small_messages() -> None:
    async def work() -> None:
        async with served(echo, LOOPBACK) as (listener, link):
            link.send(Ping(1))
            await until(lambda: len(listener.links) == 1)
            for end in (link, *listener.links):
                assert end._transport is not None
                sock = end._transport.get_extra_info("socket")
                assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
                assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
                assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 5
                assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT) == 3
                assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 15_000

    run(work())


def test_links_work_in_a_loop_of_another_thread() -> None:
    answers: list[Incoming] = []

    async def work() -> None:
        async with served(echo) as (_, link):
            link.send(Ping(3))
            answers.append(await link.receive(5))

    thread = threading.Thread(target=lambda: run(work()))
    thread.start()
    thread.join(20)
    assert answers == [Pong(3)]


def test_dialling_where_nobody_is_says_so() -> None:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
        with pytest.raises(FleetError, match=r"127\.0\.0\.1.*cannot be reached") as caught:
            run(dial(f"tcp://127.0.0.1:{port}"))
    assert caught.value.retryable


def test_tls_needs_to_know_whom_to_trust() -> None:
    with pytest.raises(ConfigError, match="--ca"):
        run(dial("tls://127.0.0.1:1"))


def test_a_listener_and_its_certificate_go_together() -> None:
    async def handler(link: Link) -> None:
        await link.receive()

    with pytest.raises(ConfigError, match="certificate"):
        Listener("tls://127.0.0.1:0", handler)
