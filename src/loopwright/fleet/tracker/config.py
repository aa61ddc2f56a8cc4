"""The numbers of a tracker. Durations are seconds unless a name says otherwise."""

from __future__ import annotations

from dataclasses import dataclass, field

from loopwright.fleet.book.config import BookConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class TrackerConfig:
    """What a tracker goes by.

    With `auth` only the owner of the process (by what the kernel says of a unix socket) comes in
    without a credential; without it everybody on this machine does.
    """

    name: str = "tracker"
    auth: bool = True
    book: BookConfig = field(default_factory=BookConfig)

    # How often agents report
    sync_active_s: float = 2.0  # an agent with a lease
    sync_idle_s: float = 10.0
    sync_jitter: float = 0.2
    syncs_per_s: float = 1000.0  # above that, periods are stretched
    orders_s: float = 0.005  # how long orders gather that nobody waits for

    # The store
    gather_s: float = 0.005  # how long changes that nobody waits for may gather
    commit_s: float = 5.0  # a commit that takes longer has failed
    retry_s: float = 1.0
    retry_max_s: float = 10.0

    # What one connection may do
    messages_per_s: float = 20_000.0
    burst: float = 10_000.0
    devices_per_agent: int = 20_000
    page_bytes: int = 48 << 10
    refusals_logged_per_s: float = 5.0
    refusals_burst: float = 100.0
