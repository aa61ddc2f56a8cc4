"""Attacks by bytes that are no frames, and by messages that say what none may say."""

from __future__ import annotations

import math
import struct

import msgspec
import pytest
from fleet_attacks import Assault, Attack, bytes_at, frame, message_of, must_fail
from fleet_links import run

from loopwright.fleet.wire.codec import NUMBERS, PUT, to_frame
from loopwright.fleet.wire.faults import Denied, Fault, Tally
from loopwright.fleet.wire.fields import check_name
from loopwright.fleet.wire.frame import CONTROL_BYTES, DATA_BYTES, Flags
from loopwright.fleet.wire.link import LinkClosed
from loopwright.fleet.wire.messages import (
    Acquire,
    Ask,
    Command,
    Configure,
    Have,
    Hello,
    Message,
    Open,
    Ping,
    Register,
    Renew,
    RunBatch,
    Sync,
)

HUGE = (1 << 64) - 1
ASK, COMMAND = NUMBERS[Ask], NUMBERS[Command]
PING = to_frame(Ping(1)).encode()


def head(
    magic: bytes = b"LW",
    version: int = 1,
    kind: int = 6,
    flags: int = 0,
    reserved: int = 0,
    length: int = 2,
) -> bytes:
    return struct.pack("<2sBBHHII", magic, version, kind, flags, reserved, 0, length) + b"\x91\x01"


def body(kind: type[Message], data: bytes) -> Assault:
    return bytes_at(frame(NUMBERS[kind], data))


def put(data: bytes) -> Assault:
    return bytes_at(frame(PUT, data, Flags.DATA))


FOUR_G = b"\xff\xff\xff\xff"
NEST = b"\x91" * 60_000
LABELS = {f"label-{n}": "" for n in range(65)}
BELOW = b"\x26\0" + msgspec.msgpack.encode((bytes(32), -1, 1)) + b"x"
BYTES = [
    Attack("http request", Fault.BAD_FRAME, bytes_at(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")),
    Attack("tls to a plain port", Fault.BAD_FRAME, bytes_at(b"\x16\x03\x01\x02\x00" + bytes(20))),
    Attack("magic of another protocol", Fault.BAD_FRAME, bytes_at(b"\x71\xf2\x02\0" + bytes(20))),
    Attack("wrong magic", Fault.BAD_FRAME, bytes_at(head(b"LX"))),
    Attack("wrong version", Fault.BAD_VERSION, bytes_at(head(version=2))),
    Attack("version 0", Fault.BAD_VERSION, bytes_at(head(version=0))),
    Attack("unknown flag", Fault.BAD_FRAME, bytes_at(head(flags=4))),
    Attack("all flags", Fault.BAD_FRAME, bytes_at(head(flags=0xFFFF))),
    Attack("reserved bits", Fault.BAD_FRAME, bytes_at(head(reserved=1))),
    Attack("unknown type", Fault.UNKNOWN_TYPE, bytes_at(head(kind=255))),
    Attack("type 0", Fault.UNKNOWN_TYPE, bytes_at(head(kind=0))),
    Attack("longest length", Fault.OVERSIZE, bytes_at(head(length=0xFFFFFFFF))),
    Attack("length over the limit", Fault.OVERSIZE, bytes_at(head(length=CONTROL_BYTES + 1))),
    Attack(
        "data over the limit",
        Fault.OVERSIZE,
        bytes_at(head(kind=PUT, flags=1, length=DATA_BYTES + 1)),
    ),
    Attack("a good frame, then junk", Fault.BAD_FRAME, bytes_at(PING + b"\xff" * 20)),
    Attack("control message as data", Fault.BAD_MESSAGE, bytes_at(head(flags=1))),
    Attack("data without its flag", Fault.BAD_MESSAGE, bytes_at(frame(PUT, bytes(100)))),
    Attack("data without a head", Fault.BAD_MESSAGE, put(b"")),
    Attack("head longer than its frame", Fault.BAD_MESSAGE, put(b"\xff\xff" + bytes(50))),
    Attack("head that is none", Fault.BAD_MESSAGE, put(b"\x02\x00\xc1\xc1" + bytes(50))),
    Attack("empty body", Fault.BAD_MESSAGE, body(Ping, b"")),
    Attack("body that goes on", Fault.BAD_MESSAGE, body(Ping, b"\x91\x01\x01")),
    Attack("body cut short", Fault.BAD_MESSAGE, body(Ping, b"\x91\xce\x01")),
    Attack("unused msgpack code", Fault.BAD_MESSAGE, body(Ping, b"\x91\xc1")),
    Attack("map for an array", Fault.BAD_MESSAGE, body(Ping, b"\x81\xa3seq\x01")),
    Attack("msgpack extension", Fault.BAD_MESSAGE, body(Ping, b"\x91\xd4\x01\x00")),
    Attack("timestamp extension", Fault.BAD_MESSAGE, body(Ping, b"\x91\xd6\xff\0\0\0\0")),
    Attack("nested bomb", Fault.BAD_MESSAGE, body(Ping, NEST + b"\x01")),
    Attack("nested bomb in a new field", Fault.BAD_MESSAGE, body(Ping, b"\x92\1" + NEST)),
    Attack("map bomb", Fault.BAD_MESSAGE, body(Ping, b"\x92\1" + b"\x81\1" * 30_000)),
    Attack("array of 4 G in 6 bytes", Fault.BAD_MESSAGE, body(RunBatch, b"\x91\xdd" + FOUR_G)),
    Attack("map of 4 G in 6 bytes", Fault.BAD_MESSAGE, body(Configure, b"\x91\xdf" + FOUR_G)),
    Attack("text of 4 G in 6 bytes", Fault.BAD_MESSAGE, body(Renew, b"\x92\xdb" + FOUR_G)),
    Attack("bytes of 4 G in 6 bytes", Fault.BAD_MESSAGE, body(Open, b"\x92\xc6" + FOUR_G)),
    Attack("bad utf-8", Fault.BAD_MESSAGE, body(Renew, b"\x92\xa2\xff\xfe\x01")),
    Attack("surrogate in utf-8", Fault.BAD_MESSAGE, body(Renew, b"\x92\xa3\xed\xa0\x80\x01")),
    Attack("overlong utf-8", Fault.BAD_MESSAGE, body(Renew, b"\x92\xa2\xc0\xae\x01")),
]

# --- numbers ---

ACQUIRE: dict[str, object] = {
    "request": "r1",
    "selector": "board=rpi4",
    "count": 1,
    "ttl_ms": 30_000,
    "priority": 1,
    "max_wait_ms": 1000,
    "modules": {},
    "tags": {},
}
ITEM: dict[str, object] = {
    "id": 1,
    "code": bytes(32),
    "entry": "kernel",
    "params": (("a", "float32", (4, 4), ((0, 1, 4), (1, 1, 4)), ""),),
    "n_outputs": 1,
    "workspace": 0,
    "threads": 1,
    "seed": 0,
    "want_output": False,
    "warmup": 1,
    "repeats": 3,
    "min_repeat_us": 100,
    "run_timeout_ms": 1000,
    "run_memory": 1 << 30,
    "abandon_ns": None,
    "signature": b"",
}
BAD_NUMBERS: dict[str, object] = {
    "NaN": math.nan,
    "infinity": math.inf,
    "minus infinity": -math.inf,
    "a fraction": 0.5,
    "-1": -1,
    "2^64-1": HUGE,
    "-2^63": -(1 << 63),
    "text": "1",
    "true": True,
    "nothing": None,
}


def acquire(**changes: object) -> Assault:
    return message_of(NUMBERS[Acquire], *(ACQUIRE | changes).values())


def item(**changes: object) -> Assault:
    return message_of(NUMBERS[RunBatch], [list((ITEM | changes).values())])


def numbers() -> list[Attack]:
    made = [
        Attack(f"acquire with {field} {word}", Fault.BAD_MESSAGE, acquire(**{field: value}))
        for field in ("count", "ttl_ms", "priority", "max_wait_ms")
        for word, value in BAD_NUMBERS.items()
    ]
    integers = [name for name, value in ITEM.items() if type(value) is int]
    made += [
        Attack(f"run with {field} {word}", Fault.BAD_MESSAGE, item(**{field: value}))
        for field in integers
        for word, value in BAD_NUMBERS.items()
    ]
    made += [
        Attack(f"run with abandon_ns {word}", Fault.BAD_MESSAGE, item(abandon_ns=value))
        for word, value in BAD_NUMBERS.items()
        if word not in ("nothing", "a fraction")
    ]
    return made


def report(**changes: object) -> Assault:
    fields: dict[str, object] = {
        "name": "host/cpu0",
        "occupancy": "idle",
        "health": "good",
        "lease": "",
        "epoch": 0,
        "last_epoch": 0,
        "drift": 0.0,
        "temperature_c": None,
        "detail": "",
    }
    return message_of(NUMBERS[Sync], 1, [list((fields | changes).values())])


def device(**changes: object) -> Assault:
    fields: dict[str, object] = {
        "name": "host/cpu0",
        "labels": {},
        "target": "t",
        "device": "d",
        "cores": (0,),
        "addresses": (),
        "tier": 1,
    }
    return message_of(NUMBERS[Register], "boot-1", [list((fields | changes).values())])


MORE = [
    Attack("count 0", Fault.BAD_MESSAGE, acquire(count=0)),
    Attack("a lease that lives 0 ms", Fault.BAD_MESSAGE, acquire(ttl_ms=0)),
    Attack("a lease that lives for years", Fault.BAD_MESSAGE, acquire(ttl_ms=10**12)),
    Attack("priority above all classes", Fault.BAD_MESSAGE, acquire(priority=4)),
    Attack("more devices than there can be", Fault.BAD_MESSAGE, acquire(count=10**6)),
    Attack("report with drift NaN", Fault.BAD_MESSAGE, report(drift=math.nan)),
    Attack("report with infinite drift", Fault.BAD_MESSAGE, report(drift=math.inf)),
    Attack("colder than nothing", Fault.BAD_MESSAGE, report(temperature_c=-1000.0)),
    Attack("report with temperature NaN", Fault.BAD_MESSAGE, report(temperature_c=math.nan)),
    Attack("report with epoch -1", Fault.BAD_MESSAGE, report(epoch=-1)),
    Attack("report with epoch 2^63", Fault.BAD_MESSAGE, report(last_epoch=1 << 63)),
    Attack("time of a run NaN", Fault.BAD_MESSAGE, message_of(74, 1, "ok", [math.nan])),
    Attack("time of a run below 0", Fault.BAD_MESSAGE, message_of(74, 1, "ok", [-1.0])),
    Attack("shape below 0", Fault.BAD_MESSAGE, item(params=[["a", "f", [-1], [], ""]])),
    Attack("code that is no digest", Fault.BAD_MESSAGE, item(code=bytes(31))),
    Attack("digests that are none", Fault.BAD_MESSAGE, message_of(NUMBERS[Have], [b"short"])),
    Attack(
        "offset below 0",
        Fault.BAD_MESSAGE,
        put(BELOW),
    ),
]

# --- names ---

BAD_NAMES = {
    "parent folder": "../x",
    "parent folder inside": "a/../b",
    "absolute path": "/etc/passwd",
    "path that ends in a slash": "a/",
    "double slash": "a//b",
    "hidden file": ".ssh",
    "hidden file inside": "a/.b",
    "backslash": "a\\b",
    "NUL": "a\0b",
    "end of line": "a\n",
    "header injection": "a\r\nX-Role: admin",
    "escape sequence": "a\x1b[2J",
    "markup": "<script>",
    "quote": "a'b",
    "SQL": "a'; DROP TABLE leases; --",
    "space": "a b",
    "shell": "$(reboot)",
    "not ascii": "а",  # noqa: RUF001  # Cyrillic, which is the point
    "right to left": "a\u202eb",
    "nothing": "",
    "too long": "a" * 129,
}


def names() -> list[Attack]:
    made = [
        Attack(f"device called {word}", Fault.BAD_MESSAGE, device(name=name))
        for word, name in BAD_NAMES.items()
    ]
    made += [
        Attack(f"label called {word}", Fault.BAD_MESSAGE, device(labels={name: "x"}))
        for word, name in BAD_NAMES.items()
    ]
    made += [
        Attack(f"lease called {word}", Fault.BAD_MESSAGE, message_of(NUMBERS[Renew], name, 1))
        for word, name in BAD_NAMES.items()
    ]
    made += [
        Attack(f"module called {word}", Fault.BAD_MESSAGE, message_of(66, {name: "0" * 64}))
        for word, name in BAD_NAMES.items()
    ]
    made += [
        Attack(f"request called {word}", Fault.BAD_MESSAGE, acquire(request=name))
        for word, name in BAD_NAMES.items()
    ]
    return made


def hello(**changes: object) -> Assault:
    fields: dict[str, object] = {
        "role": "client",
        "proto_min": 1,
        "proto_max": 1,
        "software": "x",
        "auth": "none",
        "principal": "",
        "secret": "",
        "trace": "",
    }
    return message_of(NUMBERS[Hello], *(fields | changes).values())


TEXTS = [
    Attack("agent called like a path", Fault.BAD_MESSAGE, hello(principal="../x")),
    Attack("secret with an end of line", Fault.BAD_MESSAGE, hello(secret="x\r\nSet-Cookie: a")),
    Attack("secret without end", Fault.BAD_MESSAGE, hello(secret="x" * 5000)),
    Attack("trace with an end of line", Fault.BAD_MESSAGE, hello(trace="00-a\r\nX: y")),
    Attack("software with an escape", Fault.BAD_MESSAGE, hello(software="\x1b]0;owned\x07")),
    Attack("label value with an end of line", Fault.BAD_MESSAGE, device(labels={"a": "b\nc"})),
    Attack("address with an end of line", Fault.BAD_MESSAGE, device(addresses=["tcp://a:1\r\n"])),
    Attack(
        "more labels than may be",
        Fault.BAD_MESSAGE,
        device(labels=LABELS),
    ),
    Attack("selector with NUL", Fault.BAD_MESSAGE, acquire(selector="a=b\0")),
    Attack("selector without end", Fault.BAD_MESSAGE, acquire(selector="a=b," * 2000)),
    Attack("entry that is no symbol", Fault.BAD_MESSAGE, item(entry="system; rm -rf /")),
    Attack("entry that is a path", Fault.BAD_MESSAGE, item(entry="../../lib/evil.so")),
    Attack(
        "question about a path",
        Fault.BAD_MESSAGE,
        message_of(ASK, 1, "leases", "", "../x"),
    ),
    Attack(
        "argument called like a path",
        Fault.BAD_MESSAGE,
        message_of(COMMAND, 1, "drain", {"../x": "y"}),
    ),
]

ATTACKS = [*BYTES, *numbers(), *MORE, *names(), *TEXTS]


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.name)
def test_an_attack_is_refused_and_counted(attack: Attack) -> None:
    must_fail(attack)


def test_each_attack_has_its_own_name() -> None:
    assert len({attack.name for attack in ATTACKS}) == len(ATTACKS)


@pytest.mark.parametrize("name", BAD_NAMES.values(), ids=BAD_NAMES)
def test_a_bad_name_is_no_name_anywhere(name: str) -> None:
    with pytest.raises(Denied) as caught:
        check_name(name, "a device")
    assert caught.value.fault is Fault.BAD_NAME


@pytest.mark.parametrize(
    "name", ["host/cpu0", "rpi4-03.lab/gpu:1", "a", "_x", "9f86d08", "A@b+c=d,e"]
)
def test_a_good_name_is_one(name: str) -> None:
    assert check_name(name, "a device") == name


@pytest.mark.parametrize("build", [acquire, item, device, report, hello])
def test_the_messages_that_attacks_change_are_good_without(build: object) -> None:
    assert callable(build)
    tally = Tally()
    with pytest.raises(LinkClosed):  # it ends, with nothing refused
        run(build()(tally))
    assert not tally.total
