"""What emission hands to assembly."""

from __future__ import annotations

from dataclasses import dataclass

from loopwright.codegen.artifact import Param


@dataclass(frozen=True, slots=True)
class LlvmSource:
    """LLVM text of one kernel, and what its caller must know: see `artifact` for the ABI.

    `branching` says that values of register buffers meet behind branches.
    """

    text: str
    entry: str
    params: tuple[Param, ...]
    n_outputs: int
    workspace_shared: int
    workspace_per_thread: int
    branching: bool = False
