"""A fleet of devices for programs: `lw.fleet`.

    fleet = lw.fleet.connect("tls://lab:7070", token="...")    # lw.fleet.connect(): this machine
    with fleet.lease("board=rpi4") as lease, lease.session() as session:
        for result in session.run_batch([lw.fleet.Run(artifact, plan)]):
            print(result.outcome)

One thread serves everything; `fleet.aio` is the same for callers with an event loop, on that
thread's loop. What goes wrong is a NoDeviceError, QueueTimeoutError, DeviceLostError, AuthError or
another FleetError, whose `exit_code` the command line uses.
"""

from __future__ import annotations

import asyncio
import functools
import os
import ssl
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Self, TypeVar, final

import numpy as np

from loopwright.errors import (
    AuthError,
    ConfigError,
    DeviceLostError,
    FleetError,
    NoDeviceError,
    QueueTimeoutError,
)
from loopwright.fleet.client.aio import AsyncFleet
from loopwright.fleet.client.control import Control
from loopwright.fleet.client.embedded import Embedded, EmbeddedOptions
from loopwright.fleet.client.lease import HeldLease
from loopwright.fleet.client.loop import LoopThread
from loopwright.fleet.client.pending import OnQueued
from loopwright.fleet.client.results import (
    RemoteResult,
    failed_of,
    outputs_of,
    provenance,
    status_of,
)
from loopwright.fleet.client.runtimes import Runtimes
from loopwright.fleet.client.session import Blob, DeviceSession
from loopwright.fleet.request import LeaseRequest
from loopwright.fleet.security.handshake import Anonymous, ByCertificate, ByToken, Credential
from loopwright.fleet.security.signing import BuilderKeys, load_builder
from loopwright.fleet.views import DeviceView, EventView, ExplanationView, LeaseView
from loopwright.fleet.wire.address import Scheme, parse
from loopwright.fleet.wire.link import Link, dial
from loopwright.fleet.wire.messages import DeviceInfo
from loopwright.fleet.words import Priority, RunStatus
from loopwright.measure.pipeline import Run, RunResult
from loopwright.outcome import Timed
from loopwright.serving.tls import client_context, own_certificate
from loopwright.settings import Settings, from_environment

_T = TypeVar("_T")


def _ignore(position: int, why: str) -> None:
    del position, why


@final
class Session:
    """An open session on a leased device. Use it in a `with`."""

    def __init__(self, thread: LoopThread, session: DeviceSession, lease: HeldLease) -> None:
        self.aio = session
        self._thread = thread
        self._lease = lease

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the session; the device cleans up. Calling it again is harmless."""
        self._thread.run(self.aio.close())

    def upload(self, blobs: Sequence[bytes]) -> int:
        """Upload those of `blobs` that the device does not have; how many bytes were sent.

        Raises: FleetError when it has no room; DeviceLostError.
        """
        return self._thread.run(self.aio.upload([Blob.of(data) for data in blobs]))

    def configure(self, modules: Mapping[str, bytes]) -> tuple[str, ...]:
        """The kinds of `modules` that were not in place; all of them are afterwards.

        Raises: FleetError, DeviceLostError.
        """
        made = {kind: Blob.of(data) for kind, data in modules.items()}
        return self._thread.run(self.aio.configure(made))

    def run_batch(self, runs: Sequence[Run]) -> Iterator[RunResult]:
        """The results of `runs`, in their order, each as soon as it is there.

        Nothing is repeated here: a failure that is the device's is handed on as one.
        Raises: DeviceLostError when device or lease go away; FleetError.
        """
        results = self.aio.run_batch(runs)
        for run in runs:
            yield _result(run, self._thread.run(_next(results)), self._lease)


async def _next(results: AsyncIterator[RemoteResult]) -> RemoteResult:
    return await anext(results)


def _result(run: Run, answer: RemoteResult, lease: HeldLease) -> RunResult:
    where = provenance(lease, answer.result)
    status = status_of(answer.result)
    if status is not RunStatus.OK or not answer.result.ns:
        return RunResult(failed_of(answer.result, status, where))
    ns = answer.result.ns
    outputs = outputs_of(run.artifact, answer.output) if run.want_output else ()
    return RunResult(Timed(ns, min(ns), run_s=answer.result.run_s, where=where), outputs)


@final
class Lease:
    """Leased devices, renewed in the background until `close`. Use it in a `with`."""

    def __init__(self, thread: LoopThread, fleet: AsyncFleet, held: tuple[HeldLease, ...]) -> None:
        self.aio = held
        self._thread = thread
        self._fleet = fleet

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def id(self) -> str:
        """The id of the first lease."""
        return self.aio[0].id

    @property
    def devices(self) -> tuple[DeviceInfo, ...]:
        """What was leased."""
        return tuple(held.device for held in self.aio)

    @property
    def wanted_back(self) -> bool:
        """Whether a more urgent request waits: give the devices back at the next good moment."""
        return any(held.wanted_back.is_set() for held in self.aio)

    def check(self) -> None:
        """Check that all of the leases are good.

        Raises: DeviceLostError.
        """
        for held in self.aio:
            held.check()

    def session(self, device: int = 0, modules: Mapping[str, bytes] | None = None) -> Session:
        """A session on one of the devices, by number.

        Args:
            modules: what must be in place, by kind.

        Raises: DeviceLostError, AuthError, FleetError.
        """
        held = self.aio[device]
        made = {kind: Blob.of(data) for kind, data in (modules or {}).items()}
        return Session(self._thread, self._thread.run(self._fleet.open(held, made)), held)

    def close(self) -> None:
        """Give the devices back; calling it again is harmless."""
        self._thread.run(_release(self.aio))


async def _release(held: tuple[HeldLease, ...]) -> None:
    await asyncio.gather(*(lease.release() for lease in held))


@final
class Fleet:
    """A fleet, made by `connect`. Use it in a `with`, or close it."""

    def __init__(
        self,
        thread: LoopThread,
        aio: AsyncFleet,
        on_close: Callable[[], Coroutine[Any, Any, None]],
    ) -> None:
        self.aio = aio
        self.thread = thread
        self._on_close = on_close
        self._closed = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Give back what is held, and disconnect; calling it again is harmless."""
        if not self._closed:
            self._closed = True
            try:
                self.thread.run(self._on_close())
            finally:
                self.thread.close()

    def lease(
        self,
        selector: str = "",
        *,
        ttl: float = 30.0,
        priority: Priority = Priority.NORMAL,
        max_wait: float = 600.0,
        count: int = 1,
        tags: Mapping[str, str] | None = None,
        modules: Mapping[str, bytes] | None = None,
        on_queued: OnQueued = _ignore,
    ) -> Lease:
        """A lease on `count` devices that match `selector`, all or none; waits for them.

        Args:
            ttl: seconds that it lives when this process stops renewing it.
            max_wait: seconds to wait.
            tags: for people: what it is for.
            modules: what the session will configure; devices that have it are preferred.
            on_queued: told of the position in the queue and why it waits, on the fleet's thread.

        Raises: NoDeviceError when none could ever match; QueueTimeoutError when none was free in
            time; AuthError, ConfigError, FleetError.
        """
        wanted = {kind: Blob.of(data).digest.hex() for kind, data in (modules or {}).items()}
        asked = LeaseRequest(
            selector=selector,
            ttl_s=ttl,
            priority=priority,
            max_wait_s=max_wait,
            count=count,
            modules=wanted,
            tags=dict(tags or {}),
        )
        return Lease(self.thread, self.aio, self.thread.run(self.aio.acquire(asked, on_queued)))

    def devices(self, selector: str = "") -> tuple[DeviceView, ...]:
        """The devices that match, ordered by name."""
        return self.thread.run(self.aio.devices(selector))

    def leases(self) -> tuple[LeaseView, ...]:
        """The leases that live and the requests that wait."""
        return self.thread.run(self.aio.leases())

    def explain(self, name: str) -> ExplanationView:
        """Why a lease or request is where it is."""
        return self.thread.run(self.aio.explain(name))

    def status(self) -> dict[str, object]:
        """The tracker's status: its figures by name."""
        return self.thread.run(self.aio.status())

    def events(self, after: int = 0) -> tuple[EventView, ...]:
        """What happened after the event with that number, as far as it is kept."""
        return self.thread.run(self.aio.events(after))

    def command(self, what: str, **arguments: str) -> object:
        """The result of an operator's command, such as `device.drain` with `device` and `why`.

        Raises: AuthError without the role for it; ConfigError, FleetError.
        """
        return self.thread.run(self.aio.command(what, **arguments))


def connect(
    url: str | None = None,
    *,
    token: str | None = None,
    ca: str | Path | None = None,
    cert: str | Path | None = None,
    sign: str | Path | None = None,
    settings: Settings | None = None,
) -> Fleet:
    """The fleet of the tracker at `url`; a fleet of this machine alone when nobody names one.

    Args:
        url: `tls://host:port`, `tcp://host:port` or `unix:///path`; LOOPWRIGHT_TRACKER when None.
        token: who you are, or `@FILE` that holds it; LOOPWRIGHT_TOKEN when None.
        ca: certificate of the fleet's authority, or its folder; LOOPWRIGHT_CA when None.
        cert: your own certificate, its `.key` beside it, which counts where there is no token and
            the tracker is at tls://; LOOPWRIGHT_CERT when None.
        sign: file of the builder's key that signs what devices are to run; LOOPWRIGHT_SIGN when
            None, and nothing is signed without either.

    Raises: AuthError when the tracker refuses; ConfigError; FleetError when it is not there.
    """
    found = from_environment() if settings is None else settings
    address = url or found.tracker
    thread = LoopThread("fleet")
    try:
        if address is None:
            return _here(thread, found)
        cert, sign = cert or found.cert, sign or found.sign
        tls = _tls(address, ca or found.ca, cert)
        who = credential(token or found.token)
        if isinstance(who, Anonymous) and cert and parse(address).scheme is Scheme.TLS:
            who = ByCertificate()
        builder = None if sign is None else load_builder(Path(sign))
        runtimes = Runtimes(found.cache_dir)
        aio = thread.run(_connected(address, who, tls, runtimes, builder))
    except BaseException:
        thread.close()
        raise
    return Fleet(thread, aio, aio.close)


async def _connected(
    address: str,
    who: Credential,
    tls: ssl.SSLContext | None,
    runtimes: Runtimes,
    builder: BuilderKeys | None,
) -> AsyncFleet:
    chance = np.random.default_rng().random
    control = Control(functools.partial(dial, address, tls=tls), who, time.monotonic, chance)
    dial_device = functools.partial(_dial, tls)
    fleet = AsyncFleet(control, dial_device, time.monotonic, runtimes=runtimes, builder=builder)
    await fleet.start()
    return fleet


async def _dial(tls: ssl.SSLContext | None, address: str) -> Link:
    return await dial(address, tls=tls)


def credential(token: str | None) -> Credential:
    """The credential of `token`, or of the one in the file of `@FILE`.

    Raises: ConfigError for a file that cannot be read.
    """
    if not token:
        return Anonymous()
    if not token.startswith("@"):
        return ByToken(token)
    try:
        return ByToken(Path(token[1:]).read_text().strip())
    except OSError as error:
        raise ConfigError(f"token file {token[1:]}: {error.strerror}") from error


def _tls(address: str, ca: str | Path | None, cert: str | Path | None) -> ssl.SSLContext | None:
    needed = parse(address).scheme is Scheme.TLS
    if ca is None or not (needed or Path(ca).exists()):
        return None
    own = own_certificate(Path(cert)) if cert and needed else None
    return client_context(Path(ca), own)


def _here(thread: LoopThread, settings: Settings) -> Fleet:
    cores = tuple(sorted(os.sched_getaffinity(0)))
    options = EmbeddedOptions(cores=cores, cache_dir=settings.cache_dir)
    embedded = thread.run(_embedded(options))
    thread.run(embedded.start())
    return Fleet(thread, embedded.fleet, embedded.close)


async def _embedded(options: EmbeddedOptions) -> Embedded:
    return Embedded(options, np.random.default_rng())


__all__ = [
    "AuthError",
    "DeviceLostError",
    "DeviceView",
    "EventView",
    "ExplanationView",
    "Fleet",
    "FleetError",
    "Lease",
    "LeaseView",
    "NoDeviceError",
    "Priority",
    "QueueTimeoutError",
    "Run",
    "Session",
    "connect",
]
