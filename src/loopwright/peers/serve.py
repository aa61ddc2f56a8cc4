"""The process that a peer runs in: `python -m loopwright.peers.serve ENGINE THREADS`.

Reads an `Ask` a line and writes an `Answer` a line. What the library prints goes to standard error.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import TextIO

import msgspec

from loopwright.errors import ConfigError
from loopwright.peers.engine import PeerEngine, batch_size, time_calls
from loopwright.peers.models import ModelEngine, make_model_engine, make_ready
from loopwright.peers.wire import (
    Answer,
    Ask,
    ModelSpec,
    OpSpec,
    PeerReady,
    PeerRefusal,
    TimeIt,
    Times,
)


def main(argv: list[str]) -> int:
    """Serve until standard input ends."""
    name, threads = argv[1], int(argv[2])
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    server = PeerServer(
        lambda: make_engine(name, threads), lambda: make_model_engine(name, threads)
    )
    for line in sys.stdin:
        _write(answers, server.answer(msgspec.json.decode(line, type=Ask)))
    return 0


def make_engine(name: str, threads: int) -> PeerEngine:
    """The engine called `name`; its library is imported now."""
    if name == "onnxruntime":
        from loopwright.peers.onnxruntime import OnnxRuntime

        return OnnxRuntime(threads)
    if name == "torch":
        from loopwright.peers.torch import Torch

        return Torch(threads)
    raise ConfigError(f"unknown peer {name!r}; use one of onnxruntime, torch")


class PeerServer:
    """One library that runs one operator or model at a time."""

    def __init__(
        self, operators: Callable[[], PeerEngine], models: Callable[[], ModelEngine]
    ) -> None:
        self._make_operators = operators
        self._make_model = models
        self._operators: PeerEngine | None = None
        self._model: ModelEngine | None = None

    def answer(self, ask: Ask) -> Answer:
        """What the library answers to `ask`; whatever it raises is a refusal."""
        try:
            match ask:
                case OpSpec():
                    self._operators = self._operators or self._make_operators()
                    self._model = None
                    return PeerReady(self._operators.load(ask))
                case ModelSpec():
                    self._model = self._make_model()
                    return make_ready(self._model, ask)
                case TimeIt():
                    return self._time(ask)
        except Exception as error:  # noqa: BLE001  # a process boundary: it becomes an answer
            return PeerRefusal(f"{type(error).__name__}: {error}".splitlines()[0][:300])

    def _time(self, ask: TimeIt) -> Answer:
        if self._model is not None:
            calls = batch_size(self._model.run, ask.min_repeat_s)
            return Times(time_calls(self._model.run, calls, ask.repeats))
        if self._operators is None:
            raise ConfigError("nothing is loaded")
        if ask.kernel:
            return Times(tuple(self._operators.kernel_ns(ask.repeats)))
        calls = batch_size(self._operators.run, ask.min_repeat_s)
        return Times(time_calls(self._operators.run, calls, ask.repeats))


def _write(file: TextIO, reply: Answer) -> None:
    file.write(msgspec.json.encode(reply).decode() + "\n")
    file.flush()


if __name__ == "__main__":
    sys.exit(main(sys.argv))
