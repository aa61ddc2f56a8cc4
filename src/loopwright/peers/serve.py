"""The process that a peer runs in: `python -m loopwright.peers.serve ENGINE THREADS`.

Reads an `Ask` a line and writes an `Answer` a line. What the library prints goes to standard error.
"""

from __future__ import annotations

import os
import sys
from typing import TextIO

import msgspec

from loopwright.errors import ConfigError
from loopwright.peers.engine import Engine, batch_size, time_calls
from loopwright.peers.wire import Answer, Ask, OpSpec, Ready, Refused, TimeIt, Times


def main(argv: list[str]) -> int:
    """Serve until standard input ends."""
    name, threads = argv[1], int(argv[2])
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    engine = make_engine(name, threads)
    for line in sys.stdin:
        _write(answers, answer(engine, msgspec.json.decode(line, type=Ask)))
    return 0


def make_engine(name: str, threads: int) -> Engine:
    """The engine called `name`; its library is imported now."""
    if name == "onnxruntime":
        from loopwright.peers.onnxruntime import OnnxRuntime

        return OnnxRuntime(threads)
    if name == "torch":
        from loopwright.peers.torch import Torch

        return Torch(threads)
    raise ConfigError(f"unknown peer {name!r}; use one of onnxruntime, torch")


def answer(engine: Engine, ask: Ask) -> Answer:
    """What `engine` answers to `ask`; whatever the library raises is a refusal."""
    try:
        match ask:
            case OpSpec():
                return Ready(engine.load(ask))
            case TimeIt(kernel=True):
                return Times(tuple(engine.kernel_ns(ask.repeats)))
            case TimeIt():
                calls = batch_size(engine.run, ask.min_repeat_s)
                return Times(time_calls(engine.run, calls, ask.repeats))
    except Exception as error:  # noqa: BLE001  # a process boundary: it becomes an answer
        return Refused(f"{type(error).__name__}: {error}".splitlines()[0][:300])


def _write(file: TextIO, reply: Answer) -> None:
    file.write(msgspec.json.encode(reply).decode() + "\n")
    file.flush()


if __name__ == "__main__":
    sys.exit(main(sys.argv))
