"""An agent and a client of it in a process of some user: what becomes of hostile kernels there.

    python hostile_agent.py CACHE_DIR TIER THREADS own|brought

Reads requests and writes answers, one JSON object per line. Other tests of the agent have it in
their own process; this one may belong to another user than the tests.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import msgspec
import numpy as np
from agents import Client, connect, item, options, running, ticket
from fleet_tracker import site

from loopwright.fleet.wire.messages import Configure, Configured, RunBatch
from loopwright.fleet.words import RUNTIME, Tier
from loopwright.runtime.cpu.native import runtime_object

NOBODY = 65534
SOCKET_NAME = "tracker.sock"
_TESTS = Path(__file__).resolve().parents[1]


class Wanted(msgspec.Struct):
    """Upload `code`, and run `entry` of it unless that is empty; `runtime`: put it in place."""

    code: bytes = b""
    entry: str = ""
    limit_ms: int = 5000
    memory: int = 256 << 20
    runtime: bytes = b""
    threads: int = 1
    knock: bytes = b""  # sent to the tracker's socket by this process itself, unconfined


class Came(msgspec.Struct):
    """What came of it; `told` is the first element of the output where there is one. `tokens` are
    the roles of those that a tracker of the same user, on the socket SOCKET_NAME, has issued.
    """

    status: str = ""
    tier: int = -1
    detail: str = ""
    told: float = -1.0
    ns: tuple[float, ...] = ()
    tokens: tuple[str, ...] = ()


async def _serve(folder: Path, tier: Tier, threads: int, *, brought: bool) -> None:
    loop = asyncio.get_running_loop()
    async with (
        site(address=f"unix://{folder}/{SOCKET_NAME}") as here,
        running(options(folder, tier=tier), threads=threads) as agent,
    ):
        client = await connect(agent, ticket(agent, 1, ttl_ms=3_600_000))
        if brought:  # the same functions, but not the host's own
            await _place(client, runtime_object(folder) + b"\0")
        _say(Came("ready", client.opened.tier))
        while line := await loop.run_in_executor(None, sys.stdin.readline):
            wanted = msgspec.json.decode(line, type=Wanted)
            if wanted.knock:
                await _knock(folder / SOCKET_NAME, wanted.knock)
            came = await _answer(client, wanted)
            rows = here.tracker.directory.tokens.values()
            came.tokens = tuple(str(row.principal.role.name) for row in rows)
            _say(came)


async def _knock(path: Path, content: bytes) -> None:
    """Send bytes to a socket, and wait for two answers."""
    reader, writer = await asyncio.open_unix_connection(path)
    writer.write(content)
    await writer.drain()
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(1.0):
            await reader.read(1 << 16)
            await reader.read(1 << 16)
    writer.close()


async def _answer(client: Client, wanted: Wanted) -> Came:
    if wanted.runtime:
        await _place(client, wanted.runtime)
    if not wanted.entry:
        return Came("placed")
    await client.upload(wanted.code)
    run = item(
        wanted.code,
        wanted.entry,
        want_output=True,
        run_timeout_ms=wanted.limit_ms,
        run_memory=wanted.memory,
        threads=wanted.threads,
    )
    client.link.send(RunBatch((run,)))
    result, output = await client.result()
    told = float(np.nan_to_num(np.frombuffer(output, np.float32)[0])) if output else -1.0
    return Came(result.status, result.tier, result.detail, told, result.ns)


async def _place(client: Client, runtime: bytes) -> None:
    digest = await client.upload(runtime)
    answer = await client.ask(Configure({RUNTIME: digest.hex()}))
    assert isinstance(answer, Configured), answer


def _say(answer: Came) -> None:
    sys.stdout.write(msgspec.json.encode(answer).decode() + "\n")
    sys.stdout.flush()


# --- the side of the tests ---


@dataclass(frozen=True, slots=True)
class HostileAgent:
    """Such a process, asked from a test."""

    tier: int
    folder: Path
    to: IO[str]
    back: IO[str]

    def ask(self, **wanted: Any) -> Came:  # noqa: ANN401  # the fields of Wanted
        """What comes of a request."""
        self.to.write(msgspec.json.encode(Wanted(**wanted)).decode() + "\n")
        self.to.flush()
        return _heard(self.back)


def _heard(back: IO[str]) -> Came:
    line = back.readline()
    if not line:
        raise AssertionError("the agent is gone")
    return msgspec.json.decode(line, type=Came)


def python_of(user: int) -> str | None:
    """An interpreter that `user` may start with the modules of this one; None if there is none."""
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    for place in (sys.executable, f"/usr/bin/{version}", f"/usr/local/bin/{version}"):
        command = [place, "-c", "import msgspec, numpy, agents, hostile_kernels"]
        try:
            done = subprocess.run(
                command, env=_environment(), capture_output=True, check=False, cwd="/", **_as(user)
            )
        except OSError:
            continue
        if done.returncode == 0:
            return place
    return None


def _as(user: int) -> dict[str, Any]:
    if user == os.getuid():
        return {}
    return {"user": user, "group": user, "extra_groups": []}


def _environment() -> dict[str, str]:
    packages = Path(np.__file__).resolve().parents[1]
    places = (_TESTS.parent / "src", _TESTS / "support", _TESTS.parent / "benchmarks", packages)
    return {"PYTHONPATH": os.pathsep.join(map(str, places)), "PATH": "/usr/bin:/bin:/usr/sbin"}


@contextmanager
def hostile_agent(
    user: int, tier: Tier, *, brought: bool, threads: int = 1
) -> Iterator[HostileAgent]:
    """An agent of `user` in a process of its own, with a session of its only device."""
    python = python_of(user)
    assert python is not None
    with tempfile.TemporaryDirectory(prefix="hostile-", dir="/tmp") as name:
        folder = Path(name) / "cache"
        folder.mkdir()
        Path(name).chmod(0o755)
        os.chown(folder, user, -1)
        process = subprocess.Popen(
            [
                python,
                __file__,
                str(folder),
                str(int(tier)),
                str(threads),
                "brought" if brought else "own",
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=_environment(),
            cwd=name,
            **_as(user),
        )
        assert process.stdin is not None
        assert process.stdout is not None
        with process:
            try:
                ready = _heard(process.stdout)
                yield HostileAgent(ready.tier, folder, process.stdin, process.stdout)
                process.stdin.close()
                process.wait(30.0)
            finally:
                process.kill()


if __name__ == "__main__":
    _folder, _tier, _threads, _whose = sys.argv[1:]
    _brought = _whose == "brought"
    asyncio.run(_serve(Path(_folder), Tier(int(_tier)), int(_threads), brought=_brought))
