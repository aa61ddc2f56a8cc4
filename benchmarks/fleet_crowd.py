"""A crowd of clients from one address, and how soon a device is free whose holder is gone.

    python benchmarks/fleet_crowd.py [--quick] [-o json]

Clients come over TLS to a tracker's address on this machine that is not loopback, all at once, each
with a token; one is served when its first question is answered. Then a process of its own leases
the one device of a fleet for an hour, runs a kernel there that never ends, and is killed; or its
token is revoked. The device is free when the tracker would lend it again.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import functools
import secrets
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import harness
from fleet_part import Part, Row, run_alone
from fleet_roles import real_fleet, tracker_process
from harness import Figure, figure, until_we_end
from hostile_kernels import N, hostile
from loopwright.codegen.artifact import Artifact, Param
from loopwright.errors import InternalError
from loopwright.fleet.client.api import Fleet, connect
from loopwright.fleet.client.control import Control
from loopwright.fleet.security import authority
from loopwright.fleet.security.handshake import ByToken
from loopwright.fleet.wire.link import dial
from loopwright.ir.dtype import F32
from loopwright.layout import Layout
from loopwright.measure.pipeline import Run
from loopwright.outcome import MeasurePlan, cores_for
from loopwright.runtime.cpu.native import object_code
from loopwright.serving.tls import client_context
from loopwright.target.host import host

CLIENTS = 300
CROWD_S, KILLED_S, REVOKED_S = 10.0, 5.0, 1.0
_LIMIT_S = 60.0
_LOOK_S = 0.005


def own_address() -> str:
    """An address of this machine that is not loopback; empty where there is none."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock, contextlib.suppress(OSError):
        sock.connect(("192.0.2.1", 9))  # nothing is sent
        return str(sock.getsockname()[0])
    return ""


# --- the crowd ---


async def crowd_s(address: str, ca: Path, token: str, count: int) -> list[float]:
    """After how many seconds each of `count` clients was served."""
    tls, chance = client_context(ca), secrets.SystemRandom().random
    begin = time.perf_counter()

    async def come() -> float:
        control = Control(
            functools.partial(dial, address, tls=tls), ByToken(token), time.monotonic, chance
        )
        await control.start()
        await control.page("status")
        served = time.perf_counter() - begin
        there.append(control)
        return served

    there: list[Control] = []
    times = await asyncio.gather(*(come() for _ in range(count)))
    for control in there:
        await control.close()
    return times


def _crowd(folder: Path, name: str) -> list[float]:
    ca = folder / "ca"
    now = datetime.datetime.now(datetime.UTC)
    authority.init(ca, now)
    authority.issue_server(ca, [name], now)
    words = ("--listen", f"tls://{name}:0", "--tls-dir", str(ca))
    with tracker_process(folder, words, "tls") as (owner, address), connect(owner) as fleet:
        return asyncio.run(crowd_s(address, ca, _token(fleet)[1], CLIENTS))


def _token(fleet: Fleet) -> tuple[str, str]:
    """The id and the text of a new token."""
    made = fleet.command("token.issue", name="ann")
    if not isinstance(made, dict):
        raise InternalError(f"token.issue made {made!r}")
    return str(made["id"]), str(made["token"])


# --- a holder that is gone ---


def hold(address: str, token: str, folder: Path) -> None:
    """Be the holder: lease the device for an hour and run what never ends."""
    text, kinds = hostile()
    entry = next(kind.entry for kind in kinds if kind.name == "loop")
    params = tuple(Param(name, F32, (N,), Layout.plain(1)) for name in "xy")
    code = object_code(text, folder)
    loop = Artifact(code=code, entry=entry, params=params, n_outputs=1, target_key=host().key)
    plan = MeasurePlan(repeats=1, run_timeout_s=60.0)
    with (
        connect(address, token=token) as fleet,
        fleet.lease(ttl=3600.0) as lease,
        lease.session() as session,
    ):
        session.upload([code])
        sys.stdout.write("held\n")
        sys.stdout.flush()
        list(session.run_batch([Run(loop, plan, 0, want_output=False)]))


@contextlib.contextmanager
def _holder(address: str, token: str, folder: Path) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, __file__, "hold", address, token, str(folder)]
    with subprocess.Popen(
        until_we_end(*command), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as made:
        try:
            if made.stdout is None or made.stdout.readline() != "held\n":
                raise InternalError("the holder has no device")
            time.sleep(0.5)  # its kernel runs
            yield made
        finally:
            made.kill()


def _free_s(fleet: Fleet) -> float:
    """In how many seconds the device can be lent again."""
    begin = time.perf_counter()
    while not fleet.devices()[0].grantable:
        if time.perf_counter() - begin > _LIMIT_S:
            raise InternalError(f"the device is not free: {fleet.devices()[0]}")
        time.sleep(_LOOK_S)
    return time.perf_counter() - begin


def _gone(folder: Path, rounds: int) -> tuple[list[float], list[float]]:
    """Seconds until the device is free: after `kill -9`, and after the token was revoked."""
    killed: list[float] = []
    revoked: list[float] = []
    with real_fleet(folder, cores_for(1)) as (fleet, address):
        for _ in range(rounds):
            _, token = _token(fleet)
            with _holder(address, token, folder) as holder:
                holder.kill()
                killed.append(_free_s(fleet))
            name, token = _token(fleet)
            with _holder(address, token, folder):
                fleet.command("token.revoke", id=name)
                revoked.append(_free_s(fleet))
    return killed, revoked


def measure(quick: bool) -> Part:  # noqa: FBT001  # as all parts of fleet.py
    """The crowd, where there is an address for it, and holders that are gone."""
    figures: list[Figure] = []
    rows: list[Row] = []
    notes: list[str] = []
    with tempfile.TemporaryDirectory(prefix="lw-") as name:
        folder = Path(name)
        address = own_address()
        if address:
            harness.progress(f"{CLIENTS} clients come at once from {address}")
            times = _crowd(folder / "crowd", address)
            figures.append(
                figure(f"{CLIENTS} clients at once, all served", max(times), "s", at_most=CROWD_S)
            )
            rows.append(Row("clients at once, served, p50", statistics.median(times), "s"))
        else:
            notes.append("this machine has no address but loopback: no crowd came")
        harness.progress("holders are killed, and their tokens revoked")
        killed, revoked = _gone(folder / "gone", 2 if quick else 5)
    figures += (
        figure("device free after kill -9 of its holder", max(killed), "s", at_most=KILLED_S),
        figure("device free after its token was revoked", max(revoked), "s", at_most=REVOKED_S),
    )
    rows += (
        Row("free after kill -9, p50", statistics.median(killed), "s"),
        Row("free after a token was revoked, p50", statistics.median(revoked), "s"),
    )
    return Part(tuple(figures), tuple(rows), tuple(notes))


def main(words: Sequence[str]) -> int:
    """Be a holder, or measure."""
    match list(words):
        case ["hold", address, token, folder]:
            hold(address, token, Path(folder))
            return 0
        case _:
            return run_alone("fleet_crowd", __doc__, measure, words)


if __name__ == "__main__":
    sys.exit(harness.run(main))
