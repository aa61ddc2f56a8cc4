from __future__ import annotations

import stat
import struct
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loopwright.errors import ConfigError, ModelError
from loopwright.runtime import model_file
from loopwright.runtime.cpu.model import load_model
from loopwright.runtime.model_file import CallInfo, Manifest, Port

HEAD = struct.calcsize("<8sIQ32s")
PAGE = 4096
CONTENTS = (
    ("kernel", bytes(range(256)) * 3),
    ("driver", b"code"),
    ("empty", b""),
    ("constants", b"\x01\x02" * PAGE),
)


def manifest(target: str = "x86-64-avx2-00000000") -> Manifest:
    ports = (Port("x", (1, 4), "float32"),)
    call = CallInfo("c", ("n1", "n2"), "dense", "t", "p", "tile=4", "tuned", 8, 9, "kernel", 1.5)
    return Manifest(
        "net", "here", target, "x86-64-avx2", "cpu", 2, ports, ports, (call,), 64, 128, 0, 0, {}
    )


@pytest.fixture
def path(tmp_path: Path) -> Path:
    file = tmp_path / "net.lw"
    model_file.write(file, manifest(), CONTENTS)
    return file


def refused(path: Path, words: str) -> None:
    """Both ways to read refuse the file in one line that names it, or only the whole one does."""
    with pytest.raises(ModelError, match=words) as caught:
        model_file.read(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def start_of(path: Path) -> int:
    """Where sections begin."""
    (length,) = struct.unpack("<Q", path.read_bytes()[12:20])
    return -(-(HEAD + int(length)) // PAGE) * PAGE


def alter(path: Path, at: int, to: bytes | None = None) -> None:
    data = bytearray(path.read_bytes())
    data[at : at + len(to or b"x")] = bytes([data[at] ^ 1]) if to is None else to
    path.write_bytes(data)


def test_what_is_written_is_read(path: Path) -> None:
    found, sections = model_file.read(path)
    assert {name: bytes(data) for name, data in sections.items()} == dict(CONTENTS)
    assert found.calls == manifest().calls
    assert [(s.name, s.offset % PAGE, s.nbytes) for s in found.sections] == [
        (name, 0, len(data)) for name, data in CONTENTS
    ]
    assert model_file.read_manifest(path) == found
    assert model_file.is_model_file(path)


@given(st.lists(st.binary(max_size=3 * PAGE), max_size=5))
@settings(max_examples=30, deadline=None)
def test_any_sections_come_back(
    tmp_path_factory: pytest.TempPathFactory, pieces: list[bytes]
) -> None:
    path = tmp_path_factory.mktemp("any") / "m.lw"
    contents = [(f"s{number}", data) for number, data in enumerate(pieces)]
    model_file.write(path, manifest(), contents)
    _, sections = model_file.read(path)
    assert [(name, bytes(data)) for name, data in sections.items()] == contents


def test_sections_of_many_pieces_are_checked_to_the_last_byte(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model_file, "_PIECE", 100)
    path = tmp_path / "m.lw"
    model_file.write(path, manifest(), [("a", bytes(1000)), ("b", bytes(1001))])
    found, _ = model_file.read(path)
    assert [len(section.digests) for section in found.sections] == [10, 11]
    alter(path, start_of(path) + PAGE + 1000)
    refused(path, "altered: section b")


def test_a_file_cut_off_anywhere_that_matters_is_refused(path: Path) -> None:
    whole = path.read_bytes()
    start = start_of(path)
    found, _ = model_file.read(path)
    last = found.sections[-1]
    bounds = {start + s.offset + extra for s in found.sections for extra in (0, s.nbytes)}
    ends = {0, 1, 8, HEAD - 1, HEAD, HEAD + 1, (HEAD + start) // 2, start, *bounds}
    end = start + last.offset + last.nbytes
    for size in sorted({e + d for e in ends for d in (-1, 0, 1)}):
        if 0 <= size < end:
            path.write_bytes(whole[:size])
            refused(path, "truncated|it has")
    path.write_bytes(whole[:end])
    model_file.read(path)


@pytest.mark.parametrize("section", ["kernel", "driver", "constants"])
def test_one_altered_bit_in_a_section_is_refused(path: Path, section: str) -> None:
    found, _ = model_file.read(path)
    (place,) = (s for s in found.sections if s.name == section)
    alter(path, start_of(path) + place.offset + place.nbytes - 1)
    refused(path, f"altered: section {section}")


@pytest.mark.parametrize(
    ("at", "words"),
    [
        (0, "not a tuned model"),
        (7, "not a tuned model"),
        (12, "altered|truncated"),
        (18, "truncated"),
        (20, "altered: its manifest"),
        (HEAD - 1, "altered: its manifest"),
        (HEAD, "altered: its manifest"),
        (HEAD + 200, "altered: its manifest"),
    ],
)
def test_an_altered_head_is_refused(path: Path, at: int, words: str) -> None:
    alter(path, at)
    refused(path, words)
    with pytest.raises(ModelError, match=words):
        model_file.read_manifest(path)


def test_every_altered_bit_before_the_sections_is_refused_or_of_no_account(path: Path) -> None:
    whole = path.read_bytes()
    right = model_file.read(path)[0]
    (length,) = struct.unpack("<Q", whole[12:20])
    for at in (*range(HEAD), HEAD + int(length) - 1):
        for bit in range(8):
            data = bytearray(whole)
            data[at] ^= 1 << bit
            path.write_bytes(data)
            refused(path, ".")
    path.write_bytes(whole)
    assert model_file.read(path)[0] == right


def test_a_later_format_says_to_update(path: Path) -> None:
    alter(path, 8, struct.pack("<I", model_file.FORMAT + 1))
    refused(path, "update loopwright")


def test_a_format_that_never_was_is_refused(path: Path) -> None:
    alter(path, 8, struct.pack("<I", 0))
    refused(path, "no format 0")


def test_a_manifest_of_other_fields_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "m.lw"
    monkeypatch.setattr(model_file.msgspec.json, "encode", lambda _: b'{"name": 3}')
    model_file.write(path, manifest(), [])
    refused(path, "manifest cannot be read")


def test_what_is_not_there_or_no_model_is_refused(tmp_path: Path) -> None:
    refused(tmp_path / "none.lw", "No such file")
    refused(tmp_path, "Is a directory")
    other = tmp_path / "other.lw"
    for data, words in ((b"", "it has 0 bytes"), (b"x" * 500, "not a tuned model")):
        other.write_bytes(data)
        refused(other, words)
        assert not model_file.is_model_file(other)
    assert not model_file.is_model_file(tmp_path / "none.lw")


def test_a_file_is_written_whole_or_not_at_all(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = path.read_bytes()

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        model_file.write(path, manifest(), [("other", b"content")])
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


def test_a_folder_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="cannot be written: No such file"):
        model_file.write(tmp_path / "no" / "m.lw", manifest(), CONTENTS)


def test_a_model_may_be_read_by_whom_the_user_allows(path: Path, tmp_path: Path) -> None:
    usual = tmp_path / "usual"
    usual.touch()
    assert stat.S_IMODE(path.stat().st_mode) == stat.S_IMODE(usual.stat().st_mode)


def test_a_file_may_be_written_over_while_it_is_read(path: Path) -> None:
    _, sections = model_file.read(path)
    model_file.write(path, manifest(), [("kernel", b"new")])
    assert bytes(sections["kernel"]) == CONTENTS[0][1]
    assert bytes(model_file.read(path)[1]["kernel"]) == b"new"


def test_a_model_for_other_instructions_is_refused_before_it_is_linked(path: Path) -> None:
    with pytest.raises(ConfigError, match=r"x86-64-avx2-00000000.*target 'cpu'") as caught:
        load_model(path)
    assert str(path) in str(caught.value)
