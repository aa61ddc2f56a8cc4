"""Properties of everything that reads what strangers send; tools/fuzz_frames.py looks longer."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
from fleet_samples import SAMPLES, encoded
from hypothesis import given
from hypothesis import strategies as st

from loopwright.fleet.wire.codec import NUMBERS, from_frame
from loopwright.fleet.wire.frame import Decoder, Frame, FrameError, header
from loopwright.fleet.wire.messages import Ping

TOOL = Path(__file__).parents[3] / "tools" / "fuzz_frames.py"
STREAM = b"".join(encoded(sample).encode() for sample in SAMPLES)


def load() -> ModuleType:
    spec = importlib.util.spec_from_file_location("fuzz_frames", TOOL)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


FUZZ = load()


@given(st.binary(max_size=400))
def test_random_bytes_break_no_promise(data: bytes) -> None:
    FUZZ.one_input(data)


@given(st.binary(max_size=200), st.sampled_from(sorted(NUMBERS.values())), st.integers(0, 3))
def test_a_good_header_with_any_body_breaks_no_promise(body: bytes, kind: int, flags: int) -> None:
    from loopwright.fleet.wire.frame import Flags

    FUZZ.one_input(b"\x05" + header(kind, len(body), 1, Flags(flags)) + body + bytes(16))


@given(st.data())
def test_good_streams_that_were_changed_break_no_promise(data: st.DataObject) -> None:
    start = data.draw(st.integers(0, len(STREAM) - 1))
    stream = bytearray(STREAM[start : start + data.draw(st.integers(1, 1500))])
    for _ in range(data.draw(st.integers(0, 5))):
        stream[data.draw(st.integers(0, len(stream) - 1))] = data.draw(st.integers(0, 255))
    FUZZ.one_input(bytes((data.draw(st.integers(0, 255)),)) + stream)


@given(st.lists(st.integers(1, 3000), max_size=40), st.lists(st.sampled_from(SAMPLES), max_size=20))
def test_any_pieces_give_the_same_frames(cuts: list[int], samples: list[object]) -> None:
    whole = [encoded(sample) for sample in samples]  # type: ignore[arg-type]
    data = b"".join(frame.encode() for frame in whole)
    decoder, got, at = Decoder(), list[Frame](), 0
    for cut in [*cuts, len(data)]:
        got += decoder.feed(data[at : at + cut])
        at += cut
    assert got == whole
    assert decoder.buffered == 0


@given(st.binary(min_size=1, max_size=64).filter(lambda data: data[0] != ord("L")))
def test_after_bytes_that_are_no_frame_nothing_is(junk: bytes) -> None:
    decoder = Decoder()
    with pytest.raises(FrameError):
        list(decoder.feed(junk + bytes(16)))
    for data in (encoded(Ping(1)).encode(), b""):
        with pytest.raises(FrameError, match="expected a frame"):
            list(decoder.feed(data))
    assert decoder.buffered == 0


@given(st.sampled_from(SAMPLES), st.data())
def test_a_body_that_was_cut_short_is_no_message(sample: object, data: st.DataObject) -> None:
    frame = encoded(sample)  # type: ignore[arg-type]
    if len(frame.body) < 2 or frame.flags:
        return
    body = frame.body[: data.draw(st.integers(0, len(frame.body) - 1))]
    with pytest.raises(FrameError):
        from_frame(Frame(frame.type, body, frame.stream, frame.flags))


def test_a_header_alone_makes_nothing_grow() -> None:
    decoder = Decoder()
    list(decoder.feed(header(6, 64 << 10)))
    for _ in range(100):
        list(decoder.feed(b"x"))
    assert decoder.buffered == 116
    assert sys.getsizeof(decoder._buffer) < 1000


def test_many_frames_leave_nothing_behind() -> None:
    decoder, data = Decoder(), encoded(Ping(1)).encode()
    for _ in range(3):
        assert len(list(decoder.feed(data * 60_000))) == 60_000
        list(decoder.feed(data))
        assert decoder.buffered == 0
    assert sys.getsizeof(decoder._buffer) < 1000


def test_the_seeds_of_the_fuzzer_are_good() -> None:
    for seed in FUZZ.seeds():
        frames, why = FUZZ.frames_of([seed[1:]])
        assert frames
        assert why == ""
        for frame in frames:
            from_frame(frame)


def test_without_atheris_the_fuzzer_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "atheris", None)
    with pytest.raises(SystemExit, match="pip install atheris"):
        FUZZ.main(["--seconds", "1"])


def test_the_fuzzer_finds_nothing_in_its_first_inputs(tmp_path: Path) -> None:
    pytest.importorskip("atheris", reason="fuzzing needs atheris (pip install atheris)")
    command = [sys.executable, str(TOOL), "--runs", "5000", "--seed", "1"]
    done = subprocess.run(
        command, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert "Done 5000 runs" in done.stderr
    assert list(tmp_path.iterdir()) == []  # no input that broke a promise


def test_an_input_is_replayed_without_atheris(tmp_path: Path) -> None:
    path = tmp_path / "crash-1"
    path.write_bytes(b"\0" + STREAM[:300])
    FUZZ.main(["--replay", str(path)])
