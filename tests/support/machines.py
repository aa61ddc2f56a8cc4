"""Which targets' code this machine can run."""

from __future__ import annotations

import pytest

from loopwright.runtime.loader import runnable_keys
from loopwright.target import PRESETS


def runs_here(preset: str) -> bool:
    return PRESETS[preset].key in runnable_keys()


def presets_to_run(*names: str) -> list[object]:
    """Parameters of a test, those skipped that this machine cannot run."""
    return [
        pytest.param(
            name,
            marks=pytest.mark.skipif(not runs_here(name), reason=f"this machine is no {name}"),
        )
        for name in names
    ]
