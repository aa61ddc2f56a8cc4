"""The bytes of version 1, to which later ones add: what another version or language relies on."""

from __future__ import annotations

import msgspec
import pytest
from fleet_samples import GOLDEN, SAMPLES, encoded

from loopwright.fleet.wire.codec import HEADS, TYPES, Data, Incoming, from_frame
from loopwright.fleet.wire.frame import DATA_HEAD_BYTES, Decoder, Flags, Frame
from loopwright.fleet.wire.messages import Message

LINES = dict(line.split() for line in GOLDEN.read_text().splitlines())
BY_NAME = {type(sample).__name__: sample for sample in SAMPLES}


def frame_of(name: str) -> Frame:
    (frame,) = Decoder().feed(bytes.fromhex(LINES[name]))
    return frame


def message(incoming: Incoming) -> Message:
    if isinstance(incoming, Data):
        assert incoming.data == b"data"
        return incoming.head
    return incoming


def split(frame: Frame) -> tuple[list[object], bytes]:
    """The fields in a body, and the bulk data after them."""
    if not frame.flags & Flags.DATA:
        return msgspec.msgpack.decode(frame.body), b""
    end = 2 + int.from_bytes(frame.body[:2], "little")
    return msgspec.msgpack.decode(frame.body[2:end]), frame.body[end:]


def with_fields(frame: Frame, fields: list[object]) -> Frame:
    body = msgspec.msgpack.encode(fields)
    if frame.flags & Flags.DATA:
        assert len(body) <= DATA_HEAD_BYTES
        body = len(body).to_bytes(2, "little") + body + split(frame)[1]
    return Frame(frame.type, body, frame.stream, frame.flags)


def begins_with(now: object, old: object) -> bool:
    """Whether `now` is `old` with further fields at the ends of it and of what is in it."""
    if not (isinstance(now, list) and isinstance(old, list)):
        return now == old
    return len(now) >= len(old) and all(map(begins_with, now, old))


def test_every_message_has_a_golden() -> None:
    assert {kind.__name__ for kind in (TYPES | HEADS).values()} == set(BY_NAME) == set(LINES)


@pytest.mark.parametrize("name", LINES)
def test_the_golden_bytes_are_read_as_what_was_written(name: str) -> None:
    frame = frame_of(name)
    assert frame.stream == 5
    read, sample = message(from_frame(frame)), BY_NAME[name]
    known = len(split(frame)[0])  # fields of later versions have their defaults
    for number, field in enumerate(sample.__struct_fields__):
        if number < known:
            assert getattr(read, field) == getattr(sample, field)
        else:
            assert getattr(read, field) == _defaults(type(sample))[field]


def _defaults(kind: type[Message]) -> dict[str, object]:
    names = kind.__struct_fields__
    return dict(zip(reversed(names), reversed(kind.__struct_defaults__), strict=False))


@pytest.mark.parametrize("name", LINES)
def test_what_is_written_begins_with_the_golden_fields(name: str) -> None:
    old, now = frame_of(name), encoded(BY_NAME[name])
    assert (now.type, now.flags) == (old.type, old.flags)
    assert begins_with(split(now)[0], split(old)[0])
    if split(now)[0] == split(old)[0]:
        assert now.encode() == bytes.fromhex(LINES[name])


@pytest.mark.parametrize("extra", [7, None, {"a": [1, 2]}, b"x" * 20], ids=repr)
@pytest.mark.parametrize("name", LINES)
def test_a_field_that_a_newer_version_adds_is_passed_over(name: str, extra: object) -> None:
    frame = encoded(BY_NAME[name])
    newer = with_fields(frame, [*split(frame)[0], extra])
    assert message(from_frame(newer)) == BY_NAME[name]


@pytest.mark.parametrize("name", LINES)
def test_fields_with_defaults_may_be_left_out_by_an_older_version(name: str) -> None:
    kind = type(BY_NAME[name])
    optional = len(kind.__struct_defaults__)
    frame = encoded(BY_NAME[name])
    fields = split(frame)[0]
    for count in range(1, optional + 1):
        older = message(from_frame(with_fields(frame, fields[: len(fields) - count])))
        for field in kind.__struct_fields__[: len(fields) - count]:
            assert getattr(older, field) == getattr(BY_NAME[name], field)
