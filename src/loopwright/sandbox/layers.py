"""The layers of a sandbox, their names, and the tier that they amount to."""

from __future__ import annotations

import enum
from dataclasses import dataclass


class Layer(enum.IntFlag):
    """One thing that confines a candidate."""

    NO_NEW_PRIVILEGES = 1
    SYSTEM_CALLS = 2
    FILES = 4
    USER = 8
    PROCESSES = 16
    FOLDER = 32
    CGROUP = 64
    NETWORK = 128  # around the warden: bubblewrap
    READ_ONLY_ROOT = 256  # the same
    OWN_FOLDERS = 512  # the same: /home, /run, /tmp and the like are not the host's


NOTHING = Layer(0)
ESSENTIAL = Layer.NO_NEW_PRIVILEGES | Layer.SYSTEM_CALLS | Layer.FILES
USUAL = ESSENTIAL | Layer.USER | Layer.PROCESSES | Layer.FOLDER | Layer.CGROUP
BUBBLE = Layer.NETWORK | Layer.READ_ONLY_ROOT | Layer.OWN_FOLDERS
_WORDS = {
    Layer.NO_NEW_PRIVILEGES: "no_new_privs",
    Layer.SYSTEM_CALLS: "seccomp",
    Layer.FILES: "landlock",
    Layer.USER: "own user",
    Layer.PROCESSES: "process namespace",
    Layer.FOLDER: "private folder",
    Layer.CGROUP: "cgroup",
    Layer.NETWORK: "network namespace",
    Layer.READ_ONLY_ROOT: "read-only root",
    Layer.OWN_FOLDERS: "own /home, /run and /tmp",
}


def tier_of(layers: Layer) -> int:
    """The tier that layers amount to: 1 when nothing essential is missing, 2 with bubblewrap."""
    if ESSENTIAL not in layers:
        return 0
    return 2 if BUBBLE in layers else 1


def missing(layers: Layer, wanted: Layer) -> tuple[str, ...]:
    """The names of the wanted layers that are missing."""
    return tuple(word for layer, word in _WORDS.items() if layer in wanted & ~layers)


@dataclass(frozen=True, slots=True)
class CagePlan:
    """The wanted confinement. `uid` is the candidate's user where this process may choose (0: as
    now); `doors` are those of a `Cgroup`; `outer_network` is the network that it must not be in.
    `outer_folders` are folders that it must not see: path, device and number of each.
    """

    folder: str
    uid: int = 0
    doors: tuple[str, ...] = ()
    cgroup_limits: bool = False
    outer_network: int = 0
    outer_folders: tuple[tuple[str, int, int], ...] = ()
