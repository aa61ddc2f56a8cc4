"""Fuzz everything that reads bytes or text of strangers: frames, messages, tickets, tokens, names.

    pip install atheris
    python tools/fuzz_frames.py [--seconds 60] [--runs N] [--seed 1] [--corpus FOLDER]

The corpus begins with the golden messages of the tests; with `--corpus` what is found is kept there
for the next run, and with `--runs` each run tries the same. An input that breaks a promise is
written to `crash-...` by libFuzzer, and the exit code is not 0; `--replay FILE` runs such an input
alone, for which atheris is not needed.
"""

from __future__ import annotations

import argparse
import importlib
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from loopwright.errors import ConfigError
from loopwright.fleet.security import signing, tickets, tokens
from loopwright.fleet.security.mac import FrameMac
from loopwright.fleet.wire import address, codec
from loopwright.fleet.wire.faults import Denied
from loopwright.fleet.wire.fields import check_name
from loopwright.fleet.wire.frame import (
    DATA_BYTES,
    HEADER_BYTES,
    MAC_BYTES,
    Decoder,
    Frame,
    FrameError,
)

GOLDEN = Path(__file__).parent.parent / "tests" / "fleet" / "wire" / "golden" / "protocol-1.txt"
KEY = bytes(32)
LONGEST = HEADER_BYTES + DATA_BYTES + MAC_BYTES
MAX_INPUT = 8192


class BrokenPromiseError(Exception):
    """What must hold for every input did not."""


def one_input(data: bytes) -> None:
    """Read `data` in every way there is.

    The first byte says how it is cut into pieces, and what is read besides frames.

    Raises: BrokenPromiseError, or whatever a reader raises that it must not.
    """
    if not data:
        return
    how, rest = data[0], data[1:]
    whole = frames_of([rest])
    pieces = [rest[at : at + 1 + how] for at in range(0, len(rest), 1 + how)]
    if frames_of(pieces) != whole:
        raise BrokenPromiseError(f"pieces of {1 + how} bytes give other frames than the whole")
    for frame in whole[0]:
        message_of(frame)
    if how % 4 == 0:
        _read_secrets(rest)


def frames_of(pieces: list[bytes]) -> tuple[list[Frame], str]:
    """The frames in `pieces`, and why there are no more."""
    decoder, frames = Decoder(), list[Frame]()
    given = 0
    try:
        for piece in pieces:
            given += len(piece)
            for frame in decoder.feed(piece):
                frames.append(frame)  # what came before an error counts
            if decoder.buffered > min(given, LONGEST):
                raise BrokenPromiseError(f"{decoder.buffered} bytes are held of {given}")
    except FrameError as error:
        return frames, str(error)
    return frames, ""


def message_of(frame: Frame) -> None:
    """Read a frame as a message; one that is good is written and read as the same."""
    FrameMac(KEY, from_dialer=True).tag(frame.header, frame.body)
    try:
        message = codec.from_frame(frame)
    except FrameError:
        return
    if isinstance(message, codec.Data):
        again = codec.from_frame(codec.data_frame(message.head, message.data, frame.stream))
    else:
        again = codec.from_frame(codec.to_frame(message, frame.stream))
    if again != message:
        raise BrokenPromiseError(f"{message!r} is written as {again!r}")


def _read_secrets(data: bytes) -> None:
    """What else strangers send: each reader has one way to refuse."""
    try:
        tickets.unseal(data, KEY)
    except Denied:
        pass
    else:
        raise BrokenPromiseError("a ticket that nobody sealed")
    text = data.decode("utf-8", "surrogateescape")
    for read in (tokens.token_id, tokens.code_id, address.parse, signing.read_public):
        try:
            read(text)
        except (Denied, ConfigError):
            continue
    try:
        name = check_name(text, "a device")
    except Denied:
        return
    if ".." in name.split("/") or name.startswith("/") or not name.isprintable():
        raise BrokenPromiseError(f"{name!r} is taken for a name")


def seeds() -> Iterator[bytes]:
    """Inputs to begin with: each golden message, and all of them in one stream."""
    stream = b""
    for line in GOLDEN.read_text().splitlines():
        data = bytes.fromhex(line.split()[1])
        stream += data
        yield b"\x00" + data
        yield b"\x07" + data
    yield b"\x1f" + stream[: MAX_INPUT - 1]


def _fuzz(options: argparse.Namespace, corpus: Path) -> None:
    for index, seed in enumerate(seeds()):
        (corpus / f"golden-{index}").write_bytes(seed)
    try:
        atheris = importlib.import_module("atheris")
    except ImportError:
        raise SystemExit("fuzzing needs the package atheris: pip install atheris") from None
    for module in (codec, tickets, tokens, address, signing):
        for name, value in vars(module).items():
            if getattr(value, "__module__", None) == module.__name__ and hasattr(value, "__code__"):
                setattr(module, name, atheris.instrument_func(value))
    for method in ("push", "next_frame", "_header"):
        setattr(Decoder, method, atheris.instrument_func(getattr(Decoder, method)))
    arguments = [
        sys.argv[0],
        f"-max_total_time={options.seconds}",
        f"-max_len={MAX_INPUT}",
        f"-runs={options.runs}",
        f"-seed={options.seed}",
        "-print_final_stats=1",
        str(corpus),
    ]
    atheris.Setup(arguments, atheris.instrument_func(one_input))
    atheris.Fuzz()


def main(arguments: list[str] | None = None) -> None:
    """Fuzz for a while, or replay one input."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seconds", type=int, default=60, help="how long")
    parser.add_argument("--runs", type=int, default=-1, help="how many inputs at most")
    parser.add_argument("--seed", type=int, default=1, help="of the mutations")
    parser.add_argument("--corpus", type=Path, help="a folder to keep what is found in")
    parser.add_argument("--replay", type=Path, help="an input to run alone")
    options = parser.parse_args(arguments)
    if options.replay is not None:
        one_input(options.replay.read_bytes())
    elif options.corpus is not None:
        options.corpus.mkdir(parents=True, exist_ok=True)
        _fuzz(options, options.corpus)
    else:
        with tempfile.TemporaryDirectory() as folder:
            _fuzz(options, Path(folder))


if __name__ == "__main__":
    main()
