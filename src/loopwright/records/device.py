"""Which machine a record was measured on."""

from __future__ import annotations

import hashlib
import re

from loopwright.runtime.facts import facts
from loopwright.target.cpu import CpuTarget
from loopwright.target.union import Target


def fingerprint(target: Target) -> str:
    """A name for this machine as a device of `target`, as `amd-epyc-9r14-2c-1f2e3d4c`.

    Equal for machines whose processor model, core count, caches and instruction set are equal:
    their timings can be compared. It does not depend on how many cores this process may use. Of
    another kind of target it is the name with a digest of all of the target's fields.
    """
    if not isinstance(target, CpuTarget):
        return f"{target.name}-{hashlib.sha256(f'{target}|{target.key}'.encode()).hexdigest()[:8]}"
    found = facts(target)
    identity = f"{found.model}|{found.cores}|{target.l1}|{target.l2}|{target.l3}|{target.key}"
    digest = hashlib.sha256(identity.encode()).hexdigest()[:8]
    words = re.sub(r"\((?:r|tm)\)|\b(?:cpu|processor)\b|@.*", " ", found.model.lower())
    slug = re.sub(r"[^a-z0-9]+", "-", words).strip("-")[:32].rstrip("-")
    return f"{slug or 'cpu'}-{found.cores}c-{digest}"
