"""Leased devices as `pipeline.Devices`: several at once, each kept busy, none trusted too much.

One worker task per lease: acquire, open, keep `in_flight` runs on the device, release. What comes
back without blame for the candidate is run once more, on another device where there is one. The
candidate that was running when a device or its measuring process was lost is remembered: the second
time it is to blame, and is never run again.

A device whose canary is off is given back, so that it can cool down. What it ran since its last
good canary was answered already; the caller is told of the doubt (`Run.on_doubt`).
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, InvalidStateError
from dataclasses import dataclass, field
from typing import Protocol

from loopwright.errors import (
    AuthError,
    ConfigError,
    DeviceLostError,
    EnvironmentFailure,
    FleetError,
    LoopwrightError,
    NoDeviceError,
)
from loopwright.fleet.client.lease import HeldLease
from loopwright.fleet.client.loop import LoopThread
from loopwright.fleet.client.results import (
    RemoteResult,
    failed_of,
    one_line,
    outputs_of,
    provenance,
    status_of,
)
from loopwright.fleet.client.session import Blob, DeviceSession, SessionLost
from loopwright.fleet.wire.messages import Result
from loopwright.fleet.words import CONCLUSIVE, EndReason, RunStatus
from loopwright.measure.pipeline import Run, RunResult
from loopwright.outcome import Failed, FailureKind, FailureStage, Provenance, Timed

_TRIES = 2
_REFUSALS = 3  # leases in a row that no device would open, before that is an error
_UNSURE = 4096  # results of a lease that no canary vouched for: so many are remembered
_TAKEN_AWAY = frozenset(
    {
        EndReason.REVOKED,
        EndReason.PREEMPTED,
        EndReason.EXPIRED,
        EndReason.CLIENT_LOST,
        EndReason.CANCELLED,
    }
)
"""Ends of a lease for which nothing that ran on the device is to blame."""
_SLOWED = frozenset({RunStatus.OK, RunStatus.TIMEOUT})
"""Failures that may come of a device that is too slow."""


class Lessor(Protocol):
    """Where leases and sessions come from, on its own event loop."""

    async def lease_one(self, wait_s: float) -> HeldLease:
        """Another device. Raises: FleetError."""
        ...

    async def open_session(self, lease: HeldLease) -> DeviceSession:
        """A session on it. Raises: FleetError."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class DevicesConfig:
    """How many devices at most, and how many runs are on each at once.

    A device that cannot be had within `max_wait_s` is not waited for if there is another; if there
    is none, what waits fails. A lease that nothing ran on for `idle_s` is given back. What is to
    run on another device waits for one for `other_s`, and then takes the same.
    """

    limit: int = 1
    in_flight: int = 2
    max_wait_s: float = 600.0
    idle_s: float = 20.0
    other_s: float = 0.0
    retry_s: float = 0.2
    retry_max_s: float = 5.0


@dataclass(slots=True, eq=False, kw_only=True)
class _Entry:
    """A run on its way; until `avoid_until` it does not go to the device `avoid`.

    `failed` is what came of its first try.
    """

    run: Run
    blob: Blob
    future: Future[RunResult]
    tries: int = 0
    failed: Failed | None = None
    avoid: str = ""
    avoid_until: float = 0.0
    begun: bool = False


@dataclass(slots=True, kw_only=True)
class _Slot:
    """One lease and what is on its device, in order.

    `unsure` is what was answered since the last good canary: after which canary it ran, and whom
    to tell if the next one is off. `canary` is the last one heard of.
    """

    lease: HeldLease
    session: DeviceSession
    on_device: deque[_Entry] = field(default_factory=deque)
    canary: int = 0
    unsure: deque[tuple[int, Callable[[], None]]] = field(
        default_factory=lambda: deque(maxlen=_UNSURE)
    )
    drifted: bool = False

    @property
    def name(self) -> str:
        return self.lease.device.name


class LeasedDevices:
    """Runs artifacts on devices of `lessor`, whose loop is that of `thread`.

    Args:
        runnable: keys of the targets whose code the devices run.
        on_poisoned: told of a candidate that will not run again: its digest, and the devices.
    """

    def __init__(
        self,
        lessor: Lessor,
        thread: LoopThread,
        clock: Callable[[], float],
        config: DevicesConfig = DevicesConfig(),  # frozen
        *,
        runnable: frozenset[str],
        on_poisoned: Callable[[str, tuple[str, ...]], None] | None = None,
    ) -> None:
        self._lessor = lessor
        self._thread = thread
        self._clock = clock
        self._config = config
        self._runnable = runnable
        self._on_poisoned = on_poisoned
        self._queue: deque[_Entry] = deque()
        self._change: asyncio.Future[None]  # something to do, or the end
        self._killed: dict[bytes, list[str]] = {}  # code -> the devices that were lost to it
        self._poisoned: set[bytes] = set()
        self._closed = False
        self._have: set[str] = set()  # devices leased now
        self._waiting = 0  # workers that wait for a device
        self._workers: list[asyncio.Task[None]] = []
        self._leaving: dict[asyncio.Task[None], _Slot] = {}  # being given back
        thread.run(self._start())

    @property
    def slots(self) -> int:
        """How many runs in flight keep the devices busy."""
        return self._config.limit * self._config.in_flight

    @property
    def poisoned(self) -> frozenset[str]:
        """Digests of code that took two devices with it and is not run any more."""
        return frozenset(digest.hex() for digest in self._poisoned)

    def submit(self, run: Run) -> Future[RunResult]:
        """The future result of `run`.

        Raises: EnvironmentFailure after `close`; ConfigError for code that no device could run.
        """
        if self._closed:
            raise EnvironmentFailure("the runner was closed")
        key = run.artifact.target_key
        if key not in self._runnable:
            raise ConfigError(
                f"the kernel is made for {key}, the devices run {', '.join(sorted(self._runnable))}"
            )
        future: Future[RunResult] = Future()
        digest = hashlib.sha256(run.artifact.code).digest()
        entry = _Entry(run=run, blob=Blob(digest, run.artifact.code), future=future)
        self._thread.loop.call_soon_threadsafe(self._enqueue, entry)
        return future

    def close(self) -> None:
        """Give the devices back; what runs is not waited for, what waits is cancelled."""
        if self._closed:
            return
        self._closed = True
        with contextlib.suppress(EnvironmentFailure):  # the loop ended before
            self._thread.run(self._stop())

    async def _start(self) -> None:
        self._change = asyncio.get_running_loop().create_future()
        self._workers = [
            asyncio.create_task(self._serve(number)) for number in range(self._config.limit)
        ]

    async def _stop(self) -> None:
        for worker in self._workers:
            worker.cancel()
        await asyncio.gather(*self._workers, return_exceptions=True)
        for slot in self._leaving.values():
            slot.session.abort("the runner was closed", EndReason.RELEASED)
        await asyncio.gather(*self._leaving, return_exceptions=True)
        for entry in self._queue:
            entry.future.cancel()
        self._queue.clear()

    # --- the queue ---

    def _enqueue(self, entry: _Entry) -> None:
        if self._closed:
            entry.future.cancel()
        elif entry.blob.digest in self._poisoned:
            _finish(entry, RunResult(self._verdict(entry.blob.digest)))
        else:
            self._queue.append(entry)
            self._wake()

    def _wake(self) -> None:
        change, self._change = self._change, asyncio.get_running_loop().create_future()
        change.set_result(None)

    def _take(self, device: str) -> _Entry | None:
        """The next run for `device`."""
        for entry in tuple(self._queue):
            if entry.future.cancelled():
                self._queue.remove(entry)
            elif entry.blob.digest in self._poisoned:
                self._queue.remove(entry)
                _finish(entry, RunResult(self._verdict(entry.blob.digest)))
            elif entry.avoid != device or self._clock() >= entry.avoid_until:
                self._queue.remove(entry)
                if entry.begun or entry.future.set_running_or_notify_cancel():
                    entry.begun = True
                    return entry
        return None

    async def _until_wanted(self, timeout_s: float | None = None) -> bool:
        """Whether there is something in the queue, waiting for it."""
        if self._queue:
            return True
        changed, _ = await asyncio.wait((self._change,), timeout=timeout_s)
        return bool(changed or self._queue)

    # --- one lease after the other ---

    async def _serve(self, number: int) -> None:
        """Worker `number`: have a device as long as there is work."""
        wait, first, refused = self._config.retry_s, number == 0, 0
        while True:
            if not first:  # the first device is leased before there is a run for it
                await self._until_wanted()
            first = False
            try:
                slot = await self._begin()
            except (NoDeviceError, AuthError) as error:
                self._fail_all(error)
                await self._until_wanted()
                continue
            except LoopwrightError as error:
                refused = refused + 1 if isinstance(error, DeviceLostError) else 0
                if not self._have and (refused >= _REFUSALS or not self._is_retryable(error)):
                    self._fail_all(error)
                await asyncio.sleep(wait)
                wait = min(2 * wait, self._config.retry_max_s)
                continue
            wait, refused = self._config.retry_s, 0
            await self._use(slot)

    @staticmethod
    def _is_retryable(error: LoopwrightError) -> bool:
        return isinstance(error, EnvironmentFailure) and error.retryable

    async def _begin(self) -> _Slot:
        """A device with a session."""
        self._waiting += 1
        try:
            lease = await self._lessor.lease_one(self._config.max_wait_s)
        finally:
            self._waiting -= 1
        try:
            session = await self._lessor.open_session(lease)
        except BaseException:
            await lease.release()
            raise
        return _Slot(lease=lease, session=session)

    async def _use(self, slot: _Slot) -> None:
        """Run what there is on a device until it is lost, off, wanted back, or not needed."""
        self._have.add(slot.name)
        self._wake()  # others may have waited for another device to avoid, or for this one
        slot.lease.on_end(lambda: self._lease_ended(slot))
        reason = EndReason.RELEASED
        try:
            await self._feed(slot)
            self._take_back(slot)
        except DeviceLostError as error:
            reason = self._lost(slot, error)
        finally:
            self._have.discard(slot.name)
            closed = Failed(FailureStage.RUN, FailureKind.WORKER_LOST, "the runner was closed")
            for entry in slot.on_device:
                _finish(entry, RunResult(closed))
            self._wake()
            leaving = asyncio.create_task(self._give_back(slot, reason))
            self._leaving[leaving] = slot
            leaving.add_done_callback(lambda task: self._leaving.pop(task))
            await asyncio.shield(leaving)  # when this is cancelled, `_stop` waits for it

    async def _give_back(self, slot: _Slot, reason: EndReason) -> None:
        if self._closed:
            slot.session.abort("the runner was closed", EndReason.RELEASED)
        else:
            await slot.session.close()
        await slot.lease.release(reason)

    def _lease_ended(self, slot: _Slot) -> None:
        if slot.lease.reason is not EndReason.RELEASED:
            slot.session.abort(f"the lease is over: {slot.lease.detail}", slot.lease.reason)

    async def _feed(self, slot: _Slot) -> None:
        """Keep runs on the device.

        Raises: SessionLost when the device is lost.
        """
        answers: deque[asyncio.Future[RemoteResult]] = deque()
        while not slot.drifted:
            while self._has_room(slot):
                entry = self._take(slot.name)
                if entry is None:
                    break
                slot.on_device.append(entry)
                try:
                    await slot.session.upload((entry.blob,), ahead=True)
                    answers.append(slot.session.start(entry.run, entry.blob.digest))
                except DeviceLostError:
                    raise
                except FleetError as error:
                    self._refused(slot, slot.on_device.pop(), error)
            if not answers:
                if self._yielding(slot) or not await self._until_wanted(self._config.idle_s):
                    return
                if self._only_avoiding(slot.name):
                    await asyncio.sleep(self._config.retry_s)
                continue
            await self._next_answer(slot, answers)

    async def _next_answer(self, slot: _Slot, answers: deque[asyncio.Future[RemoteResult]]) -> None:
        """Take the first answer, or return when there is room and something to fill it."""
        first = answers[0]
        if self._has_room(slot) and not first.done():
            await asyncio.wait((first, self._change), return_when=asyncio.FIRST_COMPLETED)
            if not first.done():
                return
        try:
            answer = await first
        except DeviceLostError:
            raise
        except FleetError as error:
            answers.popleft()
            self._refused(slot, slot.on_device.popleft(), error)
            return
        answers.popleft()
        self._answered(slot, slot.on_device.popleft(), answer)

    def _has_room(self, slot: _Slot) -> bool:
        return len(slot.on_device) < self._config.in_flight and not self._yielding(slot)

    @staticmethod
    def _yielding(slot: _Slot) -> bool:
        return slot.lease.wanted_back.is_set()

    def _only_avoiding(self, device: str) -> bool:
        return bool(self._queue) and all(entry.avoid == device for entry in self._queue)

    # --- what comes back ---

    def _answered(self, slot: _Slot, entry: _Entry, answer: RemoteResult) -> None:
        """One result."""
        result = answer.result
        where = provenance(slot.lease, result)
        status = status_of(result)
        self._judge(slot, entry, result, status)
        if status is RunStatus.OK:
            if result.ns:
                timed = Timed(result.ns, min(result.ns), run_s=result.run_s, where=where)
                self._deliver(slot, entry, timed, answer.output)
                return
            status = RunStatus.INFRA
        failed = failed_of(result, status, where)
        if status in CONCLUSIVE:
            if result.lost:  # again, on a device that remembers
                self._poison(slot, entry.blob.digest)
            _finish(entry, RunResult(failed))
        elif status is RunStatus.INFRA:
            slot.session.forget(entry.blob.digest)
            self._again(slot, entry, failed, died=bool(result.lost))
        else:
            self._again(slot, entry, failed, died=False)

    @staticmethod
    def _judge(slot: _Slot, entry: _Entry, result: Result, status: RunStatus) -> None:
        """Have canaries vouch for what ran before them, or doubt it when the device drifted."""
        unsure = slot.unsure
        if result.canary < slot.canary:  # the device began to count anew: nobody can say
            unsure.clear()
        slot.canary = result.canary
        while unsure and unsure[0][0] < result.good:
            unsure.popleft()
        doubt = entry.run.on_doubt
        if status is RunStatus.DRIFT:
            slot.drifted = True
            while unsure:
                unsure.popleft()[1]()
        elif result.good and doubt is not None and status in _SLOWED:
            unsure.append((result.canary, doubt))

    def _deliver(self, slot: _Slot, entry: _Entry, timed: Timed, output: bytes) -> None:
        if not entry.run.want_output:
            _finish(entry, RunResult(timed))
            return
        try:
            outputs = outputs_of(entry.run.artifact, output)
        except FleetError as error:
            failed = Failed(FailureStage.RUN, FailureKind.WORKER_LOST, str(error), timed.where)
            self._again(slot, entry, failed, died=False)
            return
        _finish(entry, RunResult(timed, outputs))

    def _again(self, slot: _Slot, entry: _Entry, failed: Failed, *, died: bool) -> None:
        """Run it once more, on another device if possible; the second time is the last."""
        entry.tries += 1
        entry.failed = failed
        digest = entry.blob.digest
        if died and self._poison(slot, digest):
            _finish(entry, RunResult(self._verdict(digest, failed.where)))
            return
        if entry.tries >= _TRIES:
            _finish(entry, RunResult(failed))
            return
        self._put_back(slot, entry)
        self._wake()

    def _poison(self, slot: _Slot, digest: bytes) -> bool:
        """Note the device that code brought down; whether that was the second one."""
        lost = self._killed.setdefault(digest, [])
        lost.append(slot.name)
        if len(lost) < _TRIES or digest in self._poisoned:
            return digest in self._poisoned
        self._poisoned.add(digest)
        if self._on_poisoned is not None:
            self._on_poisoned(digest.hex(), tuple(lost))
        return True

    def _put_back(self, slot: _Slot, entry: _Entry) -> None:
        entry.avoid, entry.avoid_until = slot.name, self._clock() + self._config.other_s
        self._queue.appendleft(entry)

    def _take_back(self, slot: _Slot) -> None:
        """What the device has not answered is run again anywhere, and blamed for nothing."""
        while slot.on_device:
            self._queue.appendleft(slot.on_device.pop())

    def _verdict(self, digest: bytes, where: Provenance | None = None) -> Failed:
        names = list(dict.fromkeys(self._killed[digest]))
        lost = f"of {names[0]}" if len(names) == 1 else f"of {' and of '.join(names)}"
        detail = (
            f"the measuring process {lost} was lost twice while it ran this candidate; "
            "it is not run again"
        )
        return Failed(FailureStage.RUN, FailureKind.CRASH, detail, where)

    def _lost(self, slot: _Slot, error: DeviceLostError) -> EndReason:
        """The device is gone: what was running on it may be why, what waited is not.

        Returns: why the lease ends.
        """
        reason = error.reason if isinstance(error, SessionLost) else slot.lease.reason
        taken = reason in _TAKEN_AWAY
        kind = FailureKind.REVOKED if taken else FailureKind.DEVICE_LOST
        lease = slot.lease
        where = Provenance(slot.name, lease.id, lease.grant.epoch, slot.session.opened.tier)
        failed = Failed(FailureStage.RUN, kind, one_line(str(error)), where)
        first = slot.on_device.popleft() if slot.on_device else None
        self._take_back(slot)
        if first is not None:
            self._again(slot, first, failed, died=not taken and not self._closed)
        self._wake()
        return EndReason.DEVICE_LOST if reason is None else reason

    def _refused(self, slot: _Slot, entry: _Entry, error: FleetError) -> None:
        """The device would not take an upload or a run: that candidate goes elsewhere, once.

        What it refuses for who asks, as code that none of its builders signed, is no candidate's
        failure: the caller is told.
        """
        if isinstance(error, AuthError):
            with contextlib.suppress(InvalidStateError):
                entry.future.set_exception(error)
            return
        failed = Failed(FailureStage.RUN, FailureKind.WORKER_LOST, one_line(str(error)))
        self._again(slot, entry, failed, died=False)

    def _fail_all(self, error: LoopwrightError) -> None:
        """There is no device, and there will be none: say so to everybody who waits.

        Of a run that was tried once it is said what came of that.
        """
        if self._have or self._waiting:
            return
        queue, self._queue = self._queue, deque()
        for entry in queue:
            if entry.failed is not None:
                _finish(entry, RunResult(entry.failed))
                continue
            with contextlib.suppress(InvalidStateError):
                entry.future.set_exception(error)


def _finish(entry: _Entry, result: RunResult) -> None:
    if not entry.begun and not entry.future.set_running_or_notify_cancel():
        return
    entry.begun = True
    with contextlib.suppress(InvalidStateError):
        entry.future.set_result(result)
