"""How the log says why a lease ended, and how a tracker that starts reads it again."""

from __future__ import annotations

import re
from collections.abc import Iterable

from loopwright.fleet.book.effects import EndLease
from loopwright.fleet.store.rows import AuditEvent
from loopwright.fleet.words import EndReason

_REASONS = {reason.value: reason for reason in EndReason}
_WRITTEN = re.compile(r".*? epoch \d+: (\S+)")


def written(effect: EndLease) -> str:
    """The detail of the event: device, epoch, and the reason in a word, then in words."""
    why = f"{effect.reason.value} {effect.detail}".rstrip()
    return f"{effect.device} epoch {effect.epoch}: {why}"


def read(events: Iterable[AuditEvent]) -> tuple[tuple[str, EndReason], ...]:
    """The leases of such events with their reasons; others are left out."""
    found: list[tuple[str, EndReason]] = []
    for event in events:
        said = _WRITTEN.match(event.detail)
        if said is not None and said[1] in _REASONS:
            found.append((event.subject, _REASONS[said[1]]))
    return tuple(found)
