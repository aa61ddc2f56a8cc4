"""Artifacts into this process."""

from __future__ import annotations

import functools
from dataclasses import dataclass

from loopwright.codegen.artifact import Artifact
from loopwright.errors import ConfigError
from loopwright.runtime.object.link import Linked, link
from loopwright.target.host import host
from loopwright.target.presets import keys_for


@dataclass(frozen=True, slots=True)
class Loaded:
    """An artifact in memory: `entry` is its address for as long as this lives."""

    artifact: Artifact
    code: Linked
    entry: int


def load(artifact: Artifact) -> Loaded:
    """`artifact` linked into this process.

    Raises: ConfigError if it was made for a target this machine is not; EnvironmentFailure if it
    is broken.
    """
    require_runnable(artifact.target_key)
    code = link(artifact.code, (artifact.entry,))
    return Loaded(artifact, code, code[artifact.entry])


def require_runnable(target_key: str) -> None:
    """Nothing, if code made for `target_key` runs on this machine.

    Raises: ConfigError naming the keys that run here.
    """
    keys = runnable_keys()
    if target_key not in keys:
        raise ConfigError(
            f"the kernel is made for {target_key}, this machine runs {', '.join(sorted(keys))}; "
            "build it for target 'cpu'"
        )


@functools.cache
def runnable_keys() -> frozenset[str]:
    """Keys of this machine's target and of the presets whose features it all has."""
    return keys_for(host())
