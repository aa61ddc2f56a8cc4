"""Questions to a tracker whose answers are frozen views, and commands."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

from loopwright.cli.fleet.connect import Where, ask
from loopwright.errors import ConfigError, NoDeviceError

if TYPE_CHECKING:
    from loopwright.fleet.client.control import Control
    from loopwright.fleet.views import DeviceView, EventView, LeaseView

Status: TypeAlias = "dict[str, object]"


async def devices_of(
    control: Control, selector: str = "", name: str = ""
) -> tuple[DeviceView, ...]:
    """The devices that `selector` or `name` means, in order of name.

    Raises: ConfigError for a selector that is not valid.
    """
    from loopwright.fleet.selector import parse
    from loopwright.fleet.views import DeviceView

    return await control.rows("devices", DeviceView, selector=str(parse(selector)), name=name)


async def leases_of(control: Control, name: str = "") -> tuple[LeaseView, ...]:
    """The leases that live and the requests that wait, or the one called `name`."""
    from loopwright.fleet.views import LeaseView

    return await control.rows("leases", LeaseView, name=name)


async def status_of(control: Control) -> Status:
    """The tracker's figures by name."""
    import msgspec

    body, _ = await control.page("status")
    return msgspec.json.decode(body, type=dict[str, object])


async def events_page(control: Control, after: int) -> tuple[EventView, ...]:
    """Some events with numbers above `after`, oldest first."""
    import msgspec

    from loopwright.fleet.views import EventView

    body, _ = await control.page("events", str(after))
    return tuple(msgspec.json.decode(body, type=list[EventView]))


def matching(place: Where, selector: str) -> tuple[DeviceView, ...]:
    """The devices that match.

    Raises: NoDeviceError when a selector matches none, saying what there is.
    """
    return ask(place, lambda control: some_devices(control, selector))


async def some_devices(control: Control, selector: str) -> tuple[DeviceView, ...]:
    """As `matching`, over a connection that is there."""
    from loopwright.fleet.client.selection import none_matches

    found = await devices_of(control, selector)
    if not found and selector:
        raise NoDeviceError(none_matches(selector, await devices_of(control)))
    return found


def the_device(place: Where, name: str) -> DeviceView:
    """The device called `name`. Raises: NoDeviceError."""
    return ask(place, lambda control: need_device(control, name))


async def need_device(control: Control, name: str) -> DeviceView:
    """The device called `name`. Raises: NoDeviceError; ConfigError for an empty name."""
    if not name:
        raise ConfigError("which device? Give its name, as `loopwright device ls` shows it")
    found = await devices_of(control, name=name)
    if not found:
        raise NoDeviceError(f"no device is named {name!r}; see `loopwright device ls`")
    return found[0]


def the_lease(place: Where, name: str) -> LeaseView:
    """The lease or request called `name`. Raises: ConfigError."""
    if not name:
        raise ConfigError("which lease or request? Give its id, as `loopwright lease ls` shows it")

    async def question(control: Control) -> LeaseView:
        found = await leases_of(control, name)
        if not found:
            raise ConfigError(
                f"no lease or request {name!r} lives; see `loopwright lease ls`, or `loopwright "
                "audit` for those that ended"
            )
        return found[0]

    return ask(place, question)


def command(place: Where, what: str, **arguments: str) -> object:
    """What a command of the tracker returned. Empty arguments are left out.

    Raises: AuthError without the role; ConfigError, FleetError.
    """
    return ask(place, lambda control: carry_out(control, what, **arguments))


async def carry_out(control: Control, what: str, **arguments: str) -> object:
    """As `command`, over a connection that is there."""
    import msgspec

    given = {name: value for name, value in arguments.items() if value}
    return msgspec.json.decode(await control.command(what, given))
