"""A canary: a kernel that always takes the same number of cycles, to see whether a core is as fast
as it was. It is a function of the native runtime, so that a device which has that has its canary.
"""

from __future__ import annotations

from pathlib import Path

from loopwright.runtime.cpu.native import runtime_object
from loopwright.runtime.cpu.native_ir import CANARY as ENTRY


def canary(cache_dir: Path) -> bytes:
    """The object code that holds the canary for this machine."""
    return runtime_object(cache_dir)


__all__ = ["ENTRY", "canary"]
