"""`loopwright doctor --fleet`: whether a fleet can be used from here, and what is wrong with it."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import typer

from loopwright.cli.common import Output, print_json
from loopwright.cli.fleet.connect import Where, connect, reach
from loopwright.errors import FleetError, LoopwrightError

if TYPE_CHECKING:
    from loopwright.fleet.client.control import Control
    from loopwright.fleet.views import DeviceView

_ASKED = 5
_MOST_ADDRESSES = 32
_DIAL_S = 2.0
_SHOWN = 5
_SLOW_MS = 250.0


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was looked at: whether it is in order, what was found, what to do about it."""

    name: str
    ok: bool
    found: str
    advice: str = ""


def check_fleet(place: Where, output: Output) -> None:
    """Show what a client on this machine finds at `place`.

    Raises: FleetError when something is not well; AuthError and FleetError when it is not admitted.
    """
    import asyncio

    checks = asyncio.run(_checks(place))
    bad = sum(not check.ok for check in checks)
    if output is Output.JSON:
        print_json({"fleet": place.url, "well": not bad, "checks": checks})
    else:
        width = max(len(check.name) for check in checks)
        for check in checks:
            mark = "ok" if check.ok else "!!"
            advice = f"; {check.advice}" if check.advice else ""
            typer.echo(f"{mark}  {check.name.ljust(width)}  {check.found}{advice}")
    if bad:
        raise FleetError(f"{bad} of {len(checks)} checks of {place.url} failed; they are marked !!")


async def _checks(place: Where) -> list[Check]:
    from loopwright.cli.fleet.query import devices_of, status_of

    began = time.monotonic()
    control = await connect(place)
    try:
        checks = [_admitted(place, control, time.monotonic() - began)]
        checks.append(await _round_trips(control))
        status = await status_of(control)
        devices = await devices_of(control)
        checks += [_store(status), _devices(devices), await _addresses(place, devices)]
        checks.append(_refused(status))
        return [replace(check, advice="") if check.ok else check for check in checks]
    finally:
        await control.close()


def _admitted(place: Where, control: Control, took_s: float) -> Check:
    from loopwright.fleet.words import Role

    hello = control.welcome
    if hello is None:
        return Check("tracker", False, "it sent no welcome", "update the older side")
    role = Role(hello.role).name.lower()
    return Check(
        "tracker",
        True,
        f"{hello.tracker} at {place.url}, epoch {hello.tracker_epoch}, protocol {hello.proto}, "
        f"admitted as {hello.principal} ({role}) in {took_s * 1000:.0f} ms",
    )


async def _round_trips(control: Control) -> Check:
    from loopwright.cli.fleet.query import status_of

    times: list[float] = []
    for _ in range(_ASKED):
        began = time.monotonic()
        await status_of(control)
        times.append((time.monotonic() - began) * 1000)
    middle = sorted(times)[_ASKED // 2]
    advice = "the tracker is busy, or far away: results do not suffer, leasing is slow"
    return Check("answers", middle <= _SLOW_MS, f"in {middle:.1f} ms", advice)


def _store(status: Mapping[str, object]) -> Check:
    why = status.get("read_only")
    advice = "nothing new is granted; make room on the tracker's disk, it goes on by itself"
    return Check("store", not why, f"read-only: {why}" if why else "writable", advice)


def _devices(devices: tuple[DeviceView, ...]) -> Check:
    from loopwright.cli.fleet.text import device_state

    if not devices:
        return Check("devices", False, "none has registered", "add one: loopwright device serve")
    free = sum(view.grantable for view in devices)
    leased = sum(bool(view.lease) for view in devices)
    off = [view for view in devices if not view.grantable and not view.lease]
    found = f"{len(devices)}, {free} free, {leased} leased"
    if off:
        named = ", ".join(f"{view.name} {device_state(view)}" for view in off[:_SHOWN])
        more = f" and {len(off) - _SHOWN} more" if off[_SHOWN:] else ""
        found += f", {len(off)} not available: {named}{more}"
    return Check("devices", bool(free or leased), found, "see `loopwright device ls -o wide`")


async def _addresses(place: Where, devices: tuple[DeviceView, ...]) -> Check:
    """Whether sessions can be opened from here: they go straight to the devices."""
    import asyncio

    wanted = list(dict.fromkeys(a for view in devices for a in view.addresses[:1]))
    some = wanted[:_MOST_ADDRESSES]
    failures = [f for f in await asyncio.gather(*(_dial(place, a) for a in some)) if f]
    found = f"{len(some) - len(failures)} of {len(some)} addresses of devices can be reached"
    if failures:
        found += f": {'; '.join(failures[:_SHOWN])}"
    advice = "clients connect to devices themselves: open the way, or give agents --advertise"
    return Check("sessions", not failures, found, advice)


async def _dial(place: Where, address: str) -> str:
    """Why `address` cannot be reached; empty when it can."""
    import asyncio

    try:
        async with asyncio.timeout(_DIAL_S):
            link = await reach(address, place.ca)
    except TimeoutError:
        return f"{address} does not answer within {_DIAL_S:g} s"
    except LoopwrightError as error:
        return str(error)
    link.abort("only looking")
    return ""


def _refused(status: Mapping[str, object]) -> Check:
    from loopwright.cli.fleet.summary import counts_line

    return Check("refused", True, counts_line(status.get("faults")) or "nothing so far")
