"""Loads artifacts into this process."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass

from loopwright.codegen.artifact import Artifact
from loopwright.errors import ConfigError
from loopwright.kernel_call import CPU, Form
from loopwright.runtime.object.link import Linked, link
from loopwright.target.host import host
from loopwright.target.presets import keys_for


@dataclass(frozen=True, slots=True)
class Loaded:
    """An artifact in memory: `entry` is its address as long as this object lives."""

    artifact: Artifact
    code: Linked
    entry: int


def load(artifact: Artifact) -> Loaded:
    """`artifact` linked into this process.

    Raises: ConfigError if it was made for another target than this machine, or is not object code;
        EnvironmentFailure if it is broken.
    """
    what = f"kernel {artifact.entry}"
    require_object(what, artifact.kind, artifact.form.value)
    require_runnable(artifact.target_key, artifact.requires)
    code = link(artifact.code, (artifact.entry,))
    return Loaded(artifact, code, code[artifact.entry])


def require_object(what: str, kind: str, form: str) -> None:
    """Check that a CPU runs code of that form for that kind of device.

    Raises: ConfigError about `what` if it does not.
    """
    if (kind, form) != (CPU, Form.OBJECT.value):
        raise ConfigError(
            f"{what} is {form} code for devices of kind {kind}; this one is of kind {CPU} and runs "
            f"{Form.OBJECT.value} code"
        )


def require_runnable(target_key: str, features: Sequence[str] = ()) -> None:
    """Check that code made for `target_key`, which uses `features`, runs on this machine.

    Raises: ConfigError naming the keys that run here, or the features that are missing.
    """
    keys = runnable_keys()
    if target_key not in keys:
        raise ConfigError(
            f"the kernel is made for {target_key}, this machine runs {', '.join(sorted(keys))}; "
            "build it for target 'cpu'"
        )
    missing = sorted(set(features).difference(host().features))
    if missing:
        raise ConfigError(
            f"the kernel uses {', '.join(missing)}, which this machine does not have; "
            "build it for target 'cpu'"
        )


@functools.cache
def runnable_keys() -> frozenset[str]:
    """Keys of this machine's target and of the presets whose features it has."""
    return keys_for(host())
