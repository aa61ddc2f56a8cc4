"""Which driver a device has, by its kind."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeAlias

from loopwright.errors import ConfigError, LoopwrightError
from loopwright.fleet.agent.cpu import CpuDriver
from loopwright.fleet.agent.driver import Driver, DriverContext
from loopwright.fleet.agent.options import DeviceOptions
from loopwright.fleet.agent.processes import ProcessDriver
from loopwright.kernel_call import CPU
from loopwright.plugins import plugin, plugin_names

GROUP = "loopwright.drivers"
DEVICES_GROUP = "loopwright.devices"
"""Devices of the runtime, which this process does not import: measuring processes open them."""
DriverFactory: TypeAlias = Callable[[DeviceOptions, DriverContext], Driver]
DRIVERS: Mapping[str, DriverFactory] = {CPU: CpuDriver}


def driver_of(spec: DeviceOptions, context: DriverContext) -> Driver:
    """The driver of a device.

    Raises: ConfigError for a kind without a driver, or a device that the driver refuses;
        EnvironmentFailure for a driver that cannot be imported.
    """
    make = DRIVERS.get(spec.kind) or plugin(GROUP, spec.kind)
    if make is None and spec.kind in plugin_names(DEVICES_GROUP):
        make = ProcessDriver
    if not callable(make):
        known = sorted({*DRIVERS, *plugin_names(GROUP), *plugin_names(DEVICES_GROUP)})
        raise ConfigError(
            f"device {spec.name}: there is no driver of kind {spec.kind!r}; there are "
            f"{', '.join(known)}; a package can bring another by the entry points {GROUP}, or a "
            f"device that needs no driver of its own by {DEVICES_GROUP}"
        )
    try:
        made: Driver = make(spec, context)
    except LoopwrightError:
        raise
    except Exception as error:
        why = f"{type(error).__name__}: {error}"
        raise ConfigError(f"device {spec.name}: the {spec.kind} driver fails: {why}") from error
    return made
