"""A device for tests, brought in by an entry point: it multiplies, by the word of its code.

Code is a stream of text, `scale 3`: y = 3 * x of float32, ten nanoseconds an element. Other words
misbehave, each in the way of its name.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

from loopwright.codegen.artifact import Artifact, Param
from loopwright.errors import EnvironmentFailure
from loopwright.ir.dtype import F32
from loopwright.kernel_call import Clock, Form, Loadable
from loopwright.layout import Array, Layout
from loopwright.outcome import FailureKind
from loopwright.plugins import plugin
from loopwright.runtime.device import Buffer, CallTiming, DeviceFacts, KernelFault, require_form
from loopwright.runtime.null import NullDevice

KIND = "tally"
TARGET_KEY = "tally-1"
N = 100
NS = 10.0


@dataclass(frozen=True, slots=True)
class TallyKernel:
    device: TallyDevice
    word: str
    number: float

    def run(self, buffers: Sequence[Buffer]) -> None:
        self.time(buffers, 1)

    def time(self, buffers: Sequence[Buffer], count: int) -> CallTiming:
        match self.word:
            case "fault":
                raise KernelFault("wrote to element 100 of y", FailureKind.OUT_OF_BOUNDS)
            case "hang":
                while True:
                    pass
            case "abort":
                os.abort()
            case "raise":
                raise ValueError("a bug of the device")
            case "exec":
                os.execv("/bin/true", ["true"])
        x, y = (self.device.memory(buffer) for buffer in buffers)
        y[:] = np.float32(self.number) * x
        return CallTiming(NS * x.size * count, count)


class TallyDevice(NullDevice):
    kind = KIND
    clock = Clock.CYCLES

    def memory(self, buffer: Buffer) -> Array:
        return self._memory[buffer].view(np.float32)

    def facts(self) -> DeviceFacts:
        return DeviceFacts("tally", 1 << 20, units=1)

    def load(self, kernel: Loadable) -> TallyKernel:
        require_form(kernel, KIND, Form.STREAM, Form.SOURCE)
        word, _, number = kernel.code.decode().partition(" ")
        if not number:
            raise EnvironmentFailure(f"the code of {kernel.entry} is broken: it has no number")
        return TallyKernel(self, word, float(number))


def artifact(code: str, **changes: object) -> Artifact:
    """A kernel for the device that does what `code` says with x and y."""
    params = tuple(Param(name, F32, (N,), Layout.plain(1)) for name in "xy")
    made = Artifact(
        code=code.encode(),
        entry="tally",
        params=params,
        n_outputs=1,
        target_key=TARGET_KEY,
        kind=KIND,
        form=Form.STREAM,
    )
    return replace(made, **changes)  # type: ignore[arg-type]  # by name


def install(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the entry point of the device be found, here and in processes started from here."""
    points = folder / "tally-1.0.dist-info"
    points.mkdir()
    (points / "METADATA").write_text("Name: tally\nVersion: 1.0\n")
    (points / "entry_points.txt").write_text(
        "[loopwright.devices]\ntally = tally_device:TallyDevice\nbroken = tally_device:Nothing\n"
    )
    monkeypatch.syspath_prepend(folder)
    plugin.cache_clear()
