"""What others see of a fleet: made by the book, sent as JSON by the tracker, read by clients.

Each field has a default, for trackers that do not know it yet. Words are those of `words`, as text:
a client may meet one of a newer tracker.
"""

from __future__ import annotations

import msgspec


class DeviceView(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """A device of the fleet. `kept` says why it cannot be had now, `why` is an operator's reason.

    `epoch` is the highest given out or reported. `flapping`: two agents take it from each other.
    `target` is a target string; `device` the fingerprint that records are filed under.
    """

    name: str
    labels: dict[str, str] = {}
    link: str = ""
    health: str = ""
    admin: str = ""
    occupancy: str = ""
    grantable: bool = False
    kept: str = ""
    why: str = ""
    lease: str = ""
    agent: str = ""
    incarnation: str = ""
    epoch: int = 0
    drift: float = 0.0
    detail: str = ""
    modules: dict[str, str] = {}
    target: str = ""
    device: str = ""
    cores: tuple[int, ...] = ()
    addresses: tuple[str, ...] = ()
    tier: int = 0
    flapping: bool = False


class LeaseView(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """A lease, or a request that waits (state `queued`). Times are seconds from now.

    A lease is there until its device is clean; from its end on it has a `reason`. For `away_s` it
    was without the connection of its holder, 0 while that is there; in `ends_s` it ends even if it
    is renewed.
    """

    id: str
    state: str
    client: str = ""
    tenant: str = ""
    selector: str = ""
    priority: int = 1
    tags: dict[str, str] = {}
    reason: str | None = None
    request: str = ""
    device: str = ""
    agent: str = ""
    epoch: int = 0
    age_s: float = 0.0
    ttl_s: float = 0.0
    expires_s: float = 0.0
    away_s: float = 0.0
    ends_s: float | None = None
    count: int = 1
    waited_s: float = 0.0
    gives_up_s: float = 0.0
    over_quota: bool = False


class EventView(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """A line of the tracker's log; `at` is seconds since 1970 UTC."""

    id: int
    at: float
    what: str
    subject: str = ""
    by: str = ""
    detail: str = ""


class ExplanationView(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """Why a lease or request is where it is: `text` is a sentence, the rest are its figures.

    `free_within_s` is when the last of the leased devices that match is free if nobody renews.
    """

    subject: str
    state: str
    text: str
    matching: int = 0
    free: int = 0
    leased: int = 0
    free_within_s: float | None = None
    ahead: int = 0
