"""Which targets' code can be run here, by this machine or by an emulator."""

from __future__ import annotations

import aarch64
import pytest

from loopwright.runtime.cpu.loader import runnable_keys
from loopwright.target.presets import PRESETS


def runs_here(preset: str) -> bool:
    """Whether this machine itself runs code for `preset`, or for the target `cpu`."""
    return preset == "cpu" or PRESETS[preset].key in runnable_keys()


def can_run(preset: str) -> bool:
    """Whether this machine or the emulator runs it; kernels' fixture `run` uses what there is."""
    return runs_here(preset) or (preset == aarch64.PRESET and not aarch64.MISSING)


def presets_to_run(*names: str) -> list[object]:
    """Parameters of a test, those skipped that can not be run here."""
    return [
        pytest.param(name, marks=pytest.mark.skipif(not can_run(name), reason=_why(name)))
        for name in names
    ]


def _why(preset: str) -> str:
    return f"this machine is not {preset}" + f"; {aarch64.NEEDED}" * (preset == aarch64.PRESET)
