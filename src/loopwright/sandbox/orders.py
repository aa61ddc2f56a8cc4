"""How an agent starts its warden, and their protocol: one tagged msgpack message per packet.

The warden is the process that forks one measuring process for each session, watches over it and
ends it. Times are seconds of CLOCK_MONOTONIC, which both sides read.
"""

from __future__ import annotations

import enum
import os
import sys
from pathlib import Path
from typing import TypeAlias

import msgspec

from loopwright.sandbox.layers import CagePlan

MAX_PACKET = 16 << 10
POLITE_S = 0.2  # from SIGTERM to SIGKILL
PATIENT_S = 2.0  # from SIGKILL to giving up on a process
_BOOT = """
import os, sys
os.putenv("OPENBLAS_NUM_THREADS", "1")
os.putenv("OMP_NUM_THREADS", "1")
root, *others = sys.argv[1].split(os.pathsep)
sys.path.insert(0, root)
sys.path += [path for path in others if path not in sys.path]
from loopwright.sandbox.warden import main
main(sys.argv[2:])
"""


class WardenSettings(msgspec.Struct, frozen=True):
    """How a warden is started: JSON on its command line.

    `agent` is the process that starts it, 0 where that cannot be seen. Without a `plan` candidates
    are only protected against accidents. Sessions run on `cores`, the ones that candidates are
    measured on, so that a child starts where it stays. A `bare` machine has no native runtime:
    sessions get theirs from clients.
    """

    agent: int
    cache_dir: str = ""
    plan: CagePlan | None = None
    wanted: int = 0
    cores: tuple[int, ...] = ()
    bare: bool = False


def command(control: int, settings: WardenSettings) -> list[str]:
    """The command that starts a warden, whose socket is the descriptor `control`.

    It is a new interpreter, not a fork of this process: a fork would lose threads of NumPy's
    libraries, and would inherit everything loaded here. It finds the modules that this process
    finds, including devices of other packages.
    """
    root = str(Path(__file__).resolve().parents[2])
    paths = os.pathsep.join([root, *(path for path in sys.path if Path(path).is_absolute())])
    told = msgspec.json.encode(settings).decode()
    return [sys.executable, "-P", "-c", _BOOT, paths, str(control), told]


class Begin(msgspec.Struct, frozen=True, tag="begin"):
    """Start a measuring process; its socket and its output file come with this packet.

    It is killed at `deadline`, whatever the agent does.
    """

    session: int
    deadline: float


class Extend(msgspec.Struct, frozen=True, tag="extend"):
    """Let a session live until `deadline`."""

    session: int
    deadline: float


class End(msgspec.Struct, frozen=True, tag="end"):
    """End a session and everything that it started; the answer is Over."""

    session: int


class Beat(msgspec.Struct, frozen=True, tag="beat"):
    """A liveness check; the answer is Alive."""


Order: TypeAlias = Begin | Extend | End | Beat


class WardenReady(msgspec.Struct, frozen=True, tag="ready"):
    """The warden is ready; `tier` is how it confines candidates, `missing` what it cannot do."""

    pid: int
    tier: int
    missing: tuple[str, ...] = ()


class Alive(msgspec.Struct, frozen=True, tag="alive"):
    """The warden is alive."""


class Begun(msgspec.Struct, frozen=True, tag="begun"):
    """A measuring process was started."""

    session: int
    pid: int


class SessionEnding(enum.Enum):
    """How a session's process ended."""

    LEFT = "left"  # by itself
    ASKED = "asked"  # the agent wanted it
    EXPIRED = "expired"  # at its deadline


class Over(msgspec.Struct, frozen=True, tag="over"):
    """A session's process is gone. Not `clean`: some process of it could not be killed."""

    session: int
    ending: str
    status: int
    clean: bool
    took_s: float = 0.0


Told: TypeAlias = WardenReady | Alive | Begun | Over
