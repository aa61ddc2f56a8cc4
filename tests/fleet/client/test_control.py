"""The client's connection with a tracker, against a tracker that says what the test wants."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable

import pytest
from fleet_tracker import run

from loopwright.errors import ConfigError, FleetError, NoDeviceError, QueueTimeoutError
from loopwright.fleet.client.control import Control, ControlConfig
from loopwright.fleet.request import LeaseRequest
from loopwright.fleet.security.handshake import Anonymous
from loopwright.fleet.wire.link import Link, pair
from loopwright.fleet.wire.messages import (
    PROTOCOL,
    Acquire,
    Ask,
    Command,
    Error,
    Hello,
    Message,
    Welcome,
    failed,
    question_of,
)
from loopwright.fleet.words import ErrorCode

ASKED = Acquire(
    request="r1",
    selector="board=rpi4",
    count=2,
    ttl_ms=12_000,
    priority=3,
    max_wait_ms=50_000,
    modules={"runtime": "0" * 64},
    tags={"for": "conv2d"},
)


class FakeTracker:
    """Welcomes whoever dials and hands on what comes; `proto` is what it speaks."""

    def __init__(self, proto: int = PROTOCOL) -> None:
        self.proto = proto
        self.links: list[Link] = []
        self.welcomed: asyncio.Queue[Link] = asyncio.Queue()

    async def dial(self) -> Link:
        ours, theirs = await pair()
        self.links.append(theirs)
        asyncio.get_running_loop().create_task(self._welcome(theirs))
        return ours

    async def _welcome(self, link: Link) -> None:
        assert isinstance(await link.receive(1), Hello)
        link.send(
            Welcome(
                proto=self.proto, tracker="t", tracker_epoch=1, sync_ms=1000, principal="p", role=1
            )
        )
        self.welcomed.put_nowait(link)

    async def heard(self, link: Link) -> Message:
        message = await link.receive(1)
        assert isinstance(message, Message)
        return message


@contextlib.asynccontextmanager
async def connected(tracker: FakeTracker, now: Callable[[], float]) -> AsyncIterator[Control]:
    config = ControlConfig(reconnect_s=0.0, reconnect_max_s=0.0, release_s=0.0)
    control = Control(tracker.dial, Anonymous(), now, lambda: 0.0, config)
    await control.start()
    try:
        yield control
    finally:
        await control.close()


def test_the_request_of_this_test_sets_each_field_to_something_of_its_own() -> None:
    plain = Acquire(request="", selector="")
    unset = [n for n in Acquire.__struct_fields__ if getattr(ASKED, n) == getattr(plain, n)]
    assert unset == [], "set them in ASKED: it shows that they survive a reconnect"


def test_what_is_asked_is_the_same_at_both_ends() -> None:
    asked = ASKED.asked
    plain = LeaseRequest()
    unset = [n for n in LeaseRequest.__struct_fields__ if getattr(asked, n) == getattr(plain, n)]
    assert unset == [], "a field of LeaseRequest that Acquire does not carry"
    assert Acquire.of("r1", asked) == ASKED


@pytest.mark.parametrize("waited_s", [0.0, 20.0])
def test_every_field_of_a_request_survives_a_reconnect(waited_s: float) -> None:
    async def work() -> None:
        times = [0.0]
        tracker = FakeTracker()
        async with connected(tracker, lambda: times[0]) as control:
            waiting = asyncio.create_task(control.acquire(ASKED, lambda *_: None))
            first = await tracker.welcomed.get()
            assert await tracker.heard(first) == ASKED
            times[0] = waited_s
            first.abort()
            again = await tracker.heard(await tracker.welcomed.get())
            assert isinstance(again, Acquire)
            for name in Acquire.__struct_fields__:
                if name != "max_wait_ms":
                    assert getattr(again, name) == getattr(ASKED, name), name
            assert again.max_wait_ms == ASKED.max_wait_ms - 1000 * waited_s
            waiting.cancel()

    run(work())


@pytest.mark.parametrize("proto", range(1, PROTOCOL + 1))
def test_an_error_ends_the_question_that_it_answers_and_no_other(proto: int) -> None:
    async def work() -> None:
        tracker = FakeTracker(proto)
        async with connected(tracker, lambda: 0.0) as control:
            link = await tracker.welcomed.get()
            one = asyncio.create_task(control.page("devices"))
            other = asyncio.create_task(control.command("device.probe", {"device": "a/0"}))
            asked, told = await tracker.heard(link), await tracker.heard(link)
            assert isinstance(asked, Ask)
            assert isinstance(told, Command)
            link.send(failed(told.id, ErrorCode.NO_DEVICE, "4: no device a/0", proto=proto))
            with pytest.raises(NoDeviceError, match=r"^4: no device a/0$"):
                await other
            assert not one.done()
            link.send(failed(asked.id, ErrorCode.BAD_REQUEST, "no such thing", proto=proto))
            with pytest.raises(ConfigError, match=r"^no such thing$"):
                await one

    run(work())


def test_a_code_of_a_newer_tracker_is_a_failure_like_any_other() -> None:
    async def work() -> None:
        tracker = FakeTracker()
        async with connected(tracker, lambda: 0.0) as control:
            link = await tracker.welcomed.get()
            asking = asyncio.create_task(control.page("devices"))
            asked = await tracker.heard(link)
            assert isinstance(asked, Ask)
            link.send(Error(code="moon-phase", detail="wait", fatal=False, answers=asked.id))
            with pytest.raises(FleetError, match=r"^wait$") as caught:
                await asking
            assert type(caught.value) is FleetError

    run(work())


@pytest.mark.parametrize("proto", range(1, PROTOCOL + 1))
@pytest.mark.parametrize("detail", ["no such thing", "12: a number in front", ""])
def test_what_an_error_answers_is_read_as_it_was_written(proto: int, detail: str) -> None:
    error = failed(41, ErrorCode.STORE, detail, proto=proto)
    assert question_of(error, proto=proto) == (41, detail)


def test_an_error_that_answers_nothing_is_taken_for_no_answer() -> None:
    error = Error(code=ErrorCode.PROTOCOL, detail="12: looks like one")
    assert question_of(error, proto=PROTOCOL) == (0, "12: looks like one")


def test_a_request_that_the_tracker_never_answers_is_given_up_in_time() -> None:
    async def work() -> None:
        tracker = FakeTracker()
        config = ControlConfig(late_s=0.0, release_s=0.0)
        control = Control(tracker.dial, Anonymous(), lambda: 0.0, lambda: 0.0, config)
        await control.start()
        asked = Acquire(request="r2", selector="x", max_wait_ms=0)
        with pytest.raises(QueueTimeoutError, match="no device for 'x' within 0 s"):
            await control.acquire(asked, lambda *_: None)
        await control.close()

    run(work())
