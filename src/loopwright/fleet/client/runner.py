"""The runner of the tuner on leased devices: `pipeline.Pipeline` over `LeasedDevices`."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Self, final

from loopwright.build.candidate import Builders
from loopwright.errors import ConfigError, FleetError, NoDeviceError
from loopwright.fleet.client.aio import AsyncFleet
from loopwright.fleet.client.api import Fleet
from loopwright.fleet.client.devices import DevicesConfig, LeasedDevices
from loopwright.fleet.client.lease import HeldLease
from loopwright.fleet.client.selection import none_matches
from loopwright.fleet.client.session import DeviceSession
from loopwright.fleet.request import LeaseRequest
from loopwright.fleet.views import DeviceView
from loopwright.fleet.words import Priority
from loopwright.measure.check import Checker
from loopwright.measure.pipeline import Pipeline
from loopwright.measure.request import MeasureRequest
from loopwright.outcome import Outcome
from loopwright.target.parse import parse
from loopwright.target.presets import keys_for
from loopwright.target.union import Target

_MAX_NAMES = 48  # in a selector
_OTHER_S = 10.0
_LOOK_S = 0.2


@dataclass(frozen=True, slots=True)
class DeviceClass:
    """Devices whose times can be compared: of one fingerprint. `others` match but are of another.

    `selector` picks these devices and no others.
    """

    target: Target
    device: str
    names: tuple[str, ...]
    others: tuple[str, ...]
    selector: str


def device_class(
    fleet: Fleet,
    selector: str,
    threads: int = 1,
    *,
    on_wait: Callable[[float], None] = lambda _: None,
) -> DeviceClass:
    """The devices that match `selector` and can run `threads` threads: the largest class of them.

    A tracker that was just started is waited for until it has heard of the devices that it had.

    Args:
        on_wait: called once, where one has to wait, with the seconds that it takes at most.

    Raises: NoDeviceError when there is none; ConfigError for an invalid selector.
    """
    _await_settled(fleet, on_wait)
    views = fleet.devices(selector)
    # A device that has none of its host's cores runs kernels of one thread.
    able = [v for v in views if v.target and max(1, len(v.cores)) >= threads]
    if not able:
        raise NoDeviceError(_nothing(fleet, selector, views, threads))
    classes: dict[str, list[DeviceView]] = defaultdict(list)
    for view in able:
        classes[view.device].append(view)
    chosen = max(classes.values(), key=_worth)
    names = tuple(view.name for view in chosen)
    others = tuple(view.name for view in views if view.name not in names)
    pinned = selector
    if others:
        listed = ",".join(names[:_MAX_NAMES])
        pinned = ", ".join(part for part in (selector.strip(), f"name in ({listed})") if part)
    return DeviceClass(parse(chosen[0].target), chosen[0].device, names, others, pinned)


def _await_settled(fleet: Fleet, on_wait: Callable[[float], None]) -> None:
    """Wait until the tracker knows which of its devices are there; it does not wait for ever."""
    left = _settling_s(fleet)
    if left:
        on_wait(left)
    while left:
        time.sleep(min(left, _LOOK_S))
        left = _settling_s(fleet)


def _settling_s(fleet: Fleet) -> float:
    found = fleet.status().get("settling_s")  # trackers of before have none
    return float(found) if isinstance(found, int | float) else 0.0


def _worth(views: Sequence[DeviceView]) -> tuple[int, int, str]:
    return sum(view.grantable for view in views), len(views), views[0].device


def _nothing(fleet: Fleet, selector: str, views: Sequence[DeviceView], threads: int) -> str:
    if views:
        return f"no device that matches {selector!r} has {threads} cores; use fewer --threads"
    known = fleet.devices()
    if not known:
        return "the fleet has no devices; start one with `loopwright device serve`"
    return none_matches(selector, known)


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetOptions:
    """How devices are leased: at most `devices` of them, `in_flight` runs on each at once.

    `ttl`, `priority`, `max_wait` and `tags` are those of `Fleet.lease`.
    """

    devices: int = 8
    in_flight: int = 2
    ttl: float = 30.0
    priority: Priority = Priority.NORMAL
    max_wait: float = 600.0
    idle: float = 20.0
    tags: Mapping[str, str] = field(default_factory=dict)


@final
class FleetRunner:
    """Measures kernels of `threads` threads on leased devices of one class. It owns `builders`.

    Args:
        devices: which devices, as `device_class` says, or a selector for it.
        on_poisoned: told of code that took two devices with it, and of the devices.

    Raises: NoDeviceError when a selector means no device.
    """

    def __init__(
        self,
        fleet: Fleet,
        devices: DeviceClass | str,
        builders: Builders,
        *,
        threads: int = 1,
        checker: Checker | None = None,
        seed: int = 0,
        options: FleetOptions = FleetOptions(),  # frozen
        on_poisoned: Callable[[str, tuple[str, ...]], None] | None = None,
    ) -> None:
        if isinstance(devices, str):
            devices = device_class(fleet, devices, threads)
        self.devices = devices
        config = DevicesConfig(
            limit=min(options.devices, len(devices.names)),
            in_flight=options.in_flight,
            max_wait_s=options.max_wait,
            idle_s=options.idle,
            other_s=_OTHER_S if len(devices.names) > 1 else 0.0,
        )
        self._leased = LeasedDevices(
            _Lessor(fleet.aio, devices, options),
            fleet.thread,
            time.monotonic,
            config,
            runnable=keys_for(devices.target),
            on_poisoned=on_poisoned,
        )
        self._pipeline = Pipeline(
            builders, self._leased, threads=threads, checker=checker, seed=seed
        )

    @property
    def slots(self) -> int:
        """How many requests in flight keep builders and devices busy."""
        return self._pipeline.slots

    @property
    def poisoned(self) -> frozenset[str]:
        """Digests of code that is not run any more: it took two devices with it."""
        return self._leased.poisoned

    def submit(self, request: MeasureRequest) -> Future[Outcome]:
        """The future outcome of `request`; raises as `Pipeline.submit` does."""
        return self._pipeline.submit(request)

    def close(self) -> None:
        """Give the devices back, cancel what waits; the fleet stays open."""
        self._pipeline.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _Lessor:
    """Leases on devices of one class."""

    def __init__(self, fleet: AsyncFleet, devices: DeviceClass, options: FleetOptions) -> None:
        self._fleet = fleet
        self._devices = devices
        self._options = options

    async def lease_one(self, wait_s: float) -> HeldLease:
        """Another device. Raises: FleetError; ConfigError when the fleet gives others."""
        options = self._options
        asked = LeaseRequest(
            selector=self._devices.selector,
            ttl_s=options.ttl,
            priority=options.priority,
            max_wait_s=wait_s,
            tags=dict(options.tags),
        )
        (lease,) = await self._fleet.acquire(asked)
        if lease.device.device != self._devices.device:
            await lease.release()
            raise ConfigError(
                f"{lease.device.name} is a {lease.device.device}, not a {self._devices.device}: "
                "times of the two cannot be compared; use a selector of one kind"
            )
        return lease

    async def open_session(self, lease: HeldLease) -> DeviceSession:
        """A session on it. Raises: FleetError."""
        return await self._fleet.open(lease)


__all__ = ["DeviceClass", "FleetError", "FleetOptions", "FleetRunner", "device_class"]
