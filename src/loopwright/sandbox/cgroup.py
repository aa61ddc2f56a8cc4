"""Control groups (version 1 or 2): memory and process limits for everything a device runs.

A group is made by the agent, where permitted, and joined by a device's warden, whose children are
in it too. It also serves to find all of them when they must be killed.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

_ROOT = Path("/sys/fs/cgroup")
_PREFIX = "loopwright"
_CONTROLLERS = ("memory", "pids")
_KILL_S = 1.0


@dataclass(frozen=True, slots=True)
class Cgroup:
    """Folders of one group: one per controller, or one for all. `limits`: whether limits hold."""

    folders: tuple[Path, ...]
    limits: bool

    @property
    def doors(self) -> tuple[str, ...]:
        """The files that a process writes 0 to in order to join."""
        return tuple(str(folder / "cgroup.procs") for folder in self.folders)

    def processes(self) -> frozenset[int]:
        """The ids of the processes in it."""
        found: set[int] = set()
        for folder in self.folders:
            with contextlib.suppress(OSError):
                found.update(int(n) for n in (folder / "cgroup.procs").read_text().split())
        return frozenset(found)

    def kill(self) -> None:
        """Send SIGKILL to everything in it, until nothing is left or a timeout passes."""
        deadline = time.monotonic() + _KILL_S
        while (pids := self.processes()) and time.monotonic() < deadline:
            for pid in pids:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.002)

    def remove(self) -> None:
        """Remove the group; one that is not empty stays."""
        for folder in self.folders:
            with contextlib.suppress(OSError):
                folder.rmdir()


def create(name: str, memory: int, processes: int, root: Path = _ROOT) -> Cgroup | None:
    """A child of this process's groups, with `memory` bytes; None where that is not allowed.

    Groups left behind by agents that are gone are removed first.
    """
    own = _own_groups()
    if (root / "cgroup.controllers").exists():
        return _create_unified(root / own.get("", "").lstrip("/"), name, memory, processes)
    folders: list[Path] = []
    for controller, file, value in (
        ("memory", "memory.limit_in_bytes", memory),
        ("pids", "pids.max", processes),
    ):
        parent = root / controller / own.get(controller, "").lstrip("/")
        folder = _make(parent, name)
        if folder is not None and not _write(folder / file, value):
            folder.rmdir()
            folder = None
        if folder is None:
            Cgroup(tuple(folders), limits=False).remove()
            return None
        folders.append(folder)
    return Cgroup(tuple(folders), limits=True)


def join(doors: Iterable[str]) -> bool:
    """Put this process into the group through `doors`; returns whether every write succeeded."""
    joined = [_write(Path(door), 0) for door in doors]
    return bool(joined) and all(joined)


def _create_unified(parent: Path, name: str, memory: int, processes: int) -> Cgroup | None:
    folder = _make(parent, name)
    if folder is None:
        return None
    _write(parent / "cgroup.subtree_control", " ".join(f"+{c}" for c in _CONTROLLERS))
    limited = _write(folder / "memory.max", memory) and _write(folder / "pids.max", processes)
    return Cgroup((folder,), limits=limited)


def _make(parent: Path, name: str) -> Path | None:
    folder = parent / f"{_PREFIX}-{os.getpid()}-{re.sub(r'[^A-Za-z0-9_.-]', '-', name)}"
    try:
        for old in parent.glob(f"{_PREFIX}-*"):
            owner = old.name.split("-")[1]
            if owner.isdigit() and not Path(f"/proc/{owner}").exists():
                with contextlib.suppress(OSError):
                    old.rmdir()
        folder.mkdir(exist_ok=True)
    except OSError:
        return None
    return folder


def _write(path: Path, value: object) -> bool:
    try:
        path.write_text(str(value))
    except OSError:
        return False
    return True


def _own_groups() -> dict[str, str]:
    """The group of this process in each hierarchy; the unified one is under ``."""
    try:
        lines = Path("/proc/self/cgroup").read_text().splitlines()
    except OSError:
        return {}
    own: dict[str, str] = {}
    for line in lines:
        _, controllers, path = line.split(":", 2)
        for controller in controllers.split(","):
            own[controller] = path
    return own
