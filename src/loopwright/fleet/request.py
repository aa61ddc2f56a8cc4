"""What is asked of a fleet: the one value that a request carries from its client to the book."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from loopwright.fleet.words import Priority


class LeaseRequest(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """`count` devices that match `selector`, all or none.

    Args:
        ttl_s: seconds that a lease lives when nobody renews it.
        priority: a `words.Priority`; the book refuses other numbers.
        max_wait_s: seconds to wait for the devices.
        modules: kind -> SHA-256 of what the session will configure; devices that have it go first.
        tags: for people: what the lease is for.
    """

    selector: str = ""
    count: int = 1
    ttl_s: float = 30.0
    priority: int = int(Priority.NORMAL)
    max_wait_s: float = 600.0
    modules: Mapping[str, str] = msgspec.field(default_factory=dict)
    tags: Mapping[str, str] = msgspec.field(default_factory=dict)
