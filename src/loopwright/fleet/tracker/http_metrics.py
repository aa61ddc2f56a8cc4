"""The tracker's figures in the text format that Prometheus reads.

Series are bounded: what a label may be is a closed list of words or the name of a device, of which
each has `DEVICE_SERIES`. Nothing that a user writes becomes a label.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

from loopwright.fleet.words import Admin, Health, LinkState, Occupancy

if TYPE_CHECKING:
    from loopwright.fleet.book.views import DeviceView
    from loopwright.fleet.tracker.server import Tracker

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_AT_ONCE = 200
_PREFIX = "loopwright_"


@dataclass(frozen=True, slots=True)
class _Family:
    """A metric: its key in the status, its name, and what it says. `label` names a breakdown."""

    key: str
    name: str
    kind: str
    help: str
    label: str = ""


_FAMILIES = (
    _Family("up_s", "uptime_seconds", "gauge", "Seconds since the tracker started."),
    _Family("epoch", "tracker_epoch", "gauge", "Starts of a tracker on this store."),
    _Family("settling_s", "settling_seconds", "gauge", "Seconds devices are still awaited."),
    _Family("read_only", "read_only", "gauge", "1 while the store cannot be written."),
    _Family("agents", "agents", "gauge", "Agents that are connected."),
    _Family("clients", "clients", "gauge", "Clients that are connected."),
    _Family("devices", "devices", "gauge", "Devices that are known."),
    _Family("free", "devices_free", "gauge", "Devices that can be granted now."),
    _Family("by_link", "devices_by_link", "gauge", "Devices by link.", "link"),
    _Family("by_health", "devices_by_health", "gauge", "Devices by health.", "health"),
    _Family("by_admin", "devices_by_admin", "gauge", "Devices by what people want.", "admin"),
    _Family("by_occupancy", "devices_by_occupancy", "gauge", "Devices by occupancy.", "occupancy"),
    _Family("leases", "leases", "gauge", "Leases that live."),
    _Family("waiting", "requests_waiting", "gauge", "Requests that wait."),
    _Family("granted", "leases_granted_total", "counter", "Leases granted."),
    _Family("renewed", "leases_renewed_total", "counter", "Renewals."),
    _Family("yields", "yields_total", "counter", "Leases asked to yield."),
    _Family("denied", "renewals_denied_total", "counter", "Renewals and releases denied."),
    _Family("ended", "leases_ended_total", "counter", "Leases ended by reason.", "reason"),
    _Family("refused", "requests_refused_total", "counter", "Requests refused by code.", "code"),
    _Family("syncs", "syncs_total", "counter", "Reports of agents."),
    _Family("commits", "store_commits_total", "counter", "Commits of the store."),
    _Family("store_failures", "store_failures_total", "counter", "Commits that failed."),
    _Family("faults", "faults_total", "counter", "What was refused, by fault.", "fault"),
)
_WORDS: tuple[tuple[str, type[Enum]], ...] = (
    ("link", LinkState),
    ("health", Health),
    ("admin", Admin),
    ("occupancy", Occupancy),
)
_CODES = {value: code for _, words in _WORDS for code, value in enumerate(words)}
_DEVICE_FAMILIES = (
    *(
        (f"device_{name}", f"The {name} of a device: {_legend}.")
        for name, words in _WORDS
        for _legend in [", ".join(f"{code} {v.value}" for code, v in enumerate(words))]
    ),
    ("device_free", "1 when the device can be granted now."),
    ("device_drift_ratio", "How far off its canary kernel is, as a share."),
    ("device_epoch", "The highest epoch given out for the device."),
)
DEVICE_SERIES = len(_DEVICE_FAMILIES)


async def render(tracker: Tracker, *, devices: bool = True) -> AsyncIterator[bytes]:
    """The page, in pieces between which the loop serves others."""
    yield _totals(tracker.status()).encode()
    if not devices:
        return
    names = tracker.book.names()
    found: list[tuple[str, tuple[float, ...]]] = []
    for start in range(0, len(names), _AT_ONCE):
        views = map(tracker.book.device, names[start : start + _AT_ONCE])
        found += [(view.name, _figures(view)) for view in views if view is not None]
        await asyncio.sleep(0)
    for column, (name, help_) in enumerate(_DEVICE_FAMILIES):
        full = _PREFIX + name
        yield f"# HELP {full} {help_}\n# TYPE {full} gauge\n".encode()
        for start in range(0, len(found), _AT_ONCE):
            some = found[start : start + _AT_ONCE]
            lines = [f'{full}{{device="{_escaped(n)}"}} {row[column]:.15g}\n' for n, row in some]
            yield "".join(lines).encode()
            await asyncio.sleep(0)


def _figures(view: DeviceView) -> tuple[float, ...]:
    codes = (_CODES[word] for word in (view.link, view.health, view.admin, view.occupancy))
    return (*codes, float(view.grantable), view.drift, float(view.epoch))


def _escaped(name: str) -> str:
    """A device's name as a label's value; names have no such characters, but stay on this side."""
    return name.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def _totals(status: Mapping[str, object]) -> str:
    lines: list[str] = []
    for family in _FAMILIES:
        name = _PREFIX + family.name
        lines += (f"# HELP {name} {family.help}", f"# TYPE {name} {family.kind}")
        value = status.get(family.key)
        if family.label and isinstance(value, Mapping):
            lines += (f'{name}{{{family.label}="{word}"}} {n}' for word, n in value.items())
        else:
            lines.append(f"{name} {_number(value)}")
    return "\n".join(lines) + "\n"


def _number(value: object) -> int | float:
    """A figure; a sentence counts as 1, as in `read_only`."""
    if isinstance(value, bool | str):
        return int(bool(value))
    return value if isinstance(value, int | float) else 0
