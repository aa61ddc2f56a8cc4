"""Bubblewrap around a warden: no network, nothing that can be written, no other process in sight.

What is inside keeps the rights that it needs to confine candidates further, in its own namespaces.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Sequence

_KEPT = ("CAP_SYS_ADMIN", "CAP_SETUID", "CAP_SETGID", "CAP_KILL", "CAP_SYS_NICE", "CAP_SETPCAP")


def available() -> bool:
    """Whether bubblewrap is installed."""
    return shutil.which("bwrap") is not None


def wrapped(command: Sequence[str], writable: Iterable[str]) -> list[str]:
    """`command` in a bubble, where only `writable` can be written."""
    program = shutil.which("bwrap") or "bwrap"
    options = ["--ro-bind", "/", "/", "--dev", "/dev", "--proc", "/proc"]
    for path in writable:
        options += ["--bind", path, path]
    for name in ("net", "ipc", "uts", "pid"):
        options.append(f"--unshare-{name}")
    for capability in _KEPT:
        options += ["--cap-add", capability]
    return [program, *options, "--die-with-parent", "--", *command]
