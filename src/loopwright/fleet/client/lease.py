"""A lease as its holder keeps it: renewed in the background, and never believed for too long.

A lease is good from when the last renewal that was answered was *sent*, for its ttl less a fifth:
the client stops by itself before the device does. Only a monotonic clock is used.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable

from loopwright.errors import DeviceLostError, FleetError
from loopwright.fleet.client.control import Control, WatchedLease
from loopwright.fleet.wire.messages import DeviceInfo, Grant, Renewed
from loopwright.fleet.words import EndReason, Verdict

RENEWALS = 3  # a ttl
SAFE_SHARE = 0.8
_YIELD_STEP_S = 0.5
_FINAL = (EndReason.REVOKED, EndReason.PREEMPTED, EndReason.EXPIRED)


class HeldLease:
    """One leased device. `begin` starts the renewals, `release` gives it back."""

    def __init__(self, control: Control, grant: Grant, clock: Callable[[], float]) -> None:
        self.grant = grant
        self.ended = asyncio.Event()
        self.reason: EndReason | None = None
        self.detail = ""
        self.wanted_back = asyncio.Event()  # a more urgent request waits: end at the next edge
        self._control = control
        self._clock = clock
        self._yields_to = ""  # why it is to be given back soon, in words
        self._yields_as = EndReason.PREEMPTED  # how it ends if it is not
        self._due = asyncio.Event()  # to be renewed at once
        self._good_until = clock() + SAFE_SHARE * grant.ttl_ms / 1000
        self._keeper: asyncio.Task[None] | None = None
        self._on_end: list[Callable[[], None]] = []

    @property
    def id(self) -> str:
        """The lease's id."""
        return self.grant.lease

    @property
    def device(self) -> DeviceInfo:
        """What was leased."""
        return self.grant.device

    @property
    def alive(self) -> bool:
        """Whether the device may still be used."""
        return not self.ended.is_set()

    def left_s(self) -> float:
        """For how long the lease is good without another renewal."""
        return max(0.0, self._good_until - self._clock())

    def begin(self) -> None:
        """Renew from now on."""
        self._control.watch(self.id, WatchedLease(self._released, self._due.set))
        self._keeper = asyncio.create_task(self._keep())

    def on_end(self, call: Callable[[], None]) -> None:
        """Call `call` once when the lease is over, at once if it is."""
        if self.ended.is_set():
            call()
        else:
            self._on_end.append(call)

    def check(self) -> None:
        """Check that the lease is good.

        Raises: DeviceLostError.
        """
        if self.ended.is_set():
            raise self.failure()

    def failure(self) -> DeviceLostError:
        """What to raise once the lease is over."""
        reason = "" if self.reason is None else self.reason.value
        detail = f": {self.detail}" if self.detail else ""
        return DeviceLostError(
            f"lease {self.id} on {self.device.name} is over, {reason}{detail}", retryable=True
        )

    async def release(self, reason: EndReason = EndReason.RELEASED) -> None:
        """Give the device back, for `reason` if it was lost; calling it again is harmless."""
        over = self.ended.is_set()
        self._end(reason, "")
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.gather(self._keeper, return_exceptions=True)
        if not over:
            self._control.release(self.id, self.grant.epoch, reason)

    async def _keep(self) -> None:
        """Renew each third of the ttl; stop in time when nobody answers."""
        period = self.grant.ttl_ms / 1000 / RENEWALS
        next_at = self._clock() + period
        while True:
            await self._until_due(min(next_at, self._good_until))
            if self._yields_to and self.left_s() == 0.0:
                self._give_up(self._yields_as, self._yields_to)
                return
            try:
                async with asyncio.timeout(self.left_s()):
                    answer, sent_at = await self._control.renew(self.id, self.grant.epoch)
            except TimeoutError:
                if self._yields_to:
                    self._give_up(self._yields_as, self._yields_to)
                    return
                away = "" if self._control.connected else ", which is away"
                self._give_up(EndReason.EXPIRED, f"the tracker{away}, did not renew it in time")
                return
            except FleetError as error:
                self._give_up(EndReason.CLIENT_LOST, str(error))
                return
            if not self._renewed(answer, sent_at):
                return
            next_at = self._clock() + (self._yield_step() if self._yields_to else period)

    def _yield_step(self) -> float:
        """How long until it asks again whether it is still to yield."""
        return max(_YIELD_STEP_S, self.left_s() / RENEWALS)

    async def _until_due(self, at: float) -> None:
        """Wait until `at`, or until it is to be renewed at once."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(max(0.0, at - self._clock())):
                await self._due.wait()
        self._due.clear()

    def _renewed(self, answer: Renewed, sent_at: float) -> bool:
        if answer.verdict == Verdict.GONE.value:
            reason = _reason(answer.reason) if answer.reason else EndReason.EXPIRED
            self._end(reason, answer.why)
            return False
        self._yields_to = ""
        if answer.verdict == Verdict.YIELD_PLEASE.value:
            self.wanted_back.set()
            self._yields_to = answer.why or "a more urgent request waits for it"
            self._yields_as = _reason(answer.reason) if answer.reason else EndReason.PREEMPTED
        self._good_until = sent_at + SAFE_SHARE * answer.ttl_ms / 1000
        return True

    def _give_up(self, reason: EndReason, detail: str) -> None:
        self._end(reason, detail)
        self._control.release(self.id, self.grant.epoch, reason)

    def _released(self, reason: str) -> None:
        """The tracker says that the lease is over."""
        self._end(_reason(reason), "")
        if self._keeper is not None:
            self._keeper.cancel()

    def session_ended(self, reason: EndReason | None, detail: str) -> None:
        """A session is over, for the reason that its device gave, if it gave any.

        Where the device takes no other session of this lease, the lease is over too, whether or
        not the tracker, which may be away, has said so. A device that knows no more than that its
        time is up ends the session of a lease that was to be yielded as expired.
        """
        if reason is EndReason.EXPIRED and self._yields_to:
            reason, detail = self._yields_as, self._yields_to
        if reason in _FINAL and not self.ended.is_set():
            self._give_up(reason, detail)
            if self._keeper is not None:
                self._keeper.cancel()

    def _end(self, reason: EndReason, detail: str) -> None:
        if self.ended.is_set():
            return
        self.reason, self.detail = reason, detail
        self.ended.set()
        calls, self._on_end = self._on_end, []
        for call in calls:
            call()


def _reason(text: str) -> EndReason:
    try:
        return EndReason(text)
    except ValueError:
        return EndReason.REVOKED
