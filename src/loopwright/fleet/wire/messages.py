"""The messages of the fleet's protocol, and the number that each has in a frame's header.

Bodies are msgpack arrays, one element a field in the order written here: as compact as maps with
integer keys, and read by a C decoder without a table. A field is never removed, renamed in meaning
or moved; new ones go to the end, with a default, so that versions apart by one understand each
other. `PROTOCOL` counts versions; HELLO says the range that a side speaks.

Durations are integers in milliseconds and never absolute times: no clock is shared. Ids are text.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import msgspec

from loopwright.errors import FleetError
from loopwright.fleet.wire.frame import DATA_HEAD_BYTES, Flags, Frame, FrameError

PROTOCOL = 1
PROTOCOL_MIN = 1
MAX_NAME = 128
MAX_TEXT = 4096
DIGEST_BYTES = 32


class Message(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=False):
    """Base of all messages: a msgpack array of the fields."""


# --- hello: any side that connects, to a tracker or to a device ---


class Hello(Message, frozen=True):
    """First message of a control connection. `role` is agent or client.

    `auth` is `none` (unix socket or embedded: the kernel says who it is), `token` (`secret` is it),
    `join` (a one-time code, answered by a key for this agent) or `key` (a challenge follows).
    """

    role: str
    proto_min: int
    proto_max: int
    software: str
    auth: str
    principal: str = ""
    secret: str = ""
    trace: str = ""  # W3C traceparent


class Welcome(Message, frozen=True):
    """The tracker's answer: the protocol to speak and who the other side is to it.

    `device_key` is given once, to an agent that joined.
    """

    proto: int
    tracker: str
    tracker_epoch: int
    sync_ms: int
    principal: str
    role: int
    device_key: bytes = b""


class Challenge(Message, frozen=True):
    """Prove that you have the key: HMAC over this nonce and your own."""

    nonce: bytes


class Proof(Message, frozen=True):
    """HMAC-SHA256(key, label | challenger's nonce | own nonce)."""

    mac: bytes
    nonce: bytes = b""


class Error(Message, frozen=True):
    """What went wrong; after it the sender closes, unless `fatal` is false."""

    code: str
    detail: str
    retry_after_ms: int = 0
    fatal: bool = True


class Ping(Message, frozen=True):
    """Are you there?"""

    seq: int


class Pong(Message, frozen=True):
    """Yes."""

    seq: int


# --- agent <-> tracker ---


class DeviceInfo(Message, frozen=True):
    """What a device is. `target` is a target string, `device` the fingerprint for records.

    `addresses` are where its agent listens, as `tcp://10.0.0.7:7071` or `unix:///run/agent.sock`.
    """

    name: str
    labels: dict[str, str]
    target: str
    device: str
    cores: tuple[int, ...]
    addresses: tuple[str, ...]
    tier: int


class DeviceReport(Message, frozen=True):
    """How a device is now. Lease and epoch are those of its session, empty and 0 without."""

    name: str
    occupancy: str
    health: str
    lease: str = ""
    epoch: int = 0
    last_epoch: int = 0  # the highest that the device ever accepted in this incarnation
    drift: float = 0.0  # of the canary, as a share
    temperature_c: float | None = None
    detail: str = ""


class Register(Message, frozen=True):
    """An agent's devices. `incarnation` is random for each start of the agent."""

    incarnation: str
    devices: tuple[DeviceInfo, ...]
    more: bool = False  # further devices follow in another Register


class Sync(Message, frozen=True):
    """What is: sent every `sync_ms`, at once when something changed; any of them may be lost."""

    seq: int
    reports: tuple[DeviceReport, ...]


class DeviceOrder(Message, frozen=True):
    """What should be. `kill` ends the session of an older epoch at once; `why` is for people."""

    name: str
    lease: str
    epoch: int
    ttl_ms: int
    admin: str
    probe: bool = False
    kill: bool = False
    why: str = ""


class Desired(Message, frozen=True):
    """What the devices of an agent should do, and when to report next."""

    seq: int
    orders: tuple[DeviceOrder, ...]
    next_sync_ms: int


class Superseded(Message, frozen=True):
    """Another, newer agent has this device: stop."""

    name: str
    incarnation: str


# --- client <-> tracker ---


class Acquire(Message, frozen=True):
    """Lease `count` devices (all or none) that match `selector`. Again with one id: the same.

    `ttl_ms` is how long the lease lives without a renewal.
    """

    request: str
    selector: str
    count: int = 1
    ttl_ms: int = 30_000
    priority: int = 1
    max_wait_ms: int = 600_000
    modules: dict[str, str] = {}  # kind -> sha256: affinity to devices that have them
    tags: dict[str, str] = {}


class Queued(Message, frozen=True):
    """The request waits. `why` is a sentence; sent when it changes."""

    request: str
    position: int
    why: str


class Grant(Message, frozen=True):
    """One leased device. `ticket` opens it, `key` is the session's key."""

    lease: str
    device: DeviceInfo
    incarnation: str
    epoch: int
    ttl_ms: int
    ticket: bytes
    key: bytes


class Granted(Message, frozen=True):
    """The request is served."""

    request: str
    grants: tuple[Grant, ...]


class Refused(Message, frozen=True):
    """The request is not served; `code` is a `words.Refusal`."""

    request: str
    code: str
    detail: str
    retry_after_ms: int = 0


class Renew(Message, frozen=True):
    """Keep a lease."""

    lease: str
    epoch: int


class Renewed(Message, frozen=True):
    """`verdict` is a `words.Verdict`; with YIELD_PLEASE, give it back within `ttl_ms`."""

    lease: str
    verdict: str
    ttl_ms: int
    why: str = ""


class Release(Message, frozen=True):
    """Give a lease back; again is harmless."""

    lease: str
    epoch: int


class Released(Message, frozen=True):
    """It is given back; `reason` is a `words.EndReason`."""

    lease: str
    reason: str


class Cancel(Message, frozen=True):
    """Forget a request that waits; a grant that crosses this is given back by the client."""

    request: str


class Ask(Message, frozen=True):
    """A question that changes nothing: `what` is devices, leases, explain, status or events.

    `selector` picks devices, `name` a lease or request.
    """

    id: int
    what: str
    selector: str = ""
    name: str = ""
    after: str = ""  # the last name of the page before


class Answer(Message, frozen=True):
    """A page of an answer, as JSON text; `more` pages follow when asked for `after`."""

    id: int
    body: bytes
    more: str = ""


class Command(Message, frozen=True):
    """Something to change. `what` names it, `arguments` are text; what may be done, roles say."""

    id: int
    what: str
    arguments: dict[str, str] = {}


class Done(Message, frozen=True):
    """The command was carried out; what it made, as JSON text."""

    id: int
    body: bytes = b""


# --- client <-> device ---


class Open(Message, frozen=True):
    """Begin a session. The device verifies the ticket with its own key, offline."""

    ticket: bytes
    nonce: bytes
    proto_min: int = PROTOCOL_MIN
    proto_max: int = PROTOCOL
    trace: str = ""


class Opened(Message, frozen=True):
    """The session is open. Limits are the device's own; a plan beyond them is refused."""

    lease: str
    epoch: int
    ttl_ms: int
    device: DeviceInfo
    tier: int
    max_wall_ms: int
    max_memory: int
    max_blob: int
    modules: dict[str, str] = {}


class Configure(Message, frozen=True):
    """The modules (kind -> sha256 of a blob) that the session needs; no-op where equal."""

    modules: dict[str, str]


class Configured(Message, frozen=True):
    """The modules are in place; `changed` names those that were not."""

    changed: tuple[str, ...]


class Have(Message, frozen=True):
    """Which of these blobs (SHA-256) are there?"""

    digests: tuple[bytes, ...]


class Missing(Message, frozen=True):
    """The blobs that are not there, each with how many of its bytes are."""

    digests: tuple[bytes, ...]
    offsets: tuple[int, ...]


class PutHead(Message, frozen=True):
    """Head of a data frame: bytes of a blob from `offset` on follow it."""

    digest: bytes
    offset: int
    total: int


class Stored(Message, frozen=True):
    """A blob is whole, its digest verified."""

    digest: bytes


class WireParam(Message, frozen=True):
    """One argument of a kernel, as in `measure.wire`; `layout` is (dim, stride, extent) parts."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    layout: tuple[tuple[int, int, int], ...]
    transform: str = ""


class RunItem(Message, frozen=True):
    """Time one kernel, whose object code is the blob `code`. Inputs are made from `seed`.

    With `want_output` its outputs are streamed before its result.
    """

    id: int
    code: bytes
    entry: str
    params: tuple[WireParam, ...]
    n_outputs: int
    workspace: int
    threads: int
    seed: int
    want_output: bool
    warmup: int
    repeats: int
    min_repeat_us: int
    run_timeout_ms: int
    run_memory: int
    abandon_ns: float | None = None
    signature: bytes = b""  # Ed25519 of the code's digest, where the device wants one


class RunBatch(Message, frozen=True):
    """Runs, one after the other; each is answered by one Result."""

    items: tuple[RunItem, ...]


class OutputHead(Message, frozen=True):
    """Head of a data frame: outputs of an item from `offset` on follow it, `total` in all."""

    id: int
    offset: int
    total: int


class Result(Message, frozen=True):
    """What came of an item. `status` is a `words.RunStatus`; `ns` one figure a repeat.

    `stage`, `kind` and `detail` are those of a `measure.types.Failed`. `run_s` is wall time on the
    device; `canary` counts canary runs so far, so that results between two can be judged.
    """

    id: int
    status: str
    ns: tuple[float, ...] = ()
    stage: str = ""
    kind: str = ""
    detail: str = ""
    run_s: float = 0.0
    tier: int = 0
    temperature_c: float | None = None
    drift: float = 0.0
    canary: int = 0


class Close(Message, frozen=True):
    """The client is done with the session; the device cleans up."""


class Closed(Message, frozen=True):
    """The session is over; `reason` is a `words.EndReason`."""

    reason: str
    detail: str = ""


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
_DECODERS: dict[int, msgspec.msgpack.Decoder[Any]] = {number: msgspec.msgpack.Decoder(kind) for number, kind in (TYPES | HEADS).items()}
_ENCODER = msgspec.msgpack.Encoder()
_HEAD_LENGTH = 2


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
        raise FrameError(f"a message of type {frame.type} is not known; update this side")
    bulk = frame.type in HEADS
    if bulk != bool(frame.flags & Flags.DATA):
        raise FrameError(f"a message of type {frame.type} has flags {int(frame.flags):#x}")
    try:
        if not bulk:
            message: Message = decoder.decode(frame.body)
            return message
        length = int.from_bytes(frame.body[:_HEAD_LENGTH], "little")
        end = _HEAD_LENGTH + length
        if length > DATA_HEAD_BYTES or end > len(frame.body):
            raise FrameError(f"a data frame's head of {length} bytes does not fit")
        head: PutHead | OutputHead = decoder.decode(frame.body[_HEAD_LENGTH:end])
        return Data(head, frame.body[end:])
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        name = (TYPES | HEADS)[frame.type].__name__
        raise FrameError(f"a {name} that is none: {error}") from error


def negotiate(proto_min: int, proto_max: int) -> int:
    """The newest protocol that both sides speak.

    Raises: FleetError when there is none.
    """
    version = min(PROTOCOL, proto_max)
    if version < max(PROTOCOL_MIN, proto_min):
        raise FleetError(
            f"the other side speaks protocol {proto_min} to {proto_max}, this one "
            f"{PROTOCOL_MIN} to {PROTOCOL}; versions may be apart by one, update the older"
        )
    return version
