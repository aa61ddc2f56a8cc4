"""Which devices a selector means, and which of them may be granted: kept, not searched for.

A selector in use has a `Match` with its devices and, among them, the free ones in the order they
became free. Devices are found by label when a selector is new, and selectors by label when a
device is, so that neither walks over all of the other.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field
from typing import TypeAlias

from loopwright.fleet.book.records import DeviceRecord, Match
from loopwright.fleet.selector import Operator, Selector, parse

Anchor: TypeAlias = tuple[str, str | None] | None
"""A label, with its value or any, that each device of a match has; None when there is none."""


@dataclass(slots=True, kw_only=True)
class Index:
    """All selectors in use and all registered devices."""

    matches: dict[str, Match] = field(default_factory=dict)
    idle: OrderedDict[str, Match] = field(default_factory=OrderedDict)  # nobody waits with these
    by_anchor: dict[Anchor, dict[Match, None]] = field(default_factory=dict)
    by_label: dict[tuple[str, str | None], dict[DeviceRecord, None]] = field(default_factory=dict)
    devices: dict[DeviceRecord, None] = field(default_factory=dict)
    spelled: dict[str, Selector] = field(default_factory=dict)  # texts parsed before
    loaded: dict[tuple[str, str], dict[DeviceRecord, None]] = field(
        default_factory=dict
    )  # free ones
    free: int = 0

    def match(self, text: str, keep: int) -> Match:
        """The match of a selector; up to `keep` that nobody waits with stay indexed.

        Raises: ConfigError for an invalid selector.
        """
        selector = self.spelled.get(text)
        if selector is None:
            selector = parse(text)
            if len(self.spelled) >= 16 * keep:
                self.spelled.clear()
            self.spelled[text] = selector
        found = self.matches.get(selector.text)
        if found is None:
            found = self._build(selector)
            self.idle[selector.text] = found
            while len(self.idle) > keep:
                self._drop(self.idle.popitem(last=False)[1])
        elif selector.text in self.idle:
            self.idle.move_to_end(selector.text)
        return found

    def used(self, match: Match) -> None:
        """Somebody waits with it: it stays."""
        self.idle.pop(match.selector.text, None)

    def unused(self, match: Match) -> None:
        """Nobody waits with it any more: it may go."""
        self.idle[match.selector.text] = match

    def meant(self, selector: Selector) -> list[DeviceRecord]:
        """The registered devices that a selector means, found without keeping anything."""
        found = self.matches.get(selector.text)
        if found is not None:
            return list(found.devices)
        return [device for device in self._candidates(selector) if selector.matches(device.labels)]

    def add(self, device: DeviceRecord) -> None:
        """A device came, with its labels."""
        self.devices[device] = None
        for key, value in device.labels.items():
            self.by_label.setdefault((key, value), {})[device] = None
            self.by_label.setdefault((key, None), {})[device] = None
        for anchor in _anchors_met(device):
            for match in self.by_anchor.get(anchor, ()):
                if match.selector.matches(device.labels):
                    match.devices[device] = None
                    device.matches[match] = None

    def remove(self, device: DeviceRecord) -> list[Match]:
        """A device goes, or gets other labels; returns the matches that it was in."""
        self.set_free(device, free=False)
        self.devices.pop(device, None)
        for key, value in device.labels.items():
            for label in ((key, value), (key, None)):
                named = self.by_label.get(label)
                if named is not None:
                    named.pop(device, None)
                    if not named:
                        del self.by_label[label]
        left = list(device.matches)
        for match in left:
            match.devices.pop(device, None)
        device.matches.clear()
        return left

    def set_free(self, device: DeviceRecord, *, free: bool) -> None:
        """Note whether a device may be granted. Its labels and modules change only while not."""
        if device.free == free:
            return
        device.free = free
        if free:
            self.free += 1
            for match in device.matches:
                match.free[device] = None
            for module in device.modules.items():
                self.loaded.setdefault(module, {})[device] = None
        else:
            self.free -= 1
            for match in device.matches:
                del match.free[device]
            for module in device.modules.items():
                having = self.loaded[module]
                del having[device]
                if not having:
                    del self.loaded[module]

    def _build(self, selector: Selector) -> Match:
        match = Match(selector=selector)
        for device in self._candidates(selector):
            if selector.matches(device.labels):
                match.devices[device] = None
                device.matches[match] = None
                if device.free:
                    match.free[device] = None
        self.matches[selector.text] = match
        for anchor in _anchors(selector):
            self.by_anchor.setdefault(anchor, {})[match] = None
        return match

    def _drop(self, match: Match) -> None:
        for device in match.devices:
            device.matches.pop(match, None)
        for anchor in _anchors(match.selector):
            held = self.by_anchor[anchor]
            del held[match]
            if not held:
                del self.by_anchor[anchor]
        del self.matches[match.selector.text]

    def _candidates(self, selector: Selector) -> list[DeviceRecord]:
        """Devices that include all that the selector means."""
        found: dict[DeviceRecord, None] = {}
        for anchor in _anchors(selector):
            found.update(self.devices if anchor is None else self.by_label.get(anchor, {}))
        return list(found)


def _anchors(selector: Selector) -> tuple[Anchor, ...]:
    """Labels of which each device that is meant has one: of the term with the fewest values."""
    best: tuple[Anchor, ...] = (None,)
    for term in selector.terms:
        if term.operator is Operator.IN:
            these: tuple[Anchor, ...] = tuple((term.key, value) for value in term.values)
        elif term.operator is Operator.EXISTS:
            these = ((term.key, None),)
        else:
            continue
        if best == (None,) or _cost(these, selector) < _cost(best, selector):
            best = these
    return best


def _cost(anchors: tuple[Anchor, ...], selector: Selector) -> tuple[bool, bool, int]:
    """What is tried first: names, which are unique, then values, then mere presence."""
    first = anchors[0]
    if first is None:
        return (True, True, len(selector.terms))
    return (first[0] != "name", first[1] is None, len(anchors))


def _anchors_met(device: DeviceRecord) -> list[Anchor]:
    """The anchors under which a match that means this device may be kept."""
    met: list[Anchor] = [None]
    for key, value in device.labels.items():
        met.append((key, value))
        met.append((key, None))
    return met
