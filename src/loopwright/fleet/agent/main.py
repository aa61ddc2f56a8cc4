"""The agent's command: `python -m loopwright.fleet.agent --tracker URL --join CODE`.

It is small on purpose: it imports neither the compiler nor the other commands, so that it runs on
boards and starts at once.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import faulthandler
import os
import secrets
import shlex
import shutil
import signal
import socket
import ssl
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from loopwright import settings
from loopwright.errors import ConfigError, LoopwrightError
from loopwright.fleet.agent import keyfile, watchdog
from loopwright.fleet.agent.agent import Agent
from loopwright.fleet.agent.options import (
    CANDIDATE_UID,
    AgentOptions,
    DeviceOptions,
    SessionLimits,
)
from loopwright.fleet.wire.address import Scheme, parse, require_safe_binding
from loopwright.fleet.wire.link import Link, dial
from loopwright.fleet.wire.listener import Listener
from loopwright.fleet.words import Tier

_ANYWHERE = ("0.0.0.0", "::")  # compared with, not bound
_OK = 0


@dataclass(frozen=True, slots=True)
class AgentCommand:
    """A parsed command line."""

    options: AgentOptions
    devices: tuple[DeviceOptions, ...]
    tracker: str
    listen: str
    advertise: tuple[str, ...]
    ca: Path | None
    tls: Path | None
    watchdog_s: float


def parser() -> argparse.ArgumentParser:
    """The parser of the command line."""
    made = argparse.ArgumentParser(
        "loopwright device serve", description="Serve this host's devices to a fleet."
    )
    add = made.add_argument
    add(
        "--tracker",
        metavar="URL",
        help="tls://host:port of the tracker, else LOOPWRIGHT_TRACKER, else this user's own; "
        "'' for none",
    )
    add("--join", metavar="CODE", default="", help="one-time code of a host that is new")
    add("--key-file", type=Path, metavar="FILE", help="where the key is kept once it has joined")
    add("--name", default=socket.gethostname(), help="of this host in the fleet")
    add("--listen", default="tcp://127.0.0.1:0", metavar="ADDRESS", help="where clients connect")
    add("--advertise", action="append", default=[], metavar="ADDRESS", help="how they reach it")
    add("--label", action="append", default=[], metavar="KEY=VALUE", help="of all its devices")
    add(
        "--device",
        action="append",
        default=[],
        metavar="NAME=CORES|KIND[:PLACE]",
        help="a device: a processor and its cores, as cpu0=2,3, or one of another kind and which "
        "of this host's, as gpu0=opencl:1 (default: a processor with all cores)",
    )
    add("--tier", type=int, choices=[0, 1, 2], default=1, help="how candidates are confined")
    add("--cache-dir", type=Path, metavar="DIR", help="for uploads and what is known of this host")
    add("--max-wall", type=float, default=60.0, metavar="S", help="longest run")
    add("--max-memory", type=int, default=8 << 30, metavar="BYTES", help="of one run")
    add("--max-blob", type=int, default=256 << 20, metavar="BYTES", help="of one upload")
    add("--blobs", type=int, default=4 << 30, metavar="BYTES", help="of all uploads kept")
    add("--drift", type=float, default=0.05, help="how far off a canary may be; 0 runs none")
    add("--signed-only", action="store_true", help="run only what a --builder has signed")
    add("--builder", action="append", default=[], metavar="KEY", help="a builder's public key")
    add("--ca", type=Path, metavar="FILE", help="who vouches for the tracker")
    add("--tls", type=Path, metavar="DIR", help="certificate to listen with")
    add(
        "--watchdog",
        type=float,
        default=60.0,
        metavar="S",
        help="end, with a traceback, when it hangs for so long; 0 never does",
    )
    add(
        "--power-hook",
        action="append",
        default=[],
        metavar="[NAME=]COMMAND",
        help="takes the power of a device (of all, without NAME) away and gives it back; run, at "
        "most each 5 minutes, when something on it cannot be killed",
    )
    return made


def read(
    arguments: Sequence[str],
    cache_dir: Path,
    cores: Sequence[int],
    tracker: str = "",
    ca: Path | None = None,
) -> AgentCommand:
    """The command line `arguments`, on a machine with these `cores`.

    Args:
        tracker: where it is when the command line does not say; empty for none.
        ca: who vouches for it then.

    Raises: ConfigError for one that makes no sense.
    """
    said = parser().parse_args(arguments)
    folder = said.cache_dir or cache_dir / "agent"
    key_file = said.key_file or folder / "agent.key"
    builders: tuple[bytes, ...] = ()
    if said.builder:
        from loopwright.fleet.security.signing import read_public

        builders = tuple(read_public(text) for text in said.builder)
    options = AgentOptions(
        said.name,
        folder,
        keyfile.read(key_file),
        said.join,
        tier=Tier(said.tier),
        limits=SessionLimits(said.max_wall, said.max_memory, said.max_blob, blobs=said.blobs),
        labels=_pairs("--label", said.label),
        drift=said.drift,
        signed_only=said.signed_only,
        builders=builders,
        key_file=key_file,
    )
    if said.signed_only and not builders:
        raise ConfigError("--signed-only without a --builder: nothing could ever run")
    devices = tuple(_devices(said.name, said.device, said.power_hook, cores))
    address = parse(said.listen)
    require_safe_binding(said.listen, authenticated=True, tls=address.scheme is Scheme.TLS)
    tracker = tracker if said.tracker is None else said.tracker
    ca = said.ca or ca
    if tracker and parse(tracker).scheme is Scheme.TLS and ca is None:
        raise ConfigError(f"{tracker}: give the CA that its certificate is checked with (--ca)")
    return AgentCommand(
        options,
        devices,
        tracker,
        listen=said.listen,
        advertise=tuple(said.advertise),
        ca=ca,
        tls=said.tls,
        watchdog_s=said.watchdog,
    )


def main(arguments: Sequence[str]) -> int:
    """Run an agent until it is told to stop; the exit status."""
    faulthandler.enable()
    try:
        found = settings.from_environment()
        cores = sorted(os.sched_getaffinity(0))
        tracker = found.tracker or found.own_tracker
        command = read(arguments, found.cache_dir, cores, tracker, found.ca)
        asyncio.run(serve(command))
    except LoopwrightError as error:
        sys.stderr.write(f"loopwright agent: {error}\n")
        return error.exit_code
    except KeyboardInterrupt:
        pass
    return _OK


async def serve(command: AgentCommand) -> None:
    """Run an agent until it is told to stop by SIGTERM or SIGINT.

    Raises: AuthError when the tracker refuses it; FleetError, ConfigError, EnvironmentFailure.
    """
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    agent = Agent(
        command.options,
        command.devices,
        time.monotonic,
        secrets.SystemRandom(),
        on_away=lambda why: _say("no tracker", agent, why=why),
        on_here=lambda: _say("tracker", agent, url=command.tracker),
        on_note=lambda device, what: _say("note", agent, device=device, words=what),
    )
    trust = _client_context(command.ca)
    tls = None
    if command.tls is not None:
        from loopwright.serving.tls import server_context

        tls = server_context(command.tls)
    async with Listener(command.listen, agent.serve_session, tls=tls) as listener:
        agent.addresses = command.advertise or _reachable(listener.addresses)
        _say("listening", agent, addresses=list(listener.addresses))
        async with agent:
            _keep_off(command.devices)
            _say("started", agent, devices=list(agent.devices))
            watching = asyncio.create_task(watchdog.watch(command.watchdog_s))
            try:
                await _until(stop, agent, command.tracker, trust)
            finally:
                watching.cancel()


async def _until(
    stop: asyncio.Event, agent: Agent, tracker: str, trust: ssl.SSLContext | None
) -> None:
    """Serve until told to stop, or until another agent has its devices."""
    waiting = asyncio.create_task(stop.wait())
    tasks: set[asyncio.Task[bool] | asyncio.Task[None]] = {waiting}
    if tracker:

        async def connect() -> Link:
            return await dial(tracker, tls=trust)

        tasks.add(asyncio.create_task(agent.run(connect)))
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _client_context(ca: Path | None) -> ssl.SSLContext | None:
    if ca is None:
        return None
    from loopwright.serving.tls import client_context

    return client_context(ca)


def _keep_off(devices: Sequence[DeviceOptions]) -> None:
    """Move this process and what it starts to cores that are not measured, if there are any."""
    measured = {core for device in devices for core in device.cores}
    others = os.sched_getaffinity(0) - measured
    if others:
        with contextlib.suppress(OSError):
            os.sched_setaffinity(0, others)


def _say(what: str, agent: Agent, **facts: object) -> None:
    """One line of JSON for a supervisor."""
    line = {"event": what, "pid": os.getpid(), "incarnation": agent.incarnation, **facts}
    sys.stdout.write(msgspec.json.encode(line).decode() + "\n")
    sys.stdout.flush()


def _reachable(addresses: Sequence[str]) -> tuple[str, ...]:
    """Addresses that others can use: the host's name in place of a wildcard."""
    found: list[str] = []
    for text in addresses:
        where = parse(text)
        if where.host in _ANYWHERE:
            text = f"{where.scheme.value}://{socket.gethostname()}:{where.port}"
        if text not in found:
            found.append(text)
    return tuple(found)


def _pairs(option: str, texts: Sequence[str]) -> Mapping[str, str]:
    pairs: dict[str, str] = {}
    for text in texts:
        key, found, value = text.partition("=")
        if not found or not key:
            raise ConfigError(f"{option} {text!r} is not KEY=VALUE")
        pairs[key] = value
    return pairs


def _devices(
    host: str, texts: Sequence[str], hooks: Sequence[str], cores: Sequence[int]
) -> list[DeviceOptions]:
    pairs = _pairs("--device", texts) or {"cpu0": ",".join(map(str, cores))}
    commands = _power_hooks(hooks, tuple(pairs))
    devices: list[DeviceOptions] = []
    for number, (name, text) in enumerate(pairs.items()):
        words = [] if text[:1].isalpha() else text.split(",")
        if not all(word.isdigit() for word in words):
            raise ConfigError(
                f"--device {name}={text}: write cores as 2,3, or a kind and a place as opencl:1"
            )
        kind, _, place = ("cpu", "", "") if words else text.partition(":")
        devices.append(
            DeviceOptions(
                f"{host}/{name}",
                tuple(int(word) for word in words),
                uid=CANDIDATE_UID + number,
                power_hook=commands[name],
                kind=kind,
                place=place,
            )
        )
    return devices


def _power_hooks(texts: Sequence[str], names: Sequence[str]) -> Mapping[str, tuple[str, ...]]:
    """The command of each device, empty without one."""
    found: dict[str, tuple[str, ...]] = {}
    for text in texts:
        name, _, command = text.partition("=")
        if name not in names:
            name, command = "", text
        if name in found:
            raise ConfigError(f"two --power-hook for {name or 'all devices'}; one can be run")
        found[name] = _program(command, names)
    return {name: found.get(name, found.get("", ())) for name in names}


def _program(text: str, names: Sequence[str]) -> tuple[str, ...]:
    """The words of a command, the first of which is a program that exists."""
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise ConfigError(f"--power-hook {text!r}: {error}") from error
    program = shutil.which(words[0]) if words else None
    if program is None:
        raise ConfigError(
            f"--power-hook {text!r}: there is no such program; write COMMAND for all devices, or "
            f"NAME=COMMAND with one of {', '.join(names)}"
        )
    return str(Path(program).absolute()), *words[1:]
