"""Leased devices as the tuner sees them: kept busy, retried once, blamed and poisoned rightly."""

from __future__ import annotations

import asyncio
import functools
import hashlib
import time
from collections.abc import Callable
from concurrent.futures import Future

import measure_kernels as kernels
import msgspec
import pytest
from fleet_lab import CLASS, WAIT_S, Lab, TextBuilders, artifact

from loopwright.errors import AuthError, ConfigError, FleetError, NoDeviceError
from loopwright.fleet.client.api import Fleet
from loopwright.fleet.client.devices import DevicesConfig, LeasedDevices
from loopwright.fleet.client.runner import FleetOptions, FleetRunner, _Lessor, device_class
from loopwright.fleet.client.session import Blob, DeviceSession
from loopwright.fleet.sim.devices import Crash, timed
from loopwright.fleet.wire.messages import Result
from loopwright.fleet.words import RunStatus
from loopwright.kernel_call import KernelCall
from loopwright.measure.pipeline import Run, RunResult
from loopwright.outcome import Failed, FailureKind, MeasurePlan, Timed
from loopwright.records.store import SqlStore
from loopwright.sched.schedule import Schedule
from loopwright.search.journal import Journal
from loopwright.search.result import Budget
from loopwright.search.tuner import TuneOptions, tune_tasks
from loopwright.search.unguided import GridPolicy
from loopwright.space.knobs import ChoiceKnob
from loopwright.space.space import Space
from loopwright.target.host import host
from loopwright.target.union import Target
from loopwright.te.workload import Workload
from loopwright.templates.task import make
from loopwright.templates.template import Configuration, Template

PLAN = MeasurePlan(repeats=2)


class Script:
    """What devices do, by the text of the code; what ran where is noted.

    `first` is what comes of a code when it runs first. Results say `canary` and `good`.
    """

    def __init__(self, **first: str) -> None:
        self.ran: list[tuple[str, str]] = []
        self.hold = asyncio.Event()
        self.first = first
        self.canary = 0
        self.good = 0

    async def __call__(self, device: str, item: KernelCall, code: bytes) -> Result:
        result = await self.result(device, item, code)
        return msgspec.structs.replace(result, canary=self.canary, good=self.good)

    async def result(self, device: str, item: KernelCall, code: bytes) -> Result:
        word, _, rest = code.decode().partition(" ")
        self.ran.append((device, code.decode()))
        if word == "hold":
            await self.hold.wait()
        word = self.first.pop(word, word)
        if word == "crash" or (word == "crash-on" and rest == device):
            raise Crash
        if word == "lose" or (word == "lose-on" and rest == device):
            return Result(
                id=item.id,
                status="infra",
                stage="run",
                kind="worker-lost",
                detail="it ended",
                lost=1,
            )
        if word in ("infra", "drift", "revoked") or (word == "drift-on" and rest == device):
            return Result(
                id=item.id, status=word.partition("-")[0], detail="for no fault of its own"
            )
        if word == "segv":
            return Result(
                id=item.id,
                status=RunStatus.CRASH.value,
                stage="run",
                kind="crash",
                detail="SIGSEGV",
            )
        return timed(item, 1000.0)

    def devices_of(self, code: str) -> list[str]:
        return [device for device, text in self.ran if text == code]


def leased(
    fleet: Fleet, limit: int = 2, other_s: float = 5.0, max_wait_s: float = 600.0
) -> LeasedDevices:
    devices = device_class(fleet, "board=sim")
    config = DevicesConfig(
        limit=limit, in_flight=2, max_wait_s=max_wait_s, other_s=other_s, retry_s=0.01
    )
    lessor = _Lessor(fleet.aio, devices, FleetOptions())
    runnable = frozenset({artifact("").target_key})
    return LeasedDevices(lessor, fleet.thread, time.monotonic, config, runnable=runnable)


def run(code: str, on_doubt: Callable[[], None] | None = None) -> Run:
    return Run(artifact(code), PLAN, 0, want_output=False, on_doubt=on_doubt)


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


def test_words_blame_nobody(lab: Lab) -> None:
    """Whether a candidate took a measuring process with it is what a result counts."""
    script = Script()
    agent = lab.agent("a", script, devices=2)

    async def say(_: str, item: KernelCall, __: bytes) -> Result:
        detail = "the measuring process was lost: not so"
        return Result(id=item.id, status="infra", stage="run", kind="worker-lost", detail=detail)

    agent.behave = say
    devices = leased(lab.client())
    found = outcome(devices.submit(run("innocent")))
    devices.close()

    assert isinstance(found, Failed)
    assert found.kind is FailureKind.WORKER_LOST
    assert not devices.poisoned


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


class TestDrift:
    def test_what_ran_since_the_last_good_canary_is_doubted_once(self, lab: Lab) -> None:
        script = Script(hot="drift")
        lab.agent("a", script, devices=2)
        devices = leased(lab.client(), limit=1)
        doubted: list[str] = []
        found: dict[str, Timed | Failed] = {}
        for code, canary, good in (("old", 3, 3), ("sure", 4, 4), ("last", 5, 5), ("late", 6, 5)):
            script.canary, script.good = canary, good
            told = functools.partial(doubted.append, code)
            found[code] = outcome(devices.submit(run(code, told)))
        script.canary = 9
        found["hot"] = outcome(devices.submit(run("hot", lambda: doubted.append("hot"))))
        script.canary = script.good = 3  # of another device
        found["after"] = outcome(devices.submit(run("after", lambda: doubted.append("after"))))
        devices.close()

        assert doubted == ["last", "late"]
        assert all(isinstance(each, Timed) for each in found.values())
        cold, hot = found["hot"].where, found["late"].where
        assert cold is not None
        assert hot is not None
        assert (cold.device, cold.lease) != (hot.device, hot.lease)
        assert script.devices_of("hot") == [hot.device, cold.device]

    def test_a_canary_that_begins_anew_says_nothing_of_what_ran_before(self, lab: Lab) -> None:
        script = Script(hot="drift")
        script.canary = script.good = 7
        lab.agent("a", script)
        devices = leased(lab.client(), limit=1, other_s=0.0)
        doubted: list[str] = []
        outcome(devices.submit(run("before", lambda: doubted.append("before"))))
        script.canary = script.good = 3
        outcome(devices.submit(run("anew", lambda: doubted.append("anew"))))
        script.canary = 6
        outcome(devices.submit(run("hot")))
        devices.close()

        assert doubted == ["anew"]

    def test_the_device_is_given_back_and_what_waited_on_it_keeps_its_retry(self, lab: Lab) -> None:
        script = Script(hold="drift", next="infra")
        lab.agent("a", script)
        devices = leased(lab.client(), limit=1, other_s=0.0)
        hot, bystander = devices.submit(run("hold")), devices.submit(run("next"))
        while not script.ran:
            lab.run(asyncio.sleep(0.001))
        lab.thread.loop.call_soon_threadsafe(script.hold.set)
        found, after = outcome(hot), outcome(bystander)
        devices.close()

        assert isinstance(found, Timed)
        assert isinstance(after, Timed)
        assert found.where is not None
        assert found.where.epoch > 1
        assert script.devices_of("hold") == ["a/0", "a/0"]

    def test_a_result_goes_out_marked_when_no_device_can_be_had_again(self, lab: Lab) -> None:
        script = Script(hold="drift")
        lab.agent("a", script)
        fleet = lab.client()
        devices = leased(fleet, limit=1, max_wait_s=0.05)
        future = devices.submit(run("hold"))
        while not script.ran:
            lab.run(asyncio.sleep(0.001))
        fleet.command("device.drain", device="a/0", why="hot")
        lab.thread.loop.call_soon_threadsafe(script.hold.set)
        found = outcome(future)
        devices.close()

        assert isinstance(found, Failed)
        assert found.kind is FailureKind.DRIFT

    def test_a_lease_is_given_back_when_closing_overtakes_it(self, lab: Lab) -> None:
        lab.agent("a", Script())
        fleet = lab.client()
        for _ in range(3):
            devices = leased(fleet, limit=1, other_s=0.0)
            assert isinstance(outcome(devices.submit(run("drift"))), Failed)
            devices.close()
            assert not fleet.aio._held


def _alike(_: Workload, __: Target) -> Space:
    return Space([ChoiceKnob("action", tuple("0123"))])


def _unscheduled(_: Schedule, __: Configuration) -> None:
    """The builders do not schedule."""


def test_a_tuner_measures_again_what_a_device_said_that_turned_out_to_be_slow(lab: Lab) -> None:
    script = Script(**{"2": "drift"})
    script.canary, script.good = 4, 3
    lab.agent("a", script, devices=2)
    task = make(kernels.double_workload(), Template("t", 1, _alike, _unscheduled), host())
    options = FleetOptions(devices=1)
    with (
        SqlStore("sqlite://") as store,
        FleetRunner(lab.client(), "board=sim", TextBuilders(), options=options) as runner,
    ):
        (result,) = tune_tasks(
            [task],
            runner,
            lambda task, _: GridPolicy(task.space),
            budget=Budget(4),
            journal=Journal(store, CLASS, "grid", 0, "test"),
            options=TuneOptions(plan=PLAN, check=False, abandon=None),
        )
        kept = [(str(record.config["action"]), record.outcome) for record in store.query()]

    assert result.trials == 4
    assert sorted(action for action, _ in kept) == ["0", "0", "1", "1", "2", "3"]
    assert all(isinstance(outcome, Timed) for _, outcome in kept)
    hot = script.devices_of("0")[0]
    assert script.devices_of("1")[0] == hot
    assert script.devices_of("2") == [hot, *({"a/0", "a/1"} - {hot})]


class TestRefusedUpload:
    @pytest.fixture
    def script(self, lab: Lab) -> Script:
        script = Script()
        agent = lab.agent("a", script)
        agent.devices["a/0"].blobs.largest = 1 << 20
        return script

    def test_it_costs_its_candidate_alone(self, lab: Lab, script: Script) -> None:
        devices = leased(lab.client(), limit=1, other_s=0.0)
        neighbour, big = devices.submit(run("hold")), devices.submit(run("x" * (3 << 20)))
        found = outcome(big)
        lab.thread.loop.call_soon_threadsafe(script.hold.set)

        assert isinstance(found, Failed)
        assert found.kind is FailureKind.WORKER_LOST
        assert isinstance(outcome(neighbour), Timed)
        assert script.devices_of("hold") == ["a/0"]
        assert isinstance(outcome(devices.submit(run("fast"))), Timed)
        devices.close()

    def test_it_costs_its_candidate_alone_when_it_is_refused_before_it_runs(
        self, lab: Lab, script: Script, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        upload = DeviceSession.upload
        refused: list[bytes] = []

        async def refuse(self: DeviceSession, blobs: tuple[Blob, ...], *, ahead: bool) -> int:
            if blobs[0].data == b"big":
                refused.append(blobs[0].digest)
                raise FleetError("a/0: no room")
            return await upload(self, blobs, ahead=ahead)

        monkeypatch.setattr(DeviceSession, "upload", refuse)
        devices = leased(lab.client(), limit=1, other_s=0.0)
        neighbour, big = devices.submit(run("hold")), devices.submit(run("big"))
        found = outcome(big)
        lab.thread.loop.call_soon_threadsafe(script.hold.set)

        assert isinstance(found, Failed)
        assert (found.kind, found.detail) == (FailureKind.WORKER_LOST, "a/0: no room")
        assert len(refused) == 2
        assert isinstance(outcome(neighbour), Timed)
        assert script.devices_of("hold") == ["a/0"]
        devices.close()

    def test_a_batch_that_is_refused_costs_its_candidate_alone(
        self, lab: Lab, script: Script, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        secret = hashlib.sha256(b"unsigned").digest()
        asked: list[int] = []

        def allow(item: KernelCall) -> None:
            if item.code == secret:
                asked.append(item.id)
                raise AuthError("it is not signed")

        monkeypatch.setattr(lab.agents["a"].devices["a/0"], "allow", allow)
        devices = leased(lab.client(), limit=1, other_s=0.0)
        neighbour, unsigned = devices.submit(run("hold")), devices.submit(run("unsigned"))
        while not asked:
            lab.run(asyncio.sleep(0.001))
        lab.thread.loop.call_soon_threadsafe(script.hold.set)

        with pytest.raises(AuthError, match="it is not signed"):
            outcome(unsigned)
        assert isinstance(outcome(neighbour), Timed)
        assert script.devices_of("hold") == ["a/0"]
        devices.close()
