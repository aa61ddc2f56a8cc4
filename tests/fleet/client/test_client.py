"""The client: leases kept alive, a tracker that comes and goes, errors with their exit codes."""

from __future__ import annotations

import asyncio
import hashlib
import math
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from fleet_lab import WAIT_S, Lab, artifact

from loopwright.errors import (
    AuthError,
    ConfigError,
    DeviceLostError,
    FleetError,
    NoDeviceError,
    QueueTimeoutError,
    UnknownNameError,
)
from loopwright.fleet.agent.options import SessionLimits
from loopwright.fleet.book.config import BookConfig
from loopwright.fleet.client import control
from loopwright.fleet.client.api import Fleet, connect, credential
from loopwright.fleet.client.pending import failure_of
from loopwright.fleet.client.session import Blob, DeviceSession, SessionConfig
from loopwright.fleet.request import LeaseRequest
from loopwright.fleet.security.handshake import Anonymous, ByToken
from loopwright.fleet.sim.devices import Crash, timed
from loopwright.fleet.wire.messages import Acquire, Renewed, Result
from loopwright.fleet.words import EndReason, Priority
from loopwright.kernel_call import KernelCall
from loopwright.measure.pipeline import Run
from loopwright.outcome import Failed, MeasurePlan, Timed

PLAN = MeasurePlan(repeats=2)


async def behave(device: str, item: KernelCall, code: bytes) -> Result:
    del device
    if code == b"crash":
        raise Crash
    if code == b"infra":
        return Result(id=item.id, status="infra", detail="no fault of its own")
    return timed(item, 2000.0)


@pytest.fixture
def lab(lab: Lab) -> Lab:
    lab.agent("a", behave)
    return lab


def run(text: str) -> Run:
    return Run(artifact(text), PLAN, 0, want_output=False)


def wait_until(lab: Lab, condition: object) -> None:
    async def watch() -> None:
        while not condition():  # type: ignore[operator]
            await asyncio.sleep(0.001)

    lab.run(asyncio.wait_for(watch(), WAIT_S))


def test_a_batch_gives_one_result_each_in_order(lab: Lab) -> None:
    fleet = lab.client()
    with fleet.lease("board=sim") as lease, lease.session() as session:
        results = list(session.run_batch([run("good"), run("infra"), run("other")]))
    kinds = [type(r.outcome) for r in results]

    assert kinds == [Timed, Failed, Timed]
    assert results[0].outcome.where is not None
    assert results[0].outcome.where.lease == lease.id
    assert lease.devices[0].name == "a/0"


def test_the_second_upload_of_a_blob_sends_nothing(lab: Lab) -> None:
    fleet = lab.client()
    data = bytes(range(256)) * 12_000  # some 3 MB: several chunks
    with fleet.lease() as lease:
        with lease.session() as session:
            assert session.upload([data]) == len(data)
            assert session.upload([data]) == 0
            assert session.aio.sent_bytes == len(data)
        with lease.session() as session:
            assert session.upload([data, b"new"]) == 3
            assert session.aio.sent_bytes == 3


def test_only_the_chunks_that_are_missing_are_sent(lab: Lab) -> None:
    data = b"x" * (2 << 20)
    blobs = next(iter(lab.agents["a"].devices.values())).blobs
    digest = hashlib.sha256(data).digest()

    async def half() -> None:
        upload = blobs.begin(digest, len(data))
        blobs.write(upload, 0, len(data), data[: 1 << 20])
        blobs.leave(upload)

    lab.run(half())
    with lab.client().lease() as lease, lease.session() as session:
        assert session.upload([data]) == 1 << 20


def test_modules_that_are_in_place_are_not_changed(lab: Lab) -> None:
    with lab.client().lease() as lease, lease.session() as session:
        assert session.configure({"runtime": b"v1"}) == ("runtime",)
        assert session.configure({"runtime": b"v1"}) == ()


def test_a_lease_lives_much_longer_than_its_ttl(lab: Lab) -> None:
    fleet = lab.client()
    with fleet.lease(ttl=1.0) as lease:
        tracker = lab.tracker
        assert tracker is not None
        wait_until(lab, lambda: tracker.book.counts.renewed >= 4)
        lease.check()
        assert [found.id for found in fleet.leases()] == [lease.id]


def test_leases_and_requests_outlive_the_tracker(lab: Lab) -> None:
    fleet, other = lab.client(), lab.client()
    lease = fleet.lease(ttl=3.0)
    told = threading.Event()
    wish = LeaseRequest(max_wait_s=20.0)
    waiting = lab.thread.start(other.aio.acquire(wish, lambda _, __: told.set()))
    assert told.wait(WAIT_S)
    lab.run(lab.end())
    lab.run(lab.begin())
    wait_until(lab, lambda: fleet.aio.control.connected and other.aio.control.connected)
    wait_until(lab, lambda: len(fleet.aio._held) == 1 and lab.tracker.book.requests())
    lease.check()
    assert not waiting.done()
    lease.close()
    (held,) = waiting.result(WAIT_S)

    assert held.device.name == "a/0"
    assert held.grant.epoch > lease.aio[0].grant.epoch


def test_a_lease_that_cannot_be_renewed_is_given_up_before_its_time(lab: Lab) -> None:
    fleet = lab.client()
    lease = fleet.lease(ttl=1.0)
    lab.run(lab.end())
    wait_until(lab, lambda: not lease.aio[0].alive)

    with pytest.raises(DeviceLostError, match="which is away, did not renew it in time") as caught:
        lease.check()
    assert caught.value.exit_code == 5
    assert lease.aio[0].reason is EndReason.EXPIRED


def test_a_lease_is_renewed_at_once_when_the_tracker_is_back_with_its_client(lab: Lab) -> None:
    fleet, tracker = lab.client(), lab.tracker
    lease = fleet.lease(ttl=3600.0)  # its next renewal would be in 20 minutes
    assert tracker is not None
    lab.run(_hang_up(fleet))
    wait_until(lab, lambda: tracker.book.counts.renewed == 1)
    (view,) = tracker.book.leases(tracker.clock())

    assert view.away_s == 0.0
    lease.check()


async def _hang_up(fleet: Fleet) -> None:
    link = fleet.aio.control._link
    assert link is not None
    link.abort("reset")


def test_who_does_not_yield_in_time_is_told_that_it_was_preempted(tmp_path: Path) -> None:
    with Lab(tmp_path, BookConfig(yield_s=1.0)) as lab:
        lab.agent("a", behave)
        held, urgent = lab.client(), lab.client()
        lease = held.lease(ttl=3.0, priority=Priority.BATCH)
        session = lease.session()
        wish = LeaseRequest(priority=int(Priority.URGENT), max_wait_s=30.0)
        waiting = lab.thread.start(urgent.aio.acquire(wish))
        (other,) = waiting.result(WAIT_S)
        wait_until(lab, lambda: not lease.aio[0].alive and session.aio.over is not None)

        assert lease.wanted_back
        assert lease.aio[0].reason is EndReason.PREEMPTED
        with pytest.raises(DeviceLostError, match=r"is over, preempted: .*urgent request"):
            lease.check()
        with pytest.raises(DeviceLostError, match="preempted"):
            list(session.run_batch([run("good")]))
        assert other.alive
        assert held.explain(lease.id).text.startswith("ended: preempted, to urgent request r")
        ends = [event for event in held.events() if event.subject == lease.id]
        assert [" preempted " in event.detail for event in ends] == [True]


def test_a_session_that_ends_at_its_time_to_yield_was_preempted(lab: Lab) -> None:
    """An agent of before knows only that the time is up."""
    lease = lab.client().lease(ttl=30.0).aio[0]
    told = Renewed(lease.id, "yield-please", 10_000, "urgent request r9 waits for this device")

    async def end() -> None:
        lease._renewed(told, time.monotonic())
        lease.session_ended(EndReason.EXPIRED, "the lease was not renewed in time")

    lab.run(end())
    assert lease.reason is EndReason.PREEMPTED
    assert "r9" in lease.detail


def test_a_revoked_lease_ends_its_session(lab: Lab) -> None:
    fleet = lab.client()
    lease = fleet.lease()
    session = lease.session()
    fleet.command("lease.revoke", lease=lease.id, why="needed elsewhere")
    wait_until(lab, lambda: session.aio.over is not None)

    with pytest.raises(DeviceLostError):
        list(session.run_batch([run("good")]))
    wait_until(lab, lambda: not lease.aio[0].alive)
    with pytest.raises(DeviceLostError, match="revoked"):
        lease.check()


def test_a_device_that_dies_in_a_run_is_an_error_with_its_name(lab: Lab) -> None:
    with (
        lab.client().lease() as lease,
        lease.session() as session,
        pytest.raises(DeviceLostError, match="a/0: "),
    ):
        list(session.run_batch([run("good"), run("crash"), run("good")]))


def test_a_device_that_says_nothing_is_lost(lab: Lab) -> None:
    fleet = lab.client(sessions=SessionConfig(ping_s=0.02, silent_s=0.1))
    with fleet.lease() as lease, lease.session() as session:
        agent = lab.agents["a"]
        device = agent.devices["a/0"]
        serving = device._serving
        assert serving is not None
        session.aio._link.pause_reading()  # nothing is heard any more
        wait_until(lab, lambda: session.aio.over is not None)
    with pytest.raises(DeviceLostError, match="it said nothing for"):
        raise session.aio.over  # type: ignore[misc]  # it is not None


@pytest.mark.parametrize(
    ("selector", "error", "code"),
    [
        ("board=none", NoDeviceError, 3),
        ("board", QueueTimeoutError, 4),
        ("board=", ConfigError, 2),
    ],
)
def test_what_cannot_be_had_says_so_with_its_exit_code(
    lab: Lab, selector: str, error: type[FleetError], code: int
) -> None:
    fleet = lab.client()
    with fleet.lease("board=sim"), pytest.raises(error) as caught:
        fleet.lease(selector, max_wait=0.05)
    assert caught.value.exit_code == code


def test_a_request_that_is_given_up_is_forgotten_by_the_tracker(lab: Lab) -> None:
    fleet, other = lab.client(), lab.client()
    with fleet.lease():
        waiting = lab.thread.start(other.aio.acquire(LeaseRequest()))
        wait_until(lab, lambda: lab.tracker.book.requests())
        waiting.cancel()
        wait_until(lab, lambda: not lab.tracker.book.requests())


def test_devices_status_and_explanations_are_told(lab: Lab) -> None:
    fleet = lab.client()
    (device,) = fleet.devices("board=sim")
    assert (device.name, device.link, device.health) == ("a/0", "up", "good")
    assert fleet.devices("board=none") == ()
    assert fleet.status()["devices"] == 1
    with fleet.lease() as lease:
        assert fleet.explain(lease.id).state in ("granted", "active")
    with pytest.raises(FleetError, match="no lease or request 'l0' lives"):
        fleet.explain("l0")
    wait_until(lab, lambda: lab.tracker.committer.commits >= 0)
    assert {event.what for event in fleet.events()} >= {"tracker.start"}


def test_commands_change_what_people_want_of_devices(lab: Lab) -> None:
    fleet = lab.client()
    fleet.command("device.drain", device="a/0", why="new fan")
    (device,) = fleet.devices()
    assert (device.admin, device.why, device.grantable) == ("drain", "new fan", False)
    fleet.command("device.enable", device="a/0")
    assert fleet.devices()[0].admin == "enabled"
    with pytest.raises(NoDeviceError, match="no device is named 'b/0'"):
        fleet.command("device.drain", device="b/0")
    with pytest.raises(UnknownNameError, match=r"no command 'device\.burn'"):
        fleet.command("device.burn", device="a/0")


def test_a_closed_fleet_refuses_and_a_tracker_that_is_not_there_is_an_error(
    lab: Lab, tmp_path: Path
) -> None:
    fleet = lab.client()
    lab.run(fleet.aio.close())
    with pytest.raises(FleetError, match="closed"):
        fleet.devices()
    with pytest.raises(FleetError, match="cannot be reached") as caught:
        connect(f"unix://{tmp_path / 'none.sock'}")
    assert caught.value.exit_code == 69


def test_a_token_is_given_or_read_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.write_text("lw1.secret\n")

    assert credential(None) == Anonymous()
    assert credential("lw1.x") == ByToken("lw1.x")
    assert credential(f"@{path}") == ByToken("lw1.secret")
    with pytest.raises(ConfigError, match="No such file"):
        credential(f"@{tmp_path / 'none'}")


def test_refusals_are_the_errors_that_they_stand_for() -> None:
    assert isinstance(failure_of("auth", "no"), AuthError)
    assert isinstance(failure_of("bad-request", "no"), ConfigError)
    assert isinstance(failure_of("failed", "no"), FleetError)
    assert Blob.of(b"abc").digest == hashlib.sha256(b"abc").digest()


LONG = "x" * 2000


@pytest.mark.parametrize(
    ("wish", "words"),
    [
        ({"ttl": 1e12}, "a ttl of 1000000000000.0 s is not within 1 to 2592000 s"),
        ({"ttl": math.inf}, "a ttl of inf s is not within"),
        ({"max_wait": math.nan}, "a wait of nan s is not within 0 to 2592000 s"),
        ({"priority": 99}, "a priority of 99 is not within 0 to 3"),
        ({"count": 10**9}, "a count of 1000000000 devices is not within 1 to 1024 devices"),
        ({"tags": {"a b": "c"}}, "tags {'a b': 'c'}: expected letters, digits and"),
        ({"tags": {"a": LONG}}, "tags {'a': 'xxx.*: expected at most 256 characters"),
        ({"tags": {f"k{n}": "" for n in range(65)}}, "tags .*: expected at most 64 entries"),
    ],
)
def test_a_wish_out_of_bounds_is_refused_here_and_costs_no_connection(
    lab: Lab, wish: dict[str, Any], words: str
) -> None:
    fleet = lab.client()
    with pytest.raises(ConfigError, match=words):
        fleet.lease(**wish)
    with fleet.lease():
        assert fleet.aio.control.connections == 1


def test_a_question_about_what_cannot_be_a_name_is_refused_here(lab: Lab) -> None:
    fleet = lab.client()
    for name in ("a b", "../x"):
        with pytest.raises(ConfigError, match=f"name '{name}': expected letters, digits and"):
            fleet.explain(name)
    with pytest.raises(ConfigError, match=r"arguments .*: expected at most 16384"):
        fleet.command("device.drain", device="a/0", why=9 * LONG)
    assert fleet.status()["devices"] == 1
    assert fleet.aio.control.connections == 1


def test_what_the_tracker_would_not_read_is_not_said_again(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(control, "require_sendable", lambda _: None)
    fleet = lab.client()
    wish = Acquire(request="r1", selector="board=sim", priority=99)
    lease = fleet.lease()
    with pytest.raises(FleetError, match="would not read what was asked: not a valid Acquire"):
        lab.run(fleet.aio.control.acquire(wish, lambda _, __: None))
    with pytest.raises(FleetError, match="would not read what was asked: not a valid Ask"):
        fleet.explain("a b")
    assert [found.id for found in fleet.leases()] == [lease.id]
    assert fleet.aio.control.connections == 3
    lease.close()


def test_an_upload_that_is_refused_in_the_middle_disturbs_nothing_else(lab: Lab) -> None:
    """The device answers each piece of it, also those that were on their way."""
    agent = lab.agents["a"]
    agent.devices["a/0"].blobs.largest = 1 << 20
    held = asyncio.Event()

    async def hold(_: str, item: KernelCall, __: bytes) -> Result:
        await held.wait()
        return timed(item, 2000.0)

    async def scenario(session: DeviceSession) -> str:
        first, behind = (session.start(run(text), Blob.of(text.encode()).digest) for text in "ab")
        with pytest.raises(FleetError, match="the limit is 1048576"):
            await session.upload([Blob.of(bytes(8 << 20))])
        await session.upload([Blob.of(b"c")])  # by now each piece was answered
        held.set()
        return (await first).result.status + (await behind).result.status

    agent.behave = hold
    with lab.client().lease() as lease, lease.session() as session:
        session.upload([b"a", b"b"])
        assert lab.run(scenario(session.aio)) == "okok"


def test_of_batches_only_the_one_that_is_refused_fails(lab: Lab) -> None:
    agent = lab.agents["a"]
    agent.devices["a/0"].limits = SessionLimits(batch=1)
    held = asyncio.Event()

    async def hold(_: str, item: KernelCall, __: bytes) -> Result:
        await held.wait()
        return timed(item, 2000.0)

    async def scenario(session: DeviceSession) -> str:
        digest = Blob.of(b"good").digest
        alone = session.start(run("good"), digest)
        for refused in session.start_batch([(run("good"), digest)] * 2):
            with pytest.raises(FleetError, match="a batch of 2 items, the limit is 1"):
                await refused
        held.set()
        return (await alone).result.status

    agent.behave = hold
    with lab.client().lease() as lease, lease.session() as session:
        session.upload([b"good"])
        assert lab.run(scenario(session.aio)) == "ok"
