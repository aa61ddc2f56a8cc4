"""What this machine and its devices are, found out by short-lived processes.

The agent itself imports neither the compiler nor a device's library. It asks what the machine is
once per machine and version, and reads it from a file afterwards; a machine without a compiler has
no native runtime unless one was kept. A device is opened each time.
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
from typing import TypeVar

import msgspec

from loopwright.errors import EnvironmentFailure
from loopwright.version import __version__

_TIMEOUT_S = 120.0
_SAID_CHARS = 300
_ROOT = str(Path(__file__).resolve().parents[3])
_T = TypeVar("_T")
# What the processes run: each prints one of the structs below as JSON.
_ASK = """
import sys
sys.path.insert(0, sys.argv[1])
from importlib.util import find_spec
from pathlib import Path
import msgspec
from loopwright.target.host import host
from loopwright.errors import EnvironmentFailure
from loopwright.records.device import fingerprint
from loopwright.runtime.cpu.native import runtime_object, runtime_path
from loopwright.runtime.cpu.native_ir import CANARY
host = host()
try:
    runtime = runtime_object(Path(sys.argv[2]))
except EnvironmentFailure:
    if find_spec("llvmlite") is not None:
        raise
    runtime = b""
print(msgspec.json.encode({
    "target": str(host), "key": host.key, "arch": host.arch, "device": fingerprint(host),
    "runtime": runtime, "canary": CANARY, "runtime_file": str(runtime_path(Path(sys.argv[2]))),
}).decode())
"""
_ASK_DEVICE = """
import os, sys
root, *others = sys.argv[1].split(os.pathsep)
sys.path.insert(0, root)
sys.path += [path for path in others if path not in sys.path]
import hashlib
import msgspec
from loopwright.errors import LoopwrightError
from loopwright.runtime.devices import open_device
from loopwright.target.parse import parse
try:
    target = parse(sys.argv[2])
    device = open_device(target.kind)
    facts = device.facts()
    device.close()
except LoopwrightError as error:
    sys.exit(str(error))
identity = f"{facts.model}|{facts.units}|{facts.memory_bytes}|{target.key}"
digest = hashlib.sha256(identity.encode()).hexdigest()[:8]
print(msgspec.json.encode({
    "target": str(target), "key": target.key, "model": facts.model,
    "device": f"{target.kind}-{facts.units}u-{digest}",
}).decode())
"""


class HostDevice(msgspec.Struct, frozen=True):
    """A device of the runtime: its target string, the key of that target, what it says of itself
    and the fingerprint that records carry.
    """

    target: str
    key: str
    model: str
    device: str


class HostMachine(msgspec.Struct, frozen=True):
    """This machine: a target string, the key of that target, the fingerprint that records carry,
    the object code of its native runtime, empty where that cannot be made, the name of the canary
    in runtimes, and the file that keeps the native runtime.
    """

    target: str
    key: str
    arch: str
    device: str
    runtime: bytes
    canary: str
    runtime_file: str

    def target_of(self, cores: Sequence[int]) -> str:
        """The target string of a device that has `cores` of this machine."""
        return re.sub(r"cores=\d+", f"cores={len(cores)}", self.target)


@dataclass(frozen=True, slots=True)
class _Place:
    """Where the answer is kept: under a name derived from all that it depends on."""

    path: Path

    def read(self) -> HostMachine | None:
        with contextlib.suppress(OSError, msgspec.MsgspecError):
            return msgspec.json.decode(self.path.read_bytes(), type=HostMachine)
        return None

    def write(self, machine: HostMachine) -> None:
        with contextlib.suppress(OSError):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            handle, name = tempfile.mkstemp(dir=self.path.parent, prefix=".machine-")
            with os.fdopen(handle, "wb") as file:
                file.write(msgspec.json.encode(machine))
            Path(name).replace(self.path)


async def describe(cache_dir: Path) -> HostMachine:
    """What this machine is.

    Raises: EnvironmentFailure when that cannot be found out.
    """
    place = _place(cache_dir)
    machine = place.read()
    if machine is None:
        machine = await _ask(_ASK, (_ROOT, str(cache_dir)), "this machine", HostMachine)
        place.write(machine)
    return machine


async def describe_device(target: str) -> HostDevice:
    """What the runtime's device is that a target string names.

    Raises: EnvironmentFailure when that cannot be found out.
    """
    paths = os.pathsep.join([_ROOT, *(path for path in sys.path if Path(path).is_absolute())])
    return await _ask(_ASK_DEVICE, (paths, target), f"the device of {target!r}", HostDevice)


async def _ask(script: str, arguments: Sequence[str], of: str, answer: type[_T]) -> _T:
    """What a process that runs `script` prints, to find out what `of` is.

    Raises: EnvironmentFailure.
    """
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-P", "-c", script, *arguments),
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
            raise EnvironmentFailure(f"finding out what {of} is took too long") from error
        raise
    if process.returncode != 0:
        said = " ".join(err.decode(errors="replace").split())[-_SAID_CHARS:]
        raise EnvironmentFailure(f"cannot find out what {of} is: {said}")
    try:
        return msgspec.json.decode(out, type=answer)
    except msgspec.MsgspecError as error:
        raise EnvironmentFailure(f"cannot find out what {of} is: {error}") from error


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
