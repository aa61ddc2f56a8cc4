"""The tracker as a process of its own: addresses, store, secrets of the first start, signals."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import ssl
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from loopwright.errors import ConfigError
from loopwright.fleet.security.tokens import Principal, make_token
from loopwright.fleet.store.sql import open_store
from loopwright.fleet.tracker.config import TrackerConfig
from loopwright.fleet.tracker.log import JsonLog
from loopwright.fleet.tracker.server import Clocks, Tracker
from loopwright.fleet.wire.address import Scheme, parse, require_safe_binding
from loopwright.fleet.wire.listener import Listener, ListenLimits
from loopwright.fleet.words import Role

_PRIVATE = 0o600
_ADMIN = "admin"


@dataclass(frozen=True, slots=True, kw_only=True)
class ServeOptions:
    """How a tracker is served.

    `ca` is the folder of `loopwright ca init`, needed for tls:// addresses. `client_ca` is the
    certificate of the authority that issues clients' own. `token_file` is where the first admin
    token is written when the store has none; without, it is shown only.
    """

    listen: tuple[str, ...]
    store: str
    config: TrackerConfig = field(default_factory=TrackerConfig)
    ca: Path | None = None
    client_ca: Path | None = None
    token_file: Path | None = None
    limits: ListenLimits = field(default_factory=ListenLimits)


@dataclass(frozen=True, slots=True)
class Serving:
    """A tracker that is being served: where, and the admin token of a first start."""

    tracker: Tracker
    addresses: tuple[str, ...]
    admin_token: str


def run(serving: Coroutine[Any, Any, None]) -> None:
    """Run `serve` in an event loop: uvloop's where it is installed (extra `server`)."""
    try:
        import uvloop
    except ImportError:
        make = asyncio.new_event_loop
    else:
        make = uvloop.new_event_loop
    with asyncio.Runner(loop_factory=make) as runner:
        runner.run(serving)


async def serve(
    options: ServeOptions,
    *,
    rng: np.random.Generator,
    log: TextIO | None = None,
    ready: Callable[[Serving], None] | None = None,
    clocks: Clocks | None = None,
    until: asyncio.Event | None = None,
) -> None:
    """Serve until SIGTERM or SIGINT, or until `until` is set; what is unsaved is saved first.

    Args:
        log: where to write JSON lines.
        ready: called once when agents and clients may come.
        until: ends it instead of a signal: with it the process's signals are left alone.

    Raises: ConfigError for addresses that are not safe and stores that are not ours; FleetError
        for an address that is taken; StoreError; StoreFencedError when another tracker took over.
    """
    clocks = Clocks() if clocks is None else clocks
    check(options)
    tls = _tls(options)
    store = await asyncio.to_thread(open_store, options.store)
    tracker = Tracker(store, options.config, rng=rng, clocks=clocks, log=JsonLog(log, time.time))
    async with AsyncExitStack() as stack:
        told = stack.enter_context(_signals()) if until is None else until
        stack.callback(store.close)
        gate = asyncio.Event()

        async def handle(link: object) -> None:
            await gate.wait()
            await tracker.serve(link)  # type: ignore[arg-type]  # a Link, see Listener

        listeners = [
            Listener(
                address,
                handle,
                tls=tls if parse(address).scheme is Scheme.TLS else None,
                limits=options.limits,
                tally=tracker.link_tally,
            )
            for address in options.listen
        ]
        for listener in listeners:  # before the store: a taken address changes nothing
            await stack.enter_async_context(listener)
        await tracker.start()
        stack.push_async_callback(tracker.stop)
        token = await _first_token(tracker, options)
        gate.set()
        if ready is not None:
            addresses = tuple(a for listener in listeners for a in listener.addresses)
            ready(Serving(tracker, addresses, token))
        await _until(told, tracker)


def check(options: ServeOptions) -> None:
    """Check that the options are safe.

    Raises: ConfigError otherwise.
    """
    if not options.listen:
        raise ConfigError("a tracker needs an address; give --listen tcp://127.0.0.1:7070")
    if options.client_ca is not None and options.ca is None:
        raise ConfigError("--client-ca is about tls:// addresses: give --tls-dir too")
    for address in options.listen:
        is_tls = parse(address).scheme is Scheme.TLS
        if is_tls and options.ca is None:
            raise ConfigError(f"{address} needs a certificate; make one with loopwright ca init")
        require_safe_binding(
            address, authenticated=options.config.auth, tls=is_tls, carries_secrets=True
        )


def _tls(options: ServeOptions) -> ssl.SSLContext | None:
    if options.ca is None:
        return None
    from loopwright.serving.tls import server_context

    return server_context(options.ca, clients=options.client_ca)


async def _first_token(tracker: Tracker, options: ServeOptions) -> str:
    """An admin token, when the store has no token yet."""
    if not options.config.auth or tracker.directory.tokens:
        return ""
    issued = make_token()
    if options.token_file is not None:
        _write_private(options.token_file, issued.text)
    who = Principal(_ADMIN, _ADMIN, Role.ADMIN)
    await tracker.directory.add_token(issued, who, None)
    tracker.audit("token.issue", _ADMIN, "", "first start")
    return issued.text


def _write_private(path: Path, text: str) -> None:
    try:
        with contextlib.suppress(FileNotFoundError):
            path.unlink()
        handle = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, _PRIVATE)
        with os.fdopen(handle, "w") as file:
            file.write(f"{text}\n")
    except OSError as error:
        raise ConfigError(
            f"the admin token cannot be written to {path} ({error.strerror}); name another file"
        ) from error


@contextlib.contextmanager
def _signals() -> Iterator[asyncio.Event]:
    """Set when the process is told to end. In force before anybody hears that it serves."""
    loop = asyncio.get_running_loop()
    told = asyncio.Event()
    numbers = (signal.SIGTERM, signal.SIGINT)
    for number in numbers:
        loop.add_signal_handler(number, told.set)
    try:
        yield told
    finally:
        for number in numbers:
            loop.remove_signal_handler(number)


async def _until(told: asyncio.Event, tracker: Tracker) -> None:
    """Wait until the process is told to end, or the tracker is fenced off."""
    waiting = [asyncio.ensure_future(told.wait()), asyncio.ensure_future(tracker.stopped())]
    try:
        done, _ = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        for task in waiting:
            task.cancel()
