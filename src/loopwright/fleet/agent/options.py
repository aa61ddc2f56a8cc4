"""What an agent is told when it starts. Nothing here is read from the environment."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from loopwright.fleet.words import Tier
from loopwright.kernel_call import CPU

CANDIDATE_UID = 63_100
"""The first of the users that candidates run as; nobody else should have these ids."""


class RandomSource(Protocol):
    """Numbers for jitter: a `numpy.random.Generator` or a `secrets.SystemRandom`."""

    def random(self) -> float:
        """A number in [0, 1)."""
        ...


@dataclass(frozen=True, slots=True)
class DeviceOptions:
    """A device. `name` is the whole name, as `host/cpu0`.

    Args:
        cores: those of this machine that it consists of; none for a device that is not a processor.
        labels: more to choose it by.
        uid: the user that candidates run as, where the agent is the superuser; no other device's
            do.
        power_hook: a command that takes its power away and gives it back, for when something on it
            cannot be killed.
        kind: of device, which says what drives it.
        place: which of the host's devices of that kind, in the words of its driver.
    """

    name: str
    cores: tuple[int, ...] = ()
    labels: Mapping[str, str] = field(default_factory=dict)
    uid: int = CANDIDATE_UID
    power_hook: tuple[str, ...] = ()
    kind: str = CPU
    place: str = ""


@dataclass(frozen=True, slots=True)
class SessionLimits:
    """What a session may ask of a device: seconds and bytes of one run, and of uploads."""

    wall_s: float = 60.0
    memory: int = 8 << 30
    blob: int = 256 << 20
    batch: int = 256
    queued: int = 1024
    blobs: int = 4 << 30  # what the cache of uploads may hold


@dataclass(frozen=True, slots=True)
class Timers:
    """Durations in seconds; the defaults are those of the design."""

    handshake_s: float = 3.0
    open_s: float = 10.0  # from hearing of a grant to its session
    grace_s: float = 30.0  # beyond a run's limit: making inputs, and the measuring process's work
    sync_s: float = 2.0  # until a tracker says otherwise
    reconnect_s: float = 0.2  # first wait before another try, doubled up to `reconnect_max_s`
    reconnect_max_s: float = 5.0
    restart_s: float = 0.5  # the same for a warden that was lost
    canary_s: float = 10.0  # canaries run between batches, at most so often
    cool_s: float = 5.0  # after drift, before the next probe
    beat_s: float = 1.0  # how often wardens are asked whether they are there
    warden_s: float = 5.0  # for an answer of theirs, beyond what the kill ladder takes
    hook_s: float = 60.0  # for a power hook to end
    hook_again_s: float = 300.0  # before it is run again


@dataclass(frozen=True, slots=True)
class AgentOptions:
    """An agent: who it is, what it trusts, where it keeps things.

    Args:
        name: of the agent, by which a tracker knows its key.
        key: 32 bytes that it shares with the tracker; tickets are sealed with it. Empty until a
            tracker gives one (`join`, or over a unix socket).
        addresses: where clients reach it, told to the tracker.
        cache_dir: uploads, and what was found out about this machine.
        drift: how far off a canary may be, as a share; 0 runs none.
        builders: keys of those whose signatures are good (Ed25519); with `signed_only` nothing
            else runs.
    """

    name: str
    cache_dir: Path
    key: bytes = b""
    join: str = ""
    addresses: tuple[str, ...] = ()
    tier: Tier = Tier.T1
    limits: SessionLimits = field(default_factory=SessionLimits)
    timers: Timers = field(default_factory=Timers)
    labels: Mapping[str, str] = field(default_factory=dict)
    drift: float = 0.05
    signed_only: bool = False
    builders: tuple[bytes, ...] = ()
    key_file: Path | None = None
