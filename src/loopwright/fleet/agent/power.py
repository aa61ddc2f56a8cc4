"""The last rung of the kill ladder: a command that turns a device's power off and on again.

It is the operator's, run when something on the device cannot be killed: as a process of its own,
without a shell, with a time limit, and rarely. `LOOPWRIGHT_DEVICE` and `LOOPWRIGHT_REASON` in its
environment say for what.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
from collections.abc import Callable, Sequence

from loopwright import settings

_SAID_CHARS = 200
_REAP_S = 1.0
_NEVER = float("-inf")


class PowerHook:
    """The hook of one device; `command` is empty where there is none.

    It has `limit_s` to end, and is not run again within `again_s`. `clock` is monotonic.
    """

    def __init__(
        self,
        device: str,
        command: Sequence[str],
        clock: Callable[[], float],
        limit_s: float,
        again_s: float,
    ) -> None:
        self.outcome = ""  # of the last time, in a sentence
        self._device = device
        self._command = tuple(command)
        self._clock = clock
        self._limit_s = limit_s
        self._again_s = again_s
        self._ran_at = _NEVER

    @property
    def due(self) -> bool:
        """Whether there is one, and its last run is long enough ago."""
        return bool(self._command) and self._clock() >= self._ran_at + self._again_s

    async def run(self, reason: str) -> str:
        """Run it for `reason`; what came of it, in a sentence. Being cancelled ends it."""
        self._ran_at = self._clock()
        self.outcome = "the power hook runs"
        output = os.memfd_create("power-hook")
        try:
            self.outcome = await self._start(reason, output)
        finally:
            os.close(output)
        return self.outcome

    async def _start(self, reason: str, output: int) -> str:
        more = {"LOOPWRIGHT_DEVICE": self._device, "LOOPWRIGHT_REASON": reason}
        try:
            process = subprocess.Popen(
                self._command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=settings.environment_with(more),
                start_new_session=True,
            )
        except OSError as error:
            return f"the power hook cannot be run: {error.strerror}"
        loop = asyncio.get_running_loop()
        try:
            status = await loop.run_in_executor(None, process.wait, self._limit_s)
        except subprocess.TimeoutExpired:
            _kill(process)
            await loop.run_in_executor(None, _reap, process)
            return f"the power hook was ended after {self._limit_s:g} s"
        except asyncio.CancelledError:
            _kill(process)
            raise
        if status == 0:
            return "the power hook was run"
        return f"the power hook failed with {status}: {_last_of(output)}"


def _kill(process: subprocess.Popen[bytes]) -> None:
    """End a hook that still runs, and what it has started."""
    if process.poll() is None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)


def _reap(process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(_REAP_S)


def _last_of(output: int) -> str:
    """The end of what a hook said, in one line."""
    size = os.fstat(output).st_size
    text = os.pread(output, 4 * _SAID_CHARS, max(0, size - 4 * _SAID_CHARS))
    return " ".join(text.decode(errors="replace").split())[-_SAID_CHARS:] or "it said nothing"
