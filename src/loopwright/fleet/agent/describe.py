"""What this machine is, found out by a short process that imports the compiler, and kept.

The agent itself never imports that much: it asks once a machine and version, and reads the answer
from a file afterwards. A machine without a compiler has no native runtime unless one was kept.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import importlib.util
import os
import platform
import re
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from loopwright.errors import EnvironmentFailure
from loopwright.version import __version__

_TIMEOUT_S = 120.0
_SAID_CHARS = 300
# Run by the short process: prints a Machine as JSON.
_ASK = """
import sys
sys.path.insert(0, sys.argv[1])
from importlib.util import find_spec
from pathlib import Path
import msgspec
from loopwright.target.host import host
from loopwright.errors import EnvironmentFailure
from loopwright.records.device import fingerprint
from loopwright.runtime.cpu.canary import ENTRY
from loopwright.runtime.cpu.native import runtime_object
host = host()
try:
    runtime = runtime_object(Path(sys.argv[2]))
except EnvironmentFailure:
    if find_spec("llvmlite") is not None:
        raise
    runtime = b""
print(msgspec.json.encode({
    "target": str(host), "key": host.key, "arch": host.arch, "device": fingerprint(host),
    "runtime": runtime, "canary": ENTRY,
}).decode())
"""


class Machine(msgspec.Struct, frozen=True):
    """This machine: a target string, the key of that target, the fingerprint that records carry,
    the object code of its native runtime, empty where that cannot be made, and the name of the
    canary in runtimes.
    """

    target: str
    key: str
    arch: str
    device: str
    runtime: bytes
    canary: str

    def target_of(self, cores: Sequence[int]) -> str:
        """The target string of a device that has `cores` of this machine."""
        return re.sub(r"cores=\d+", f"cores={len(cores)}", self.target)


@dataclass(frozen=True, slots=True)
class _Place:
    """Where the answer is kept: under a name made of all that it depends on."""

    path: Path

    def read(self) -> Machine | None:
        with contextlib.suppress(OSError, msgspec.MsgspecError):
            return msgspec.json.decode(self.path.read_bytes(), type=Machine)
        return None

    def write(self, machine: Machine) -> None:
        with contextlib.suppress(OSError):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            handle, name = tempfile.mkstemp(dir=self.path.parent, prefix=".machine-")
            with os.fdopen(handle, "wb") as file:
                file.write(msgspec.json.encode(machine))
            Path(name).replace(self.path)


def known(cache_dir: Path) -> Machine | None:
    """What was found out before; None when that was another machine or version."""
    return _place(cache_dir).read()


async def describe(cache_dir: Path) -> Machine:
    """What this machine is.

    Raises: EnvironmentFailure when that cannot be found out.
    """
    place = _place(cache_dir)
    machine = place.read()
    if machine is None:
        machine = await _ask(cache_dir)
        place.write(machine)
    return machine


async def _ask(cache_dir: Path) -> Machine:
    root = str(Path(__file__).resolve().parents[3])
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-P", "-c", _ASK, root, str(cache_dir)),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(_TIMEOUT_S):
            out, err = await process.communicate()
    except BaseException as error:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()
        if isinstance(error, TimeoutError):
            raise EnvironmentFailure("finding out what this machine is took too long") from error
        raise
    if process.returncode != 0:
        said = " ".join(err.decode(errors="replace").split())[-_SAID_CHARS:]
        raise EnvironmentFailure(f"cannot find out what this machine is: {said}")
    try:
        return msgspec.json.decode(out, type=Machine)
    except msgspec.MsgspecError as error:
        raise EnvironmentFailure(f"cannot find out what this machine is: {error}") from error


def _place(cache_dir: Path) -> _Place:
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        text = ""
    words = sorted(set(re.findall(r"^(?:model name|flags|Features)\s*:.*$", text, re.MULTILINE)))
    affinity = len(os.sched_getaffinity(0))
    identity = "|".join(
        [
            __version__,
            sys.executable,
            str(importlib.util.find_spec("llvmlite") is not None),
            platform.machine(),
            str(os.cpu_count()),
            str(affinity),
            *words,
        ]
    )
    return _Place(cache_dir / f"machine-{hashlib.sha256(identity.encode()).hexdigest()[:16]}.json")
