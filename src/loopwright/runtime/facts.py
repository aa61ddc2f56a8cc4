"""Facts about this machine that the system reports: nothing is compiled or measured."""

from __future__ import annotations

import hashlib
import os
import platform
import re
from dataclasses import dataclass
from pathlib import Path

from loopwright.target.host import host
from loopwright.target.union import Target


@dataclass(frozen=True, slots=True)
class MachineFacts:
    """A description of this machine; `features` is a digest of its instruction set."""

    model: str
    cores: int
    features: str
    kernel: str
    memory_bytes: int


def facts(target: Target | None = None) -> MachineFacts:
    """The facts about this machine."""
    features = (host() if target is None else target).features
    return MachineFacts(
        model=_model(),
        cores=os.cpu_count() or 1,
        features=hashlib.sha256(",".join(features).encode()).hexdigest()[:8],
        kernel=f"{platform.system()} {platform.release()}",
        memory_bytes=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
    )


def _model() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return platform.machine()
    found = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    return found[1].strip() if found else platform.machine()
