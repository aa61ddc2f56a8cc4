"""The messages of the fleet's protocol. `codec` has their numbers and puts them into frames.

Bodies are msgpack arrays, one element a field in the order written here: as compact as maps with
integer keys, and read by a C decoder without a table. A field is never removed, renamed in meaning
or moved; new ones go to the end, with a default, so that versions apart by one understand each
other. `PROTOCOL` counts versions; HELLO says the range that a side speaks. In version 1 an Error
that answers a question begins its detail with the number of the question; since 2 it has a field.

What a field may hold is in `fields`; decoding refuses everything else. Lengths that a message
may not have are cut by the sender: see `clip`.

Durations are integers in milliseconds and never absolute times: no clock is shared. Ids are text.
"""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from loopwright.fields import Count, Digest, Line, Milliseconds, Nanoseconds, Size, Small, Word
from loopwright.fleet.request import LeaseRequest
from loopwright.fleet.wire.fields import (
    MAX_DEVICES,
    MAX_LABELS,
    Arguments,
    Celsius,
    Key,
    Labels,
    Lifetime,
    Mac,
    MaybeName,
    Modules,
    Name,
    Nonce,
    PriorityClass,
    Sealed,
    Seconds,
    Secret,
    Share,
    Text,
    Trace,
    Version,
)
from loopwright.fleet.words import ErrorCode
from loopwright.kernel_call import KernelCall

PROTOCOL = 2
PROTOCOL_MIN = 1
ERRORS_ANSWER = 2  # from this version on an Error has the id of what it answers
MAX_DIGESTS = 1900  # of one message: what fits into a control frame


class Message(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=False):
    """Base of all messages: a msgpack array of the fields."""


# --- hello: any side that connects, to a tracker or to a device ---


class Hello(Message, frozen=True, kw_only=True):
    """First message of a control connection. `role` is agent or client.

    `auth` is `none` (unix socket or embedded: the kernel says who it is), `token` (`secret` is it),
    `join` (a one-time code, answered by a key for this agent) or `key` (a challenge follows).
    """

    role: Word
    proto_min: Version
    proto_max: Version
    software: Line
    auth: Word
    principal: MaybeName = ""
    secret: Secret = ""
    trace: Trace = ""  # W3C traceparent
    mac: bool = False  # whether this side wants frames to be authenticated


class Welcome(Message, frozen=True, kw_only=True):
    """The tracker's answer: the protocol to speak and who the other side is to it.

    `device_key` is given once, to an agent that joined; `proof` to one that came with its key.
    """

    proto: Version
    tracker: Line
    tracker_epoch: Count
    sync_ms: Lifetime
    principal: Line
    role: Small
    device_key: Key = b""
    proof: Key = b""


class Challenge(Message, frozen=True):
    """Prove that you have the key: HMAC over this nonce and your own."""

    nonce: Nonce
    mac: bool = False  # whether frames are authenticated from here on


class Proof(Message, frozen=True):
    """HMAC-SHA256(key, label | challenger's nonce | own nonce)."""

    mac: Mac
    nonce: Key = b""


class Error(Message, frozen=True, kw_only=True):
    """What went wrong; after it the sender closes, unless `fatal` is false.

    `code` is a `words.ErrorCode`.
    """

    code: Word
    detail: Text
    retry_after_ms: Milliseconds = 0
    fatal: bool = True
    digest: Key = b""  # of the upload that a session refused
    item: Count = 0  # the first of the batch that it refused
    answers: Count = 0  # the id of the Ask or Command that failed; 0: it answers none


def failed(question: int, code: ErrorCode, detail: str, *, proto: int) -> Error:
    """The Error that answers `question`, for a client that speaks protocol `proto`."""
    said = detail if proto >= ERRORS_ANSWER else f"{question}: {detail}"
    return Error(code=code, detail=said, fatal=False, answers=question)


def question_of(error: Error, *, proto: int) -> tuple[int, str]:
    """The id of the question that a tracker's Error answers, 0 for none, and its detail."""
    if proto >= ERRORS_ANSWER:
        return error.answers, error.detail
    number, colon, detail = error.detail.partition(": ")
    return (int(number), detail) if colon and number.isdigit() else (0, error.detail)


class Ping(Message, frozen=True):
    """Are you there?"""

    seq: Count


class Pong(Message, frozen=True):
    """Yes."""

    seq: Count


# --- agent <-> tracker ---


class DeviceInfo(Message, frozen=True, kw_only=True):
    """What a device is. `target` is a target string, `device` the fingerprint for records.

    `addresses` are where its agent listens, as `tcp://10.0.0.7:7071` or `unix:///run/agent.sock`.
    """

    name: Name
    labels: Labels
    target: Line
    device: Line
    cores: Annotated[tuple[Small, ...], Meta(max_length=4096)]
    addresses: Annotated[tuple[Line, ...], Meta(max_length=16)]
    tier: Small


class DeviceReport(Message, frozen=True, kw_only=True):
    """How a device is now. Lease and epoch are those of its session, empty and 0 without."""

    name: Name
    occupancy: Word
    health: Word
    lease: MaybeName = ""
    epoch: Count = 0
    last_epoch: Count = 0  # the highest that the device ever accepted in this incarnation
    drift: Share = 0.0  # of the canary, as a share
    temperature_c: Celsius | None = None
    detail: Text = ""


class Register(Message, frozen=True):
    """An agent's devices, and the modules on each. `incarnation` is random for each start."""

    incarnation: Name
    devices: Annotated[tuple[DeviceInfo, ...], Meta(max_length=MAX_DEVICES)]
    more: bool = False  # further devices follow in another Register
    modules: Annotated[tuple[Modules, ...], Meta(max_length=MAX_DEVICES)] = ()


class Sync(Message, frozen=True):
    """The actual state: sent every `sync_ms`, at once when it changed; any of them may be lost."""

    seq: Count
    reports: Annotated[tuple[DeviceReport, ...], Meta(max_length=MAX_DEVICES)]


class DeviceOrder(Message, frozen=True, kw_only=True):
    """The desired state. `kill` ends the session of an older epoch at once; `why` is for people.

    Sessions and tickets of epochs up to and including `fence` are over; a session of an epoch
    above both `epoch` and `fence` is newer than this order, which leaves it alone.
    """

    name: Name
    lease: MaybeName
    epoch: Count
    ttl_ms: Milliseconds
    admin: Word
    probe: bool = False
    kill: bool = False
    why: Text = ""
    fence: Count = 0


class Desired(Message, frozen=True):
    """What the devices of an agent should do, and when to report next."""

    seq: Count
    orders: Annotated[tuple[DeviceOrder, ...], Meta(max_length=MAX_DEVICES)]
    next_sync_ms: Milliseconds


class Superseded(Message, frozen=True):
    """Another, newer agent has this device: stop."""

    name: Name
    incarnation: Name


# --- client <-> tracker ---


class Acquire(Message, frozen=True, kw_only=True):
    """Lease `count` devices (all or none) that match `selector`. Again with one id: the same.

    `ttl_ms` is how long the lease lives without a renewal.
    """

    request: Name
    selector: Line
    count: Annotated[int, Meta(ge=1, le=MAX_DEVICES)] = 1
    ttl_ms: Lifetime = 30_000
    priority: PriorityClass = 1
    max_wait_ms: Milliseconds = 600_000
    modules: Modules = {}  # kind -> sha256: affinity to devices that have them
    tags: Labels = {}

    @staticmethod
    def of(request: str, asked: LeaseRequest) -> Acquire:
        """The message that asks for `asked` under the id `request`."""
        return Acquire(
            request=request,
            selector=asked.selector,
            count=asked.count,
            ttl_ms=round(asked.ttl_s * 1000),
            priority=int(asked.priority),
            max_wait_ms=round(asked.max_wait_s * 1000),
            modules=dict(asked.modules),
            tags=dict(asked.tags),
        )

    @property
    def asked(self) -> LeaseRequest:
        """What it asks for."""
        return LeaseRequest(
            selector=self.selector,
            count=self.count,
            ttl_s=self.ttl_ms / 1000,
            priority=self.priority,
            max_wait_s=self.max_wait_ms / 1000,
            modules=self.modules,
            tags=self.tags,
        )


class Queued(Message, frozen=True):
    """The request waits. `why` is a sentence; sent when it changes."""

    request: Name
    position: Count
    why: Text


class Grant(Message, frozen=True, kw_only=True):
    """One leased device. `ticket` opens it, `key` is the session's key."""

    lease: Name
    device: DeviceInfo
    incarnation: Name
    epoch: Count
    ttl_ms: Milliseconds
    ticket: Sealed
    key: Key


class Granted(Message, frozen=True):
    """The request is served."""

    request: Name
    grants: Annotated[tuple[Grant, ...], Meta(max_length=MAX_DEVICES)]


class Refused(Message, frozen=True):
    """The request is not served; `code` is a `words.Refusal`."""

    request: MaybeName
    code: Word
    detail: Text
    retry_after_ms: Milliseconds = 0


class Renew(Message, frozen=True):
    """Keep a lease."""

    lease: Name
    epoch: Count


class Renewed(Message, frozen=True):
    """`verdict` is a `words.Verdict`; with YIELD_PLEASE, give it back within `ttl_ms`.

    `reason` is the `words.EndReason` of a lease that is GONE, if that is remembered, or of one that
    is to be yielded, if it is not in time.
    """

    lease: Name
    verdict: Word
    ttl_ms: Milliseconds
    why: Text = ""
    reason: Word = ""


class Release(Message, frozen=True):
    """Give a lease back; sent twice, it is harmless."""

    lease: Name
    epoch: Count
    reason: Word = ""  # a `words.EndReason` where the holder had to: it or the device was lost


class Released(Message, frozen=True):
    """It is given back; `reason` is a `words.EndReason`."""

    lease: Name
    reason: Word


class Cancel(Message, frozen=True):
    """Forget a request that waits; a grant that crosses this is given back by the client."""

    request: Name


class Ask(Message, frozen=True):
    """A question that changes nothing: `what` is devices, leases, explain, status or events.

    `selector` picks devices, `name` a lease or request.
    """

    id: Count
    what: Word
    selector: Line = ""
    name: MaybeName = ""
    after: MaybeName = ""  # the last name of the page before


class Answer(Message, frozen=True):
    """A page of an answer, as JSON text; `more` pages follow when asked for `after`."""

    id: Count
    body: bytes
    more: MaybeName = ""


class Command(Message, frozen=True):
    """Something to change. `what` names it, `arguments` are text; roles decide what is allowed."""

    id: Count
    what: Word
    arguments: Arguments = {}


class Done(Message, frozen=True):
    """The command was carried out; what it made, as JSON text."""

    id: Count
    body: bytes = b""


# --- client <-> device ---


class Open(Message, frozen=True, kw_only=True):
    """Begin a session. The device verifies the ticket with its own key, offline."""

    ticket: Sealed
    nonce: Nonce
    proto_min: Version = PROTOCOL_MIN
    proto_max: Version = PROTOCOL
    trace: Trace = ""
    mac: bool = False  # whether this side wants frames to be authenticated


class Opened(Message, frozen=True, kw_only=True):
    """The session is open. Limits are the device's own; a plan beyond them is refused."""

    lease: Name
    epoch: Count
    ttl_ms: Milliseconds
    device: DeviceInfo
    tier: Small
    max_wall_ms: Milliseconds
    max_memory: Size
    max_blob: Size
    modules: Modules = {}


class Configure(Message, frozen=True):
    """The modules (kind -> sha256 of a blob) that the session needs; no-op where equal."""

    modules: Modules


class Configured(Message, frozen=True):
    """The modules are in place; `changed` names those that were not."""

    changed: Annotated[tuple[Name, ...], Meta(max_length=MAX_LABELS)]


class Have(Message, frozen=True):
    """Which of these blobs (SHA-256) are there?"""

    digests: Annotated[tuple[Digest, ...], Meta(max_length=MAX_DIGESTS)]


class Missing(Message, frozen=True):
    """The blobs that are not there, each with how many of its bytes are."""

    digests: Annotated[tuple[Digest, ...], Meta(max_length=MAX_DIGESTS)]
    offsets: Annotated[tuple[Size, ...], Meta(max_length=MAX_DIGESTS)]


class PutHead(Message, frozen=True):
    """Head of a data frame: bytes of a blob from `offset` on follow it."""

    digest: Digest
    offset: Size
    total: Size


class Stored(Message, frozen=True):
    """A blob is whole, its digest verified."""

    digest: Digest


class RunBatch(Message, frozen=True):
    """Runs, one after the other; each is answered by one Result."""

    items: Annotated[tuple[KernelCall, ...], Meta(max_length=MAX_DEVICES)]


class OutputHead(Message, frozen=True):
    """Head of a data frame: outputs of an item from `offset` on follow it, `total` in all."""

    id: Count
    offset: Size
    total: Size


class Result(Message, frozen=True, kw_only=True):
    """What came of an item. `status` is a `words.RunStatus`; `ns` one figure a repeat.

    `stage`, `kind` and `detail` are those of an `outcome.Failed`.
    """

    id: Count
    status: Word
    ns: Annotated[tuple[Nanoseconds, ...], Meta(max_length=4096)] = ()
    stage: Word = ""
    kind: Word = ""
    detail: Text = ""
    run_s: Seconds = 0.0  # wall time on the device
    tier: Small = 0
    temperature_c: Celsius | None = None
    drift: Share = 0.0
    canary: Count = 0  # canary runs so far
    good: Count = 0  # the last of them that was as it should be: it vouches for what ran before it
    lost: Count = 0  # if the measuring process went away: how often it did so with this code


class Close(Message, frozen=True):
    """The client is done with the session; the device cleans up."""


class Closed(Message, frozen=True):
    """The session is over; `reason` is a `words.EndReason`."""

    reason: Word
    detail: Text = ""
