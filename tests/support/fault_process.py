"""A tracker or an agent as a process that faults are done to: what the commands run, but quicker.

`python fault_process.py tracker|agent ORDERS`, with `TrackerOrders` or `AgentOrders` as JSON. Its
wall clock is off by the seconds in a file, which a test writes while it runs, and peers that are
gone are noticed sooner than by default.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import msgspec

from loopwright.fleet.wire import peer

QUICK_TIMEOUT_MS = 1000


class TrackerOrders(msgspec.Struct):
    """How a tracker is served; `config` is a TrackerConfig, as far as it is not the default."""

    listen: tuple[str, ...]
    store: str
    token_file: str
    wall: str
    config: dict[str, object] = {}


class AgentOrders(msgspec.Struct):
    """An agent's command line, and its timers as far as they are not the default."""

    arguments: tuple[str, ...]
    wall: str
    timers: dict[str, float] = {}


def moved_clock(path: Path) -> Callable[[], float]:
    """The wall clock, off by the seconds that `path` holds."""
    true = time.time

    def now() -> float:
        try:
            return true() + float(path.read_text() or 0.0)
        except OSError:
            return true()

    return now


def tracker(orders: TrackerOrders) -> None:
    """Serve until told to stop."""
    import numpy as np

    from loopwright.fleet.tracker.config import TrackerConfig
    from loopwright.fleet.tracker.serve import ServeOptions, Serving, run, serve

    def ready(serving: Serving) -> None:
        for address in serving.addresses:
            sys.stdout.write(f"tracker listens on {address}\n")
        sys.stdout.flush()

    config = msgspec.convert(orders.config, TrackerConfig)
    options = ServeOptions(
        listen=orders.listen, store=orders.store, config=config, token_file=Path(orders.token_file)
    )
    run(serve(options, rng=np.random.default_rng(0), log=sys.stderr, ready=ready))


def agent(orders: AgentOrders) -> int:
    """Serve until told to stop; the exit status."""
    import os

    from loopwright.errors import LoopwrightError
    from loopwright.fleet.agent.main import read, serve

    command = read(orders.arguments, Path(), sorted(os.sched_getaffinity(0)))
    timers = replace(command.options.timers, **orders.timers)
    try:
        asyncio.run(serve(replace(command, options=replace(command.options, timers=timers))))
    except LoopwrightError as error:
        sys.stderr.write(f"loopwright agent: {error}\n")
        return error.exit_code
    return 0


def main() -> int:
    what, text = sys.argv[1:]
    peer.USER_TIMEOUT_MS = QUICK_TIMEOUT_MS
    if what == "tracker":
        orders = msgspec.json.decode(text, type=TrackerOrders)
        time.time = moved_clock(Path(orders.wall))
        tracker(orders)
        return 0
    told = msgspec.json.decode(text, type=AgentOrders)
    time.time = moved_clock(Path(told.wall))
    return agent(told)


if __name__ == "__main__":
    sys.exit(main())
