"""Leased devices as the tuner sees them: kept busy, retried once, blamed and poisoned rightly."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path

import pytest
from fleet_lab import CLASS, WAIT_S, Lab, artifact

from loopwright.errors import ConfigError, NoDeviceError
from loopwright.fleet.client.api import Fleet
from loopwright.fleet.client.devices import DevicesConfig, LeasedDevices
from loopwright.fleet.client.runner import FleetOptions, _Lessor, device_class
from loopwright.fleet.simulated import Crash, timed
from loopwright.fleet.wire.messages import Result, RunItem
from loopwright.fleet.words import RunStatus
from loopwright.measure.pipeline import Run
from loopwright.measure.run import RunResult
from loopwright.measure.types import Failed, FailureKind, MeasurePlan, Timed

PLAN = MeasurePlan(repeats=2)


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    with Lab(tmp_path) as made:
        yield made


class Script:
    """What devices do, by the text of the code; what ran where is noted."""

    def __init__(self) -> None:
        self.ran: list[tuple[str, str]] = []
        self.hold = asyncio.Event()

    async def __call__(self, device: str, item: RunItem, code: bytes) -> Result:
        word, _, rest = code.decode().partition(" ")
        self.ran.append((device, code.decode()))
        if word == "hold":
            await self.hold.wait()
        if word == "crash" or (word == "crash-on" and rest == device):
            raise Crash
        if word == "lose" or (word == "lose-on" and rest == device):
            detail = "the measuring process was lost: it ended"
            return Result(item.id, "infra", stage="run", kind="worker-lost", detail=detail)
        if word in ("infra", "drift", "revoked") or (word == "drift-on" and rest == device):
            return Result(item.id, word.partition("-")[0], detail="for no fault of its own")
        if word == "segv":
            return Result(
                item.id, RunStatus.CRASH.value, stage="run", kind="crash", detail="SIGSEGV"
            )
        return timed(item, 1000.0)

    def devices_of(self, code: str) -> list[str]:
        return [device for device, text in self.ran if text == code]


def leased(fleet: Fleet, limit: int = 2, other_s: float = 5.0, in_flight: int = 2) -> LeasedDevices:
    devices = device_class(fleet, "board=sim")
    config = DevicesConfig(limit, in_flight, other_s=other_s, retry_s=0.01)
    lessor = _Lessor(fleet.aio, devices, FleetOptions())
    runnable = frozenset({artifact("").target_key})
    return LeasedDevices(lessor, fleet.thread, time.monotonic, config, runnable=runnable)


def run(code: str) -> Run:
    return Run(artifact(code), PLAN, 0, want_output=False)


def outcome(future: Future[RunResult]) -> Timed | Failed:
    return future.result(WAIT_S).outcome


def test_results_say_under_which_lease_they_came_about(lab: Lab) -> None:
    lab.agent("a", Script())
    devices = leased(lab.client(), limit=1)
    found = outcome(devices.submit(run("fast")))
    devices.close()

    assert isinstance(found, Timed)
    assert found.ns == (1000.0, 1000.0)
    assert found.where is not None
    assert (found.where.device, found.where.epoch > 0) == ("a/0", True)
    assert found.where.lease


def test_two_devices_share_the_work(lab: Lab) -> None:
    script = Script()
    lab.agent("a", script, devices=2)
    devices = leased(lab.client())
    held = [devices.submit(run(f"hold {i}")) for i in range(4)]
    while len({device for device, _ in script.ran}) < 2:
        lab.run(asyncio.sleep(0.001))
    lab.thread.loop.call_soon_threadsafe(script.hold.set)
    assert all(isinstance(outcome(f), Timed) for f in held)
    devices.close()

    assert {device for device, _ in script.ran} == {"a/0", "a/1"}


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        ("infra", FailureKind.WORKER_LOST),
        ("drift", FailureKind.DRIFT),
        ("revoked", FailureKind.REVOKED),
    ],
)
def test_what_is_nobodys_fault_is_run_once_more_elsewhere_and_blames_nobody(
    lab: Lab, code: str, kind: FailureKind
) -> None:
    script = Script()
    lab.agent("a", script, devices=2)
    devices = leased(lab.client())
    found = outcome(devices.submit(run(code)))
    devices.close()

    assert isinstance(found, Failed)
    assert found.kind is kind
    assert not found.blames_candidate
    assert sorted(script.devices_of(code)) == ["a/0", "a/1"]
    assert not devices.poisoned


def test_a_second_try_that_works_counts(lab: Lab) -> None:
    script = Script()
    lab.agent("a", script)
    devices = leased(lab.client(), limit=1, other_s=0.0)
    assert isinstance(outcome(devices.submit(run("drift-on a/0"))), Failed)
    devices.close()
    lab.agent("b", script)
    devices = leased(lab.client())
    futures = [devices.submit(run("drift-on a/0")), devices.submit(run("drift-on b/0"))]

    assert all(isinstance(outcome(f), Timed) for f in futures)
    devices.close()


@pytest.mark.parametrize("code", ["crash", "lose"])
def test_a_candidate_that_takes_two_devices_with_it_is_to_blame_and_never_runs_again(
    lab: Lab, code: str
) -> None:
    script = Script()
    lab.agent("a", script, devices=2)
    devices = leased(lab.client())
    first = outcome(devices.submit(run(code)))
    again = outcome(devices.submit(run(code)))
    good = outcome(devices.submit(run("fast")))
    devices.close()

    for found in (first, again):
        assert isinstance(found, Failed)
        assert found.kind is FailureKind.CRASH
        assert "not run again" in found.detail
        assert "a/0 and of a/1" in found.detail or "a/1 and of a/0" in found.detail
    assert sorted(script.devices_of(code)) == ["a/0", "a/1"]
    assert isinstance(good, Timed)
    assert len(devices.poisoned) == 1


def test_the_device_is_leased_anew_after_it_was_lost_and_what_waited_is_not_blamed(
    lab: Lab,
) -> None:
    script = Script()
    lab.agent("a", script)
    devices = leased(lab.client(), limit=1, other_s=0.0)
    bad, good = devices.submit(run("crash")), devices.submit(run("fast"))

    assert isinstance(outcome(good), Timed)
    assert isinstance(outcome(bad), Failed)
    devices.close()
    assert not any(text == "fast" for text in devices.poisoned)


def test_a_candidate_that_crashes_is_blamed_at_once(lab: Lab) -> None:
    script = Script()
    lab.agent("a", script, devices=2)
    devices = leased(lab.client())
    found = outcome(devices.submit(run("segv")))
    devices.close()

    assert isinstance(found, Failed)
    assert (found.kind, found.detail) == (FailureKind.CRASH, "SIGSEGV")
    assert len(script.devices_of("segv")) == 1


def test_the_next_run_is_on_the_device_while_one_runs(lab: Lab) -> None:
    script = Script()
    agent = lab.agent("a", script)
    devices = leased(lab.client(), limit=1)
    futures = [devices.submit(run("hold")), devices.submit(run("next"))]
    code = artifact("next").code
    digest = hashlib.sha256(code).digest()
    while not agent.devices["a/0"].blobs.has(digest):
        lab.run(asyncio.sleep(0.001))
    assert script.ran == [("a/0", "hold")]
    lab.thread.loop.call_soon_threadsafe(script.hold.set)
    assert all(isinstance(outcome(f), Timed) for f in futures)
    devices.close()


def test_a_revoked_lease_is_nobodys_fault_and_what_ran_is_run_again(lab: Lab) -> None:
    script = Script()
    lab.agent("a", script)
    fleet = lab.client()
    devices = leased(fleet, limit=1, other_s=0.0)
    future = devices.submit(run("hold"))
    while not script.ran:
        lab.run(asyncio.sleep(0.001))
    (lease,) = fleet.leases()
    fleet.command("lease.revoke", lease=lease.id, why="maintenance")
    lab.thread.loop.call_soon_threadsafe(script.hold.set)

    assert isinstance(outcome(future), Timed)
    devices.close()
    assert not devices.poisoned
    assert len(script.devices_of("hold")) == 2


def test_code_that_no_device_could_run_is_refused(lab: Lab) -> None:
    lab.agent("a", Script())
    devices = leased(lab.client())
    foreign = Run(artifact("x"), PLAN, 0, want_output=False)
    object.__setattr__(foreign.artifact, "target_key", "riscv64-0")
    with pytest.raises(ConfigError, match="made for riscv64-0, the devices run"):
        devices.submit(foreign)
    devices.close()


def test_closing_settles_what_runs_and_what_waits_and_gives_the_device_back(lab: Lab) -> None:
    lab.agent("a", Script())
    fleet = lab.client()
    devices = leased(fleet, limit=1)
    futures = [devices.submit(run(f"hold {i}")) for i in range(5)]
    while not fleet.leases():
        lab.run(asyncio.sleep(0.001))
    devices.close()

    assert all(f.done() for f in futures)
    while any(lease.state != "releasing" for lease in fleet.leases()):
        lab.run(asyncio.sleep(0.001))


def test_devices_of_one_kind_are_chosen_and_the_rest_left_alone(lab: Lab) -> None:
    lab.agent("a", Script(), devices=2)
    fleet = lab.client()
    chosen = device_class(fleet, "board=sim")

    assert (chosen.device, chosen.names, chosen.others) == (CLASS, ("a/0", "a/1"), ())
    assert device_class(fleet, "board=sim", threads=2).names == ("a/0", "a/1")
    with pytest.raises(NoDeviceError, match="has 3 cores"):
        device_class(fleet, "board=sim", threads=3)
    with pytest.raises(NoDeviceError, match="no device matches 'board=rpi4'; board is sim"):
        device_class(fleet, "board=rpi4")
