"""The tracker's figures in the text format that Prometheus reads.

Series are bounded: what a label may be is a closed list of words or the name of a device, of which
each is in `DEVICE_FAMILIES`. Nothing that a user writes becomes a label.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from enum import Enum
from typing import TYPE_CHECKING

from loopwright.fleet.words import Admin, Health, LinkState, Occupancy
from loopwright.serving.metrics import Family

if TYPE_CHECKING:
    from loopwright.fleet.tracker.server import Tracker
    from loopwright.fleet.views import DeviceView

_AT_ONCE = 200
_FAMILIES = {
    "up_s": Family("uptime_seconds", "Seconds since the tracker started."),
    "epoch": Family("tracker_epoch", "Starts of a tracker on this store."),
    "settling_s": Family("settling_seconds", "Seconds devices are still awaited."),
    "read_only": Family("read_only", "1 while the store cannot be written."),
    "agents": Family("agents", "Agents that are connected."),
    "clients": Family("clients", "Clients that are connected."),
    "devices": Family("devices", "Devices that are known."),
    "free": Family("devices_free", "Devices that can be granted now."),
    "by_link": Family("devices_by_link", "Devices by link.", "gauge", "link"),
    "by_health": Family("devices_by_health", "Devices by health.", "gauge", "health"),
    "by_admin": Family("devices_by_admin", "Devices by what people want.", "gauge", "admin"),
    "by_occupancy": Family("devices_by_occupancy", "Devices by occupancy.", "gauge", "occupancy"),
    "leases": Family("leases", "Leases that live."),
    "waiting": Family("requests_waiting", "Requests that wait."),
    "granted": Family("leases_granted_total", "Leases granted.", "counter"),
    "renewed": Family("leases_renewed_total", "Renewals.", "counter"),
    "yields": Family("yields_total", "Leases asked to yield.", "counter"),
    "denied": Family("renewals_denied_total", "Renewals and releases denied.", "counter"),
    "ended": Family("leases_ended_total", "Leases ended by reason.", "counter", "reason"),
    "refused": Family("requests_refused_total", "Requests refused by code.", "counter", "code"),
    "syncs": Family("syncs_total", "Reports of agents.", "counter"),
    "commits": Family("store_commits_total", "Commits of the store.", "counter"),
    "store_failures": Family("store_failures_total", "Commits that failed.", "counter"),
    "faults": Family("faults_total", "What was refused, by fault.", "counter", "fault"),
}
"""The metrics of the whole tracker, by their key in its status."""
_WORDS: tuple[tuple[str, type[Enum]], ...] = (
    ("link", LinkState),
    ("health", Health),
    ("admin", Admin),
    ("occupancy", Occupancy),
)
_CODES: dict[str, int] = {
    value.value: code for _, words in _WORDS for code, value in enumerate(words)
}
DEVICE_FAMILIES = (
    *(
        Family(f"device_{name}", f"The {name} of a device: {_legend}.", label="device")
        for name, words in _WORDS
        for _legend in [", ".join(f"{code} {v.value}" for code, v in enumerate(words))]
    ),
    Family("device_free", "1 when the device can be granted now.", label="device"),
    Family("device_drift_ratio", "How far off its canary kernel is, as a share.", label="device"),
    Family("device_epoch", "The highest epoch given out for the device.", label="device"),
)


async def render(tracker: Tracker, *, devices: bool = True) -> AsyncIterator[bytes]:
    """The page, in pieces between which the loop serves others."""
    status = tracker.status()
    yield "".join(family.text(status.get(key)) for key, family in _FAMILIES.items()).encode()
    if not devices:
        return
    names = tracker.book.names()
    found: list[tuple[str, tuple[float, ...]]] = []
    for start in range(0, len(names), _AT_ONCE):
        views = map(tracker.book.device, names[start : start + _AT_ONCE])
        found += [(view.name, _figures(view)) for view in views if view is not None]
        await asyncio.sleep(0)
    for column, family in enumerate(DEVICE_FAMILIES):
        yield family.head().encode()
        for start in range(0, len(found), _AT_ONCE):
            some = found[start : start + _AT_ONCE]
            yield family.samples((name, row[column]) for name, row in some).encode()
            await asyncio.sleep(0)


def _figures(view: DeviceView) -> tuple[float, ...]:
    codes = (_CODES[word] for word in (view.link, view.health, view.admin, view.occupancy))
    return (*codes, float(view.grantable), view.drift, float(view.epoch))
