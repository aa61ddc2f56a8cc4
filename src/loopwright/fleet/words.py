"""The words of the fleet: what a device and a lease may be, why a lease ended, how a run ended.

A device is four small fields, not one big state. It may be granted exactly when its link is UP, its
health GOOD, its admin state ENABLED and its occupancy IDLE, and it has reported since the tracker
started. Values are what goes over the wire and into the store: they are never renamed.
"""

from __future__ import annotations

import enum

from loopwright.outcome import FailureKind

RUNTIME = "runtime"
"""The kind of module that is a device's native runtime."""
NO_RUNTIME = "none"
"""In place of a digest: the device has no native runtime, a client is to bring one."""


class LinkState(enum.StrEnum):
    """Whether the tracker hears of a device."""

    UP = "up"
    SUSPECT = "suspect"  # three reports missed
    LOST = "lost"


class Health(enum.StrEnum):
    """Whether a device does its work; `canary` probes say."""

    UNKNOWN = "unknown"
    PROBING = "probing"
    GOOD = "good"
    DRIFT = "drift"  # a canary kernel is off: hot, throttled or shared
    BAD = "bad"


class Admin(enum.StrEnum):
    """What operators want of a device."""

    ENABLED = "enabled"
    DRAIN = "drain"  # the lease in progress may end, no other begins
    MAINTENANCE = "maintenance"  # quarantined, with a reason
    RETIRED = "retired"


class Occupancy(enum.StrEnum):
    """What a device is doing."""

    IDLE = "idle"
    RESERVED = "reserved"  # granted, not opened yet
    ACTIVE = "active"
    CLEANING = "cleaning"


class LeaseState(enum.StrEnum):
    """Where a lease is on its way."""

    QUEUED = "queued"
    GRANTED = "granted"
    ACTIVE = "active"
    RELEASING = "releasing"
    ENDED = "ended"


class EndReason(enum.StrEnum):
    """Why a lease ended: each ended lease has exactly one."""

    RELEASED = "released"
    EXPIRED = "expired"
    REVOKED = "revoked"
    PREEMPTED = "preempted"
    OPEN_TIMEOUT = "open-timeout"
    CLIENT_LOST = "client-lost"
    DEVICE_LOST = "device-lost"
    CANCELLED = "cancelled"


class Refusal(enum.Enum):
    """Why a request for a lease was answered with no."""

    UNSATISFIABLE = "unsatisfiable"  # no device, free or not, could ever match
    MAX_WAIT = "max-wait"
    QUOTA = "quota"
    QUEUE_FULL = "queue-full"
    READ_ONLY = "read-only"  # the store cannot be written: no new grants
    CANCELLED = "cancelled"
    BAD_REQUEST = "bad-request"
    FORBIDDEN = "forbidden"  # above what its role or its tenant may ask for


class Verdict(enum.Enum):
    """The answer to a renewal."""

    OK = "ok"
    YIELD_PLEASE = "yield-please"
    GONE = "gone"


class ErrorCode(enum.StrEnum):
    """What kind of failure an Error message tells of. Codes of newer versions read as FAILED."""

    AUTH = "auth"
    FORBIDDEN = "forbidden"
    PROTOCOL = "protocol"  # the sender could not read what it got
    UNEXPECTED = "unexpected"  # a message that has no place here
    BAD_REQUEST = "bad-request"
    NO_DEVICE = "no-device"
    NOT_FOUND = "not-found"
    STORE = "store"
    DEVICE = "device"  # it cannot serve now
    REFUSED = "refused"
    QUOTA = "quota"
    NO_BLOB = "no-blob"
    BAD_UPLOAD = "bad-upload"
    BAD_DIGEST = "bad-digest"
    TOO_LARGE = "too-large"
    DISK = "disk"
    DISK_FULL = "disk-full"
    FAILED = "failed"

    @classmethod
    def _missing_(cls, value: object) -> ErrorCode:
        del value
        return cls.FAILED


class RunStatus(enum.Enum):
    """How one run on a device ended. `CONCLUSIVE` says which may train a cost model."""

    OK = "ok"
    LOAD_ERROR = "load-error"
    WRONG_OUTPUT = "wrong-output"
    CRASH = "crash"
    OUT_OF_BOUNDS = "out-of-bounds"
    TIMEOUT = "timeout"
    OOM = "oom"
    SANDBOX_VIOLATION = "sandbox-violation"
    IMPOSSIBLE_TIME = "impossible-time"
    DEVICE_LOST = "device-lost"
    REVOKED = "revoked"
    DRIFT = "drift"
    INFRA = "infra"


CONCLUSIVE = frozenset(
    {
        RunStatus.OK,
        RunStatus.LOAD_ERROR,
        RunStatus.WRONG_OUTPUT,
        RunStatus.CRASH,
        RunStatus.OUT_OF_BOUNDS,
        RunStatus.TIMEOUT,
        RunStatus.OOM,
        RunStatus.SANDBOX_VIOLATION,
        RunStatus.IMPOSSIBLE_TIME,
    }
)
"""Statuses that say something about the candidate; the others are retried elsewhere, once."""
STATUS_OF = {
    FailureKind.LOAD_ERROR: RunStatus.LOAD_ERROR,
    FailureKind.WRONG_OUTPUT: RunStatus.WRONG_OUTPUT,
    FailureKind.CRASH: RunStatus.CRASH,
    FailureKind.OUT_OF_BOUNDS: RunStatus.OUT_OF_BOUNDS,
    FailureKind.IMPOSSIBLE_TIME: RunStatus.IMPOSSIBLE_TIME,
    FailureKind.RUN_TIMEOUT: RunStatus.TIMEOUT,
    FailureKind.RUN_MEMORY: RunStatus.OOM,
    FailureKind.DEVICE_LOST: RunStatus.DEVICE_LOST,
    FailureKind.REVOKED: RunStatus.REVOKED,
    FailureKind.DRIFT: RunStatus.DRIFT,
    FailureKind.WORKER_LOST: RunStatus.INFRA,
}
"""The status of a run that failed in a way that runs can; a violation is a crash of its own."""
KIND_OF = {status: kind for kind, status in STATUS_OF.items()} | {
    RunStatus.SANDBOX_VIOLATION: FailureKind.CRASH
}
"""The failure that a status other than OK stands for."""


class Tier(enum.IntEnum):
    """How a candidate was confined; each result says."""

    T0 = 0  # against accidents at most
    T1 = 1  # no_new_privs, own session, rlimits, private folder, Landlock, seccomp, cgroup
    T2 = 2  # bubblewrap as well: no network, read-only root, nothing of /home, /run and /tmp


class Role(enum.IntEnum):
    """What a principal may do; each role may do what those below it may."""

    VIEWER = 0  # see devices, leases, status
    USER = 1  # lease devices, run code
    OPERATOR = 2  # drain, enable, quarantine, revoke any lease
    ADMIN = 3  # issue tokens and join codes


class Priority(enum.IntEnum):
    """The class of a request; ageing lifts what waits long."""

    BATCH = 0
    NORMAL = 1
    INTERACTIVE = 2
    URGENT = 3
