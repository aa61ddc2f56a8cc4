"""Frames between a runner and its measuring process."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from loopwright.errors import EnvironmentFailure
from loopwright.sandbox.wire import MAX_FRAME, RunReply, ServerReady, receive, send

Pair = tuple[socket.socket, socket.socket]


@pytest.fixture
def pair() -> Iterator[Pair]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours, theirs


def test_a_message_arrives_as_it_was_sent(pair: Pair) -> None:
    reply = RunReply(ns=(1.5, 2.0), detail="fine", run_s=0.25)
    send(pair[0], reply)

    assert receive(pair[1], RunReply) == reply


def test_messages_keep_their_order(pair: Pair) -> None:
    for pid in (1, 2, 3):
        send(pair[0], ServerReady(pid))

    assert [receive(pair[1], ServerReady).pid for _ in range(3)] == [1, 2, 3]


def test_an_oversized_frame_is_refused_before_it_is_read(pair: Pair) -> None:
    pair[0].sendall((MAX_FRAME + 1).to_bytes(4, "little"))

    with pytest.raises(EnvironmentFailure, match="over the limit"):
        receive(pair[1], ServerReady)


@pytest.mark.parametrize("body", [b"\xc1garbage", b"\x93\x01\x02\x03"])
def test_a_frame_that_is_no_such_message_is_refused(pair: Pair, body: bytes) -> None:
    pair[0].sendall(len(body).to_bytes(4, "little") + body)

    with pytest.raises(EnvironmentFailure, match="not a valid ServerReady"):
        receive(pair[1], ServerReady)


@pytest.mark.parametrize("sent", [b"", b"\x05\x00", b"\x05\x00\x00\x00ab"])
def test_an_end_within_a_frame_is_an_end(pair: Pair, sent: bytes) -> None:
    pair[0].sendall(sent)
    pair[0].close()

    with pytest.raises(EOFError):
        receive(pair[1], ServerReady)
