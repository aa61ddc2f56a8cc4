"""The messages of the fleet's protocol, and the number that each has in a frame's header.

Bodies are msgpack arrays, one element a field in the order written here: as compact as maps with
integer keys, and read by a C decoder without a table. A field is never removed, renamed in meaning
or moved; new ones go to the end, with a default, so that versions apart by one understand each
other. `PROTOCOL` counts versions; HELLO says the range that a side speaks.

What a field may hold is in `fields`; decoding refuses everything else. Lengths that a message
may not have are cut by the sender: see `clip`.

Durations are integers in milliseconds and never absolute times: no clock is shared. Ids are text.
"""

from __future__ import annotations

from typing import Annotated, Any, TypeAlias

import msgspec
from msgspec import Meta

from loopwright.fields import Count, Digest, Line, Milliseconds, Nanoseconds, Size, Small, Word
from loopwright.fleet.wire.faults import Fault
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
from loopwright.fleet.wire.frame import DATA_HEAD_BYTES, Flags, Frame, FrameError
from loopwright.kernel_call import KernelCall

PROTOCOL = 1
PROTOCOL_MIN = 1
MAX_DIGESTS = 1900  # of one message: what fits into a control frame


class Message(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=False):
    """Base of all messages: a msgpack array of the fields."""


# --- hello: any side that connects, to a tracker or to a device ---


class Hello(Message, frozen=True):
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


class Welcome(Message, frozen=True):
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


class Error(Message, frozen=True):
    """What went wrong; after it the sender closes, unless `fatal` is false."""

    code: Word
    detail: Text
    retry_after_ms: Milliseconds = 0
    fatal: bool = True
    digest: Key = b""  # of the upload that a session refused
    item: Count = 0  # the first of the batch that it refused


class Ping(Message, frozen=True):
    """Are you there?"""

    seq: Count


class Pong(Message, frozen=True):
    """Yes."""

    seq: Count


# --- agent <-> tracker ---


class DeviceInfo(Message, frozen=True):
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


class DeviceReport(Message, frozen=True):
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
    """What is: sent every `sync_ms`, at once when something changed; any of them may be lost."""

    seq: Count
    reports: Annotated[tuple[DeviceReport, ...], Meta(max_length=MAX_DEVICES)]


class DeviceOrder(Message, frozen=True):
    """What should be. `kill` ends the session of an older epoch at once; `why` is for people.

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


class Acquire(Message, frozen=True):
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


class Queued(Message, frozen=True):
    """The request waits. `why` is a sentence; sent when it changes."""

    request: Name
    position: Count
    why: Text


class Grant(Message, frozen=True):
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
    """`verdict` is a `words.Verdict`; with YIELD_PLEASE, give it back within `ttl_ms`."""

    lease: Name
    verdict: Word
    ttl_ms: Milliseconds
    why: Text = ""
    reason: Word = ""  # with GONE: its `words.EndReason`, if that is remembered


class Release(Message, frozen=True):
    """Give a lease back; again is harmless."""

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
    """Something to change. `what` names it, `arguments` are text; what may be done, roles say."""

    id: Count
    what: Word
    arguments: Arguments = {}


class Done(Message, frozen=True):
    """The command was carried out; what it made, as JSON text."""

    id: Count
    body: bytes = b""


# --- client <-> device ---


class Open(Message, frozen=True):
    """Begin a session. The device verifies the ticket with its own key, offline."""

    ticket: Sealed
    nonce: Nonce
    proto_min: Version = PROTOCOL_MIN
    proto_max: Version = PROTOCOL
    trace: Trace = ""
    mac: bool = False  # whether this side wants frames to be authenticated


class Opened(Message, frozen=True):
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


class Result(Message, frozen=True):
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


TYPES: dict[int, type[Message]] = {
    1: Hello,
    2: Welcome,
    3: Challenge,
    4: Proof,
    5: Error,
    6: Ping,
    7: Pong,
    16: Register,
    17: Sync,
    18: Desired,
    19: Superseded,
    32: Acquire,
    33: Queued,
    34: Granted,
    35: Refused,
    36: Renew,
    37: Renewed,
    38: Release,
    39: Released,
    40: Cancel,
    41: Ask,
    42: Answer,
    43: Command,
    44: Done,
    64: Open,
    65: Opened,
    66: Configure,
    67: Configured,
    68: Have,
    69: Missing,
    71: Stored,
    72: RunBatch,
    74: Result,
    75: Close,
    76: Closed,
}
PUT, OUTPUT = 70, 73
HEADS: dict[int, type[Message]] = {PUT: PutHead, OUTPUT: OutputHead}
"""Types of data frames: two bytes with the length of the msgpack head, the head, the data."""
NUMBERS: dict[type[Message], int] = {kind: number for number, kind in (TYPES | HEADS).items()}
_DECODERS: dict[int, msgspec.msgpack.Decoder[Any]] = {
    number: msgspec.msgpack.Decoder(kind) for number, kind in (TYPES | HEADS).items()
}
_ENCODER = msgspec.msgpack.Encoder()
_HEAD_LENGTH = 2
_DATA = int(Flags.DATA)


class Data(msgspec.Struct, frozen=True):
    """A data frame taken apart: its head and the bytes that follow it."""

    head: PutHead | OutputHead
    data: bytes


Incoming: TypeAlias = Message | Data


def to_frame(message: Message, stream: int = 0) -> Frame:
    """The frame of a message that carries no bulk data.

    Raises: FrameError for one that is too large.
    """
    return Frame(NUMBERS[type(message)], _ENCODER.encode(message), stream)


def data_frame(head: PutHead | OutputHead, data: bytes | memoryview, stream: int = 0) -> Frame:
    """The data frame of `head` and `data`, which is at most 1 MiB."""
    encoded = _ENCODER.encode(head)
    body = b"".join((len(encoded).to_bytes(_HEAD_LENGTH, "little"), encoded, data))
    return Frame(NUMBERS[type(head)], body, stream, Flags.DATA)


def from_frame(frame: Frame) -> Incoming:
    """The message that a frame holds.

    Raises: FrameError for a type that is not known, a body that is no such message, or bulk data
        without the flag.
    """
    decoder = _DECODERS.get(frame.type)
    if decoder is None:
        raise FrameError(
            f"a message of type {frame.type} is not known; update this side", Fault.UNKNOWN_TYPE
        )
    bulk = frame.type in HEADS
    if bulk != bool(frame.flags.real & _DATA):
        raise FrameError(
            f"a message of type {frame.type} has flags {int(frame.flags):#x}", Fault.BAD_MESSAGE
        )
    try:
        if not bulk:
            message: Message = decoder.decode(frame.body)
            return message
        length = int.from_bytes(frame.body[:_HEAD_LENGTH], "little")
        end = _HEAD_LENGTH + length
        if length > DATA_HEAD_BYTES or end > len(frame.body):
            raise FrameError(f"a data head of {length} bytes does not fit", Fault.BAD_MESSAGE)
        head: PutHead | OutputHead = decoder.decode(frame.body[_HEAD_LENGTH:end])
        return Data(head, frame.body[end:])
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        name = (TYPES | HEADS)[frame.type].__name__
        raise FrameError(f"a {name} that is none: {error}", Fault.BAD_MESSAGE) from error
