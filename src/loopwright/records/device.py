"""Which machine a record was measured on."""

from __future__ import annotations

import hashlib
import os
import platform
import re
from pathlib import Path

from loopwright.target import Target


def fingerprint(target: Target) -> str:
    """A name for this machine as a device of `target`, as `amd-epyc-9r14-2c-1f2e3d4c`.

    Equal for machines whose processor model, core count, caches and instruction set are equal:
    their timings can be compared. It does not depend on how many cores this process may use.
    """
    model, cores = _cpu_model(), os.cpu_count() or 1
    facts = f"{model}|{cores}|{target.l1}|{target.l2}|{target.l3}|{target.key}"
    digest = hashlib.sha256(facts.encode()).hexdigest()[:8]
    words = re.sub(r"\((?:r|tm)\)|\b(?:cpu|processor)\b|@.*", " ", model.lower())
    slug = re.sub(r"[^a-z0-9]+", "-", words).strip("-")[:32].rstrip("-")
    return f"{slug or 'cpu'}-{cores}c-{digest}"


def _cpu_model() -> str:
    """What the kernel calls the processor, or at least its architecture."""
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return platform.processor() or platform.machine()
    for key in ("model name", "CPU part", "Processor"):
        found = re.search(rf"^{key}\s*:\s*(.+)$", text, re.MULTILINE)
        if found:
            return found[1].strip()
    return platform.machine()
