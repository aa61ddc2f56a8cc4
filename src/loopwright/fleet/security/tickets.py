"""Tickets: what the tracker gives a client, and a device trusts without asking the tracker.

A ticket is a byte for its version, a msgpack array and an HMAC-SHA256 with a key that comes from
the agent's. It holds no time: a device that has rebooted has another incarnation, a lease that came
later has a higher epoch, and how long a lease lives is a duration from when the device opens it.
"""

from __future__ import annotations

import hmac
from dataclasses import dataclass
from typing import Annotated

import msgspec

from loopwright.fleet.security.keys import same, subkey
from loopwright.fleet.wire.faults import Denied, Fault

VERSION = 1
MAX_TICKET_BYTES = 2048
MAX_EPOCH = (1 << 63) - 1
MAX_TTL_MS = 7 * 24 * 3600 * 1000
_MAC_BYTES = 32

_Name = Annotated[str, msgspec.Meta(min_length=1, max_length=128)]


class Ticket(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """The right to open one session on one device, in one incarnation of it, at one epoch."""

    lease: _Name
    device: _Name
    incarnation: _Name
    epoch: Annotated[int, msgspec.Meta(gt=0, le=MAX_EPOCH)]
    tenant: Annotated[str, msgspec.Meta(max_length=128)]
    caps: Annotated[tuple[_Name, ...], msgspec.Meta(max_length=16)]
    ttl_ms: Annotated[int, msgspec.Meta(gt=0, le=MAX_TTL_MS)]


_DECODER = msgspec.msgpack.Decoder(Ticket)
_ENCODER = msgspec.msgpack.Encoder()


@dataclass(frozen=True, slots=True)
class DeviceState:
    """What a device knows of itself when a ticket is shown to it.

    `lease` is the one whose session is open or may be opened again, empty without; `expired` says
    that its time has run out on the device's own clock.
    """

    device: str
    incarnation: str
    last_epoch: int
    lease: str = ""
    expired: bool = False


def seal(ticket: Ticket, device_key: bytes) -> bytes:
    """The ticket as bytes that only the holder of `device_key` can make."""
    body = bytes((VERSION,)) + _ENCODER.encode(ticket)
    return body + _mac(body, device_key)


def unseal(data: bytes, device_key: bytes) -> Ticket:
    """The ticket in `data`.

    Raises: Denied for one that the holder of `device_key` did not make, that is not in its one
        canonical form, or whose version is not known.
    """
    if not 1 + _MAC_BYTES < len(data) <= MAX_TICKET_BYTES:
        raise Denied(Fault.BAD_TICKET, f"{len(data)} bytes cannot be a ticket")
    body, mac = data[:-_MAC_BYTES], data[-_MAC_BYTES:]
    if not same(_mac(body, device_key), mac):
        raise Denied(
            Fault.BAD_TICKET, "the ticket was not made with this agent's key; lease the device anew"
        )
    if body[0] != VERSION:
        raise Denied(Fault.BAD_TICKET, f"a ticket of version {body[0]}, this agent knows {VERSION}")
    try:
        ticket = _DECODER.decode(body[1:])
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise Denied(Fault.BAD_TICKET, f"the ticket has a bad value: {error}") from error
    if _ENCODER.encode(ticket) != body[1:]:
        raise Denied(Fault.BAD_TICKET, "the ticket is not in canonical form")
    return ticket


def session_key(device_key: bytes, sealed: bytes) -> bytes:
    """The key that goes with a ticket: the tracker sends it, the device computes it."""
    root = subkey(device_key, b"loopwright session keys")
    return hmac.digest(root, sealed, "sha256")


def check_ticket(ticket: Ticket, state: DeviceState) -> None:
    """Check that a device in `state` may open what the ticket says.

    A ticket of the current epoch opens again while its lease is the current one; of a lower epoch
    never; a higher one always, and the caller first ends the older session.

    Raises: Denied, with the word that is counted.
    """
    if ticket.device != state.device:
        raise Denied(
            Fault.OTHER_DEVICE, f"the ticket is for {ticket.device}, this is {state.device}"
        )
    if ticket.incarnation != state.incarnation:
        raise Denied(
            Fault.OTHER_INCARNATION,
            f"the agent of {state.device} has started anew since this ticket; lease it again",
        )
    if ticket.epoch < state.last_epoch:
        raise Denied(
            Fault.OLD_EPOCH,
            f"epoch {ticket.epoch} of {state.device} is over, it is at {state.last_epoch}",
        )
    if ticket.epoch == state.last_epoch:
        if ticket.lease != state.lease:
            raise Denied(
                Fault.OTHER_LEASE, f"lease {ticket.lease} on {state.device} has ended; lease again"
            )
        if state.expired:
            raise Denied(
                Fault.EXPIRED_TICKET, f"lease {ticket.lease} on {state.device} has expired"
            )


def _mac(body: bytes, device_key: bytes) -> bytes:
    return hmac.digest(subkey(device_key, b"loopwright ticket"), body, "sha256")
