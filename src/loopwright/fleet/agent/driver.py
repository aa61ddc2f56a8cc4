"""What an agent asks of a device, whatever its kind: the interface of drivers.

The agent leases, reports, judges and keeps the clock; all that touches the device is done by its
driver. `cpu` is the one for cores of this machine, and `drivers` finds the others.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from loopwright.errors import FleetError, LoopwrightError
from loopwright.fleet.agent.options import AgentOptions, RandomSource
from loopwright.fleet.wire.messages import Result
from loopwright.fleet.words import Health, Tier
from loopwright.kernel_call import KernelCall


class DriverError(FleetError):
    """The driver could not do what it was asked, which says nothing about the candidate."""


class DriverFault(DriverError):  # noqa: N818  # errors are what a driver may raise, this is none
    """The driver itself is wrong: it raised something that it should not have."""


class CanaryFailed(DriverError):  # noqa: N818  # it says what happened, not who erred
    """The canary ran, and not as it should."""


@dataclass(frozen=True, slots=True)
class DriverFacts:
    """What a device is.

    Args:
        kind: of the device, by which clients choose: `cpu`, `opencl`, ...
        target: a target string, for which clients compile.
        device: the fingerprint that records carry.
        labels: more for clients to choose by.
        cores: those of this machine that it consists of or keeps busy.
        modules: kind -> code of those that every session begins with.
        takes: kinds of modules that `place` is called for; others only count as in place.
    """

    kind: str
    target: str
    device: str
    labels: Mapping[str, str] = field(default_factory=dict)
    cores: tuple[int, ...] = ()
    modules: Mapping[str, bytes] = field(default_factory=dict)
    takes: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class ItemOutcome:
    """What came of an item; `output` is empty unless it was wanted.

    `suspect`: the result says that the device is not what it was, so that it is to be probed.
    `tier`: how its code was confined when it ran; None if that is not known, or nothing ran.
    """

    result: Result
    output: memoryview = field(default_factory=lambda: memoryview(b""))  # it will be released
    suspect: bool = False
    tier: Tier | None = None


@dataclass(frozen=True, slots=True)
class CanaryRun:
    """One run of the canary, in nanoseconds; None where there is no canary, `note` says why."""

    ns: float | None
    note: str = ""


class DriverEvents(Protocol):
    """What a driver tells of its device by itself."""

    def up(self, tier: Tier, unconfined: tuple[str, ...]) -> None:
        """Sessions can begin, and nothing is left of earlier ones. Candidates are confined to
        `tier`, except for `unconfined`.
        """
        ...

    def down(self, why: str, health: Health) -> None:
        """No session can begin until `up`; what that makes of the device."""
        ...

    def stuck(self, why: str) -> None:
        """Something of a session cannot be cleaned up: no other begins while that is so."""
        ...


class Driver(Protocol):
    """One device. `PlainDriver` has what most need not do themselves.

    Only one of begin, place, run, canary and clean is in progress at a time; being cancelled ends
    it. Each raises DriverError when the device did not do it. Any other exception counts as a fault
    of the driver, and makes the device bad until a probe says otherwise.
    """

    async def describe(self) -> DriverFacts:
        """What the device is. Called once, before anything else."""
        ...

    async def place(self, kind: str, code: bytes) -> None:
        """Bring a module to the device, for the rest of the session: a bitstream, a runtime."""
        ...

    async def run(self, item: KernelCall, code: bytes, limit_s: float) -> ItemOutcome:
        """What comes of an item, whose artifact is `code`, within `limit_s`.

        Raises: DriverError when the candidate brought down what runs it: it is to blame when that
            happens twice.
        """
        ...

    async def clean(self) -> bool:
        """End all that a session left behind; True when nothing of it can remain.

        A driver that returns False reports the reason by its events.
        """
        ...

    async def canary(self) -> CanaryRun:
        """Time a kernel whose time should never change, with what is placed on the device."""
        ...

    @property
    def ready(self) -> bool:
        """Whether sessions can begin now."""
        ...

    @property
    def pids(self) -> tuple[int, ...]:
        """The processes that it has for the device now."""
        ...

    async def keep(self, events: DriverEvents) -> None:
        """Keep the device able to begin sessions, and report on it, until cancelled."""
        ...

    async def begin(self, deadline: float, patience_s: float) -> None:
        """Begin a session, that ends at `deadline` of the monotonic clock whatever happens; wait at
        most `patience_s` until one can begin. Only `DriverFacts.modules` are placed then.
        """
        ...

    def extend(self, deadline: float) -> None:
        """The session lives until `deadline` now."""
        ...

    def beat(self, now: float) -> None:
        """See that whatever the device needs is there; called each second or so."""
        ...

    async def close(self) -> None:
        """The agent stops: end all that was started. Calling it again is harmless."""
        ...


class PlainDriver:
    """Base of drivers whose device is always there and needs nothing kept or ended."""

    ready = True
    pids: tuple[int, ...] = ()

    async def keep(self, events: DriverEvents) -> None:
        """Report that the device is there; candidates are not confined."""
        events.up(Tier.T0, ("everything",))

    async def begin(self, deadline: float, patience_s: float) -> None:
        """Nothing has to be begun."""

    def extend(self, deadline: float) -> None:
        """Nothing ends by itself."""

    def beat(self, now: float) -> None:
        """Nothing has to be looked after."""

    async def close(self) -> None:
        """Nothing was started."""


@dataclass(frozen=True, slots=True)
class DriverContext:
    """What a driver is made with, besides the options of its device. `clock` is CLOCK_MONOTONIC."""

    options: AgentOptions
    clock: Callable[[], float]
    rng: RandomSource


@contextlib.contextmanager
def calling(kind: str, method: str) -> Iterator[None]:
    """Around each call of a driver, which may be another package's.

    Raises: DriverFault, in one line, for anything but a DriverError.
    """
    try:
        yield
    except DriverError:
        raise
    except LoopwrightError as error:
        raise DriverFault(f"the {kind} driver cannot {method}: {_line(error)}") from error
    except Exception as error:
        why = f"{type(error).__name__}: {_line(error)}"
        raise DriverFault(f"the {kind} driver failed to {method}: {why}") from error


def _line(error: Exception) -> str:
    return " ".join(str(error).split()) or "it says nothing"
