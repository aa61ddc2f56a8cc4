"""What a device knows of leases, and what follows from an order: no I/O, times are arguments.

Exclusivity is decided here and nowhere else: one session at a time, of an epoch that never goes
back within an incarnation. `now` is seconds of a monotonic clock.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from loopwright.errors import FleetError
from loopwright.fleet.security.tickets import DeviceState, Ticket
from loopwright.fleet.wire.messages import DeviceOrder
from loopwright.fleet.words import Admin, EndReason

NEVER = math.inf
_OVERDUE = {
    EndReason.EXPIRED: "the lease was not renewed in time",
    EndReason.PREEMPTED: "a more urgent request has the device now",
}
"""Why the time of a lease is up -> the same for people."""


@dataclass(frozen=True, slots=True)
class Ended:
    """The session, if there is one, is to end at once, for this reason."""

    reason: EndReason
    detail: str


class Standing:
    """The lease of one device: the one whose session is open, or may be opened again."""

    def __init__(self, device: str, incarnation: str) -> None:
        self.device = device
        self.incarnation = incarnation
        self.last_epoch = 0
        self.lease = ""
        self.epoch = 0
        self.deadline = NEVER
        self.reserved = ""  # a lease that was granted and is not open yet
        self.reserved_until = NEVER
        self.admin = Admin.ENABLED
        self._expired = False
        self._ends_as = EndReason.EXPIRED  # if nothing puts the deadline off

    @property
    def state(self) -> DeviceState:
        """What tickets are checked against."""
        return DeviceState(
            self.device, self.incarnation, self.last_epoch, self.lease, self._expired
        )

    @property
    def due(self) -> float:
        """When `tick` has something to do."""
        deadline = NEVER if self._expired or not self.lease else self.deadline
        return min(deadline, self.reserved_until)

    def left_s(self, now: float) -> float:
        """How long the lease still lives."""
        return max(0.0, self.deadline - now)

    def accept(self, ticket: Ticket, now: float) -> None:
        """Serve the lease of a ticket, which was checked against `state`."""
        self.reserved, self.reserved_until = "", NEVER
        if ticket.epoch == self.last_epoch and ticket.lease == self.lease:
            return  # opened again: it lives as long as it would have
        self.lease, self.epoch = ticket.lease, ticket.epoch
        self.last_epoch = ticket.epoch
        self.deadline = now + ticket.ttl_ms / 1000
        self._ends_as = EndReason.EXPIRED
        self._expired = False

    def order(self, order: DeviceOrder, now: float, open_s: float) -> Ended | None:
        """Take an order; what it ends. Orders may be late, lost or repeated.

        Raises: FleetError for an order with a word that this version does not know.
        """
        self.admin = self._admin(order.admin)
        upto = max(order.fence, order.epoch if order.kill else 0)
        ended: Ended | None = None
        if self.lease and self.epoch <= upto:
            ended = Ended(_reason(order.why), order.why or "the tracker ended the lease")
        elif self.lease and self.epoch < order.epoch:
            ended = Ended(EndReason.EXPIRED, f"lease {order.lease} has the device now")
        elif self.lease and self.epoch == order.epoch and self.lease == order.lease:
            self.deadline = now + order.ttl_ms / 1000
            preempted = order.why == EndReason.PREEMPTED.value
            self._ends_as = EndReason.PREEMPTED if preempted else EndReason.EXPIRED
            self._expired = self._expired and self.deadline <= now
        self.last_epoch = max(self.last_epoch, upto)
        if ended is not None:
            self.lease, self.epoch, self.deadline = "", 0, NEVER
        if order.epoch > self.last_epoch and order.lease:
            if self.reserved != order.lease:
                self.reserved = order.lease
                self.reserved_until = now + min(open_s, order.ttl_ms / 1000)
        else:
            self.reserved, self.reserved_until = "", NEVER
        return ended

    def _admin(self, word: str) -> Admin:
        try:
            return Admin(word)
        except ValueError as error:
            raise FleetError(
                f"the tracker wants {self.device} {word!r}, which this version does not know; "
                "update this agent"
            ) from error

    def tick(self, now: float) -> Ended | None:
        """What has timed out."""
        if now >= self.reserved_until:
            self.reserved, self.reserved_until = "", NEVER
        if self.lease and not self._expired and now >= self.deadline:
            self._expired = True
            return Ended(self._ends_as, _OVERDUE[self._ends_as])
        return None


def _reason(why: str) -> EndReason:
    """The reason that an order gives in one word, else REVOKED."""
    try:
        return EndReason(why)
    except ValueError:
        return EndReason.REVOKED
