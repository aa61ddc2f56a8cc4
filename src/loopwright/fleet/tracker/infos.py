"""What agents say of their devices: addresses, target, cores; each process for itself.

Two processes may have one device. Which of them owns it is for the book to say, so what one says
never takes the place of what the other said.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from loopwright.fleet.wire.messages import DeviceInfo


class Infos:
    """Of each device what every process that is connected says, and what its owner said.

    Args:
        owner: the incarnation that has a device now, empty without one.
    """

    def __init__(self, owner: Callable[[str], str]) -> None:
        self._owner = owner
        self._said: dict[str, dict[str, DeviceInfo]] = {}  # device -> incarnation, oldest first
        self._here: dict[str, Mapping[str, DeviceInfo]] = {}  # what those that are connected have

    def came(self, incarnation: str, devices: Mapping[str, DeviceInfo]) -> None:
        """A process registered these devices, and no others."""
        for name in self._here.get(incarnation, {}).keys() - devices.keys():
            self._forget(name, incarnation)
        self._here[incarnation] = devices
        for name, info in devices.items():
            said = self._said.setdefault(name, {})
            said.pop(incarnation, None)
            for other in [one for one in said if one not in self._here]:
                self._forget(name, other)
            self._said.setdefault(name, {})[incarnation] = info

    def left(self, incarnation: str) -> None:
        """The connection of a process is gone; it may come back to what it owns."""
        for name in self._here.pop(incarnation, {}):
            self._forget(name, incarnation)

    def of(self, device: str, incarnation: str = "") -> DeviceInfo | None:
        """What a process says of a device; without one, what was said last."""
        said = self._said.get(device, {})
        if incarnation:
            return said.get(incarnation)
        return next(reversed(said.values()), None)

    def _forget(self, device: str, incarnation: str) -> None:
        """Drop what a process said, unless the device is its."""
        said = self._said.get(device, {})
        if incarnation in said and self._owner(device) != incarnation:
            del said[incarnation]
            if not said:
                del self._said[device]
