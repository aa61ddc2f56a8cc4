"""A peer library in a process of its own, which sleeps while it is not asked.

Libraries keep pools of threads that spin for a while after each call. The process is stopped
between two requests, so that what is timed meanwhile has the machine to itself.
"""

from __future__ import annotations

import importlib.util
import os
import select
import signal
import subprocess
import sys
from collections.abc import Sequence
from typing import Final

import msgspec

from loopwright.errors import EnvironmentFailure, UnsupportedError
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

ENGINES: Final = {
    "onnxruntime": ("onnxruntime", "onnx"),
    "openvino": ("openvino",),
    "torch": ("torch",),
    "loopwright": (),
}
"""The engines there are, and the packages each needs."""
OPERATOR_PEERS: Final = ("onnxruntime", "torch")
"""The peers for single operators."""
MODEL_PEERS: Final = ("onnxruntime", "openvino", "torch")
"""The peers for whole models; our own engine runs beside them."""
_EXTRAS: Final = {
    "onnxruntime": "bench",
    "openvino": "openvino",
    "torch": "torch",
    "loopwright": "bench",
}
_TIMEOUT_S = 120.0


def missing(engine: str) -> tuple[str, ...]:
    """The packages that `engine` needs and that are not installed."""
    return tuple(p for p in ENGINES[engine] if importlib.util.find_spec(p) is None)


def require(engine: str, among: Sequence[str] = tuple(ENGINES)) -> None:
    """Check that `engine` is one of `among` and can be used here.

    Raises: UnsupportedError for a peer that does not exist, EnvironmentFailure when its packages
        are not installed.
    """
    if engine not in among:
        raise UnsupportedError(f"unknown peer {engine!r}; use one of {', '.join(among)}")
    absent = missing(engine)
    if absent:
        raise EnvironmentFailure(
            f"comparing with {engine} needs {' and '.join(absent)}; "
            f"pip install 'loopwright[{_EXTRAS[engine]}]'"
        )


class Peer:
    """`engine` with `threads` threads in its own process. Use it in a `with`.

    Args:
        cpus: the cores it may run on; all that this process may use when None.

    Raises: UnsupportedError for a peer that does not exist, EnvironmentFailure when its packages
        are not installed or its process ends.
    """

    def __init__(self, engine: str, threads: int = 1, cpus: Sequence[int] | None = None) -> None:
        require(engine)
        self.engine = engine
        self._process = subprocess.Popen(
            [sys.executable, "-m", "loopwright.peers.serve", engine, str(threads)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        if cpus is not None:
            os.sched_setaffinity(self._process.pid, cpus)

    def __enter__(self) -> Peer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()
        self._process.wait()

    def load(self, spec: OpSpec) -> str:
        """Make an operator ready; how the peer computes it.

        Raises: UnsupportedError when the peer cannot.
        """
        answer = self._ask(spec)
        if isinstance(answer, PeerReady):
            return answer.form
        raise self._unexpected(answer)

    def load_model(self, spec: ModelSpec) -> PeerReady:
        """Make a whole model ready; how the peer computes it, and what that took.

        Raises: UnsupportedError when the peer cannot.
        """
        answer = self._ask(spec)
        if isinstance(answer, PeerReady):
            return answer
        raise self._unexpected(answer)

    def time(
        self, repeats: int, *, min_repeat_s: float = 0.01, kernel: bool = False
    ) -> tuple[float, ...]:
        """Nanoseconds a call of what is loaded, `repeats` figures; see `wire.TimeIt`."""
        answer = self._ask(TimeIt(repeats, min_repeat_s, kernel))
        if isinstance(answer, Times):
            return answer.ns
        raise self._unexpected(answer)

    def _ask(self, ask: Ask) -> Answer:
        stdin, stdout = self._process.stdin, self._process.stdout
        if stdin is None or stdout is None or self._process.poll() is not None:
            raise self._gone()
        try:
            self._process.send_signal(signal.SIGCONT)
            stdin.write(msgspec.json.encode(ask) + b"\n")
            stdin.flush()
            ready, _, _ = select.select([stdout], [], [], _TIMEOUT_S)
            line = stdout.readline() if ready else b""
        except BrokenPipeError as error:
            raise self._gone() from error
        if not line:
            raise self._gone()
        self._process.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, self._process.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)
        answer: Answer = msgspec.json.decode(line, type=Answer)
        return answer

    def _gone(self) -> EnvironmentFailure:
        code = self._process.poll()
        what = f"took more than {_TIMEOUT_S:.0f} s" if code is None else f"ended with {code}"
        self._process.kill()
        return EnvironmentFailure(f"the process of {self.engine} {what}; leave it out of --compare")

    def _unexpected(self, answer: Answer) -> UnsupportedError:
        reason = answer.reason if isinstance(answer, PeerRefusal) else "an answer out of turn"
        return UnsupportedError(f"{self.engine} cannot run this: {reason}")
