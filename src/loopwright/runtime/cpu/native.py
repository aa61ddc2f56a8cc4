"""The native runtime in memory: compiled once per machine, cached on disk, linked per process.

The IR of `native_ir` is compiled in a short-lived process, because an LLVM error ends the process
it happens in. The object is kept in `cache_dir` under a hash of its inputs, after the SHA-256 of
the object, so that a torn or altered file is recompiled and never linked.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import hashlib
import os
import platform
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from loopwright import settings
from loopwright.errors import EnvironmentFailure, UnsupportedError
from loopwright.runtime.cpu import native_ir
from loopwright.runtime.object.link import Linked, link
from loopwright.runtime.object.symbols import RUNTIME_SYMBOLS

SYMBOLS = (
    "lw_serial",
    "lw_parallel",
    "lw_worker",
    "lw_stop",
    "lw_repeat",
    "lw_watch",
    "lw_on_fault",
)
"""What the native runtime defines, in the order of `Native`."""
_DIGEST_BYTES = 32
_COMPILE_TIMEOUT_S = 60.0
_MESSAGE_CHARS = 300
# Reads IR, writes an object; no pass runs, since the text is already in its final form.
_COMPILE = """
import sys
import llvmlite.binding as llvm
llvm.initialize_all_targets()
llvm.initialize_all_asmprinters()
llvm.initialize_native_asmparser()  # a module may have inline assembly
triple = sys.argv[2]
target = llvm.Target.from_triple(triple) if triple else llvm.Target.from_default_triple()
machine = target.create_target_machine(
    features=sys.argv[1], opt=2, reloc="pic", codemodel="small"
)
module = llvm.parse_assembly(sys.stdin.read())
module.verify()
sys.stdout.buffer.write(machine.emit_object(module))
"""

Entry = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p)
"""A kernel's entry point as ctypes calls it, with the interpreter lock released."""


@dataclass(frozen=True, slots=True)
class Native:
    """Addresses of the functions of `native_ir`; `code` keeps them alive."""

    code: Linked
    serial: int
    parallel: int
    worker: int
    stop: int
    repeat: int
    watch: int
    on_fault: int


def default_cache_dir() -> Path:
    """Where compiled code is kept by default."""
    return settings.from_environment().cache_dir


@functools.lru_cache(maxsize=4)
def native(cache_dir: Path | None = None) -> Native:
    """The native runtime, linked once per process.

    Raises: UnsupportedError on a machine it is not written for; EnvironmentFailure if it cannot
    be made.
    """
    return linked_runtime(runtime_object(cache_dir))


def linked_runtime(code: bytes) -> Native:
    """The native runtime whose object is `code`, mapped; none of its instructions runs.

    Raises: EnvironmentFailure if it is broken, lacks a function, or needs what it may not use.
    """
    return natives(link(code, SYMBOLS, RUNTIME_SYMBOLS))


def natives(code: Linked) -> Native:
    """The functions of the runtime in `code`, which was linked with `SYMBOLS`."""
    return Native(code, *(code[name] for name in SYMBOLS))


def runtime_object(cache_dir: Path | None = None, arch: str = "") -> bytes:
    """The object code of the native runtime for `arch`; this machine's by default.

    Raises: UnsupportedError on a machine it is not written for; EnvironmentFailure if it cannot
    be made.
    """
    text, arch = _runtime_text(arch)
    directory = default_cache_dir() if cache_dir is None else cache_dir
    return object_code(text, directory, arch=arch)


def runtime_path(cache_dir: Path) -> Path:
    """Where `runtime_object` keeps what it makes for this machine. Raises: UnsupportedError."""
    text, arch = _runtime_text("")
    return _cached_at(text, cache_dir, (), arch)


def _runtime_text(arch: str) -> tuple[str, str]:
    """The module of the runtime for `arch`, and the name that it is compiled for: "" is here."""
    arch = arch or _machine()
    if arch not in native_ir.ARCHITECTURES or sys.platform != "linux":
        known = ", ".join(native_ir.ARCHITECTURES)
        raise UnsupportedError(
            f"no native runtime for {arch} on {sys.platform}; it is there for {known} on linux"
        )
    return native_ir.text(arch), "" if arch == _machine() else arch


def _machine() -> str:
    return {"arm64": "aarch64"}.get(platform.machine(), platform.machine())


def object_code(ir: str, cache_dir: Path, features: tuple[str, ...] = (), arch: str = "") -> bytes:
    """The object of the module `ir` for `arch` or this machine, from `cache_dir` if cached.

    `features` are LLVM's names of what it may use beyond the architecture's baseline. A directory
    that cannot be written only costs a compilation per process.
    Raises: EnvironmentFailure if the compilation fails.
    """
    path = _cached_at(ir, cache_dir, features, arch)
    kept = _read(path)
    if kept is not None:
        return kept
    code = compile_ir(ir, features, arch)
    with contextlib.suppress(OSError):
        _write(path, code)
    return code


def _cached_at(ir: str, cache_dir: Path, features: tuple[str, ...], arch: str) -> Path:
    identity = f"{arch or platform.machine()} {','.join(features)}\n{ir}"
    return cache_dir / f"native-{hashlib.sha256(identity.encode()).hexdigest()[:24]}.o"


def compile_ir(ir: str, features: tuple[str, ...] = (), arch: str = "") -> bytes:
    """The object of the module `ir` for `arch` or this machine, compiled in a process of its own.

    Raises: EnvironmentFailure with the end of what the compiler said.
    """
    wanted = ",".join(f"+{name}" for name in features)
    triple = f"{arch}-unknown-linux-gnu" if arch else ""
    command = [sys.executable, "-P", "-c", _COMPILE, wanted, triple]
    try:
        done = subprocess.run(
            command, input=ir.encode(), capture_output=True, timeout=_COMPILE_TIMEOUT_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as e:
        raise EnvironmentFailure(f"cannot compile native code with {sys.executable}: {e}") from e
    if done.returncode != 0:
        said = " ".join(done.stderr.decode(errors="replace").split())[-_MESSAGE_CHARS:]
        raise EnvironmentFailure(f"compiling native code failed ({done.returncode}): {said}")
    return done.stdout


def _read(path: Path) -> bytes | None:
    """The object cached at `path`; None if there is none or it was altered."""
    try:
        data = path.read_bytes()
    except OSError:
        return None
    digest, code = data[:_DIGEST_BYTES], data[_DIGEST_BYTES:]
    return code if hashlib.sha256(code).digest() == digest else None


def _write(path: Path, code: bytes) -> None:
    """Cache `code` at `path`; a reader sees all of it or nothing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".native-")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(hashlib.sha256(code).digest() + code)
        Path(temporary).replace(path)
    except OSError:
        Path(temporary).unlink(missing_ok=True)
        raise
