"""A fleet at one moment, and a tracker's figures as lines for people."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from loopwright.cli.fleet.text import duration

if TYPE_CHECKING:
    from loopwright.fleet.views import DeviceView, EventView, LeaseView

Figures = Mapping[str, object]


@dataclass(frozen=True, slots=True)
class FleetScene:
    """A fleet at one moment. `away` says why the tracker could not be asked, if it could not."""

    status: dict[str, object]
    devices: tuple[DeviceView, ...] = ()
    leases: tuple[LeaseView, ...] = ()
    events: tuple[EventView, ...] = ()
    away: str = ""


def status_pairs(url: str, status: Figures) -> list[tuple[str, str]]:
    """Names and values of what `tracker status` shows."""
    read_only = status.get("read_only")
    settling_s = _number(status.get("settling_s"))
    awaited = f", waits {settling_s:.0f} s at most for its devices" if settling_s else ""
    return [
        ("tracker", f"{status.get('tracker', '')} at {url}, epoch {count(status, 'epoch')}"),
        ("up", duration(_number(status.get("up_s"))) + awaited),
        ("store", f"READ-ONLY: {read_only}; nothing new is granted" if read_only else "writable"),
        ("agents", f"{count(status, 'agents')} connected"),
        ("devices", devices_line(status)),
        ("leases", leases_line(status)),
        ("limits", roles_line(status.get("roles"))),
        *((f"tenant {name}", tenant_line(found)) for name, found in _tables(status.get("tenants"))),
        ("ended", counts_line(status.get("ended"))),
        ("refused", counts_line(status.get("refused"))),
        ("clients", str(count(status, "clients"))),
        ("commits", f"{count(status, 'commits')}, {count(status, 'store_failures')} failed"),
        ("faults", counts_line(status.get("faults"))),
    ]


def devices_line(status: Figures) -> str:
    """How many devices there are, are free, and are not as they should be."""
    parts = [f"{count(status, 'devices')}", f"{count(status, 'free')} free"]
    usual = {"by_link": "up", "by_health": "good", "by_admin": "enabled", "by_occupancy": "idle"}
    for field, well in usual.items():
        found = status.get(field)
        if isinstance(found, Mapping):
            parts += [f"{n} {word}" for word, n in found.items() if n and word != well]
    return ", ".join(parts)


def figures_of(devices: Sequence[DeviceView]) -> Figures:
    """The figures of some devices, as a status has them of all."""
    return {
        "devices": len(devices),
        "free": sum(view.grantable for view in devices),
        "by_link": Counter(view.link for view in devices),
        "by_health": Counter(view.health for view in devices),
        "by_admin": Counter(view.admin for view in devices),
        "by_occupancy": Counter(view.occupancy for view in devices),
    }


def leases_line(status: Figures) -> str:
    """How many leases live, and how many requests wait."""
    return (
        f"{count(status, 'leases')}, {count(status, 'waiting')} waiting, "
        f"{count(status, 'granted')} granted since the start"
    )


def tenant_line(found: Figures) -> str:
    """What a tenant holds and waits for, and what it may."""
    weight, limits = _number(found.get("weight")), limits_line(found)
    return (
        f"{count(found, 'leases')} of {count(found, 'max_leases')} leases, "
        f"{count(found, 'queued')} of {count(found, 'max_queued')} waiting, weight {weight:g}"
        + (f", {limits}" if limits else "")
    )


def roles_line(found: object) -> str:
    """What those of each role may ask for at most, where there is a limit."""
    lines = ((name, limits_line(limits)) for name, limits in _tables(found))
    return "; ".join(f"{name}: {line}" for name, line in lines if line)


def limits_line(found: Figures) -> str:
    """What requests may ask for at most: class, ttl, and how long a lease may be held."""
    parts = []
    if found.get("max_class"):
        parts.append(f"class up to {found['max_class']}")
    for name, words in (("max_ttl_s", "ttl up to"), ("max_lease_s", "leases held up to")):
        if found.get(name):
            parts.append(f"{words} {duration(_number(found[name]))}")
    return ", ".join(parts)


def _tables(found: object) -> list[tuple[str, Figures]]:
    if not isinstance(found, Mapping):
        return []
    return [(str(name), table) for name, table in found.items() if isinstance(table, Mapping)]


def counts_line(found: object) -> str:
    """The counts that are not zero."""
    if not isinstance(found, Mapping):
        return ""
    return ", ".join(f"{n} {word}" for word, n in found.items() if n)


def count(status: Figures, name: str) -> int:
    """A figure of a status; 0 for one that is not there."""
    return int(_number(status.get(name)))


def _number(value: object) -> float:
    return float(value) if isinstance(value, int | float) else 0.0
