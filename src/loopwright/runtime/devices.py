"""The devices, by kind of target."""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

from loopwright.errors import ConfigError
from loopwright.kernel_call import CPU
from loopwright.plugins import plugin, plugin_names
from loopwright.runtime import null
from loopwright.runtime.device import Device, OpenDevice

GROUP = "loopwright.devices"
"""Entry points of other packages' devices, each an `OpenDevice` named for its kind."""


def _open_cpu(threads: int) -> Device:
    # Imported on demand: the measuring process calls object code itself, and must
    # stay small.
    from loopwright.runtime.cpu.kernel import CpuDevice

    return CpuDevice(threads)


_DEVICES: Mapping[str, OpenDevice] = {CPU: _open_cpu, null.KIND: null.NullDevice}


def device_kinds() -> tuple[str, ...]:
    """The kinds of device known, sorted."""
    return tuple(sorted({*_DEVICES, *plugin_names(GROUP)}))


def opener(kind: str) -> OpenDevice:
    """The function that opens a device of `kind`; nothing is opened yet.

    Raises: ConfigError for an unknown kind; EnvironmentFailure for one that cannot be imported.
    """
    found = _DEVICES.get(kind) or plugin(GROUP, kind)
    if not callable(found):
        raise ConfigError(
            f"there is no device of kind {kind!r}; there are {', '.join(device_kinds())}; "
            f"a package can bring another by the entry points {GROUP}"
        )
    return cast(OpenDevice, found)


def open_device(kind: str, threads: int = 1) -> Device:
    """A device of `kind`. Raises: as `opener`; EnvironmentFailure when there is no such device."""
    return opener(kind)(threads)
