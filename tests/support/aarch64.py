"""Code for AArch64 run here, in qemu: linked by the linker of the runtime, or by that of GNU."""

from __future__ import annotations

import shutil
import struct
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from loopwright.codegen.artifact import Artifact
from loopwright.errors import EnvironmentFailure
from loopwright.layout import Array
from loopwright.runtime.cpu import native_ir
from loopwright.runtime.object import elf
from loopwright.runtime.object.image import Image
from loopwright.target.presets import PRESETS

PRESET = "aarch64-neon"
TARGET = PRESETS[PRESET]
QEMU, COMPILER = "qemu-aarch64-static", "aarch64-linux-gnu-gcc"
MISSING = tuple(tool for tool in (QEMU, COMPILER) if shutil.which(tool) is None)
NEEDED = (
    f"running AArch64 code here needs {' and '.join(MISSING)}: "
    "install qemu-user-static and gcc-aarch64-linux-gnu"
)
needs_emulator = pytest.mark.skipif(bool(MISSING), reason=NEEDED)
OUTSIDE = (
    *(name + kind for name in ("exp", "log", "sin", "cos", "tanh", "erf") for kind in ("", "f")),
    *("pow", "powf", "fmod", "fmodf", "memcpy", "memmove", "memset"),
    *("syscall", "mmap", "munmap", "clock_gettime", "sigaction", "raise"),
)
"""What code that is linked may use of the C library."""
_POOL = ("THREADS", "SPIN", "SLOTS", "SLOT_BYTES")
_WORD = struct.Struct("<Q")


@dataclass(frozen=True, slots=True)
class Code:
    """Code in the emulator; `addresses` by symbol."""

    base: int
    size: int
    addresses: Mapping[str, int]


class Emulated:
    """A process in the emulator that maps and calls code; see `emulated.c`.

    With `objects` the linker of GNU puts them into the program, and `linked` has the addresses of
    `symbols` of theirs. A process that dies raises AssertionError, and the next call starts anew.
    """

    def __init__(
        self, directory: Path, objects: Sequence[bytes] = (), symbols: Sequence[str] = ()
    ) -> None:
        self._program = _build(directory, objects, symbols)
        self._names = (*OUTSIDE, *symbols)
        self._symbols = symbols
        self._process: subprocess.Popen[bytes] | None = None
        self._addresses: dict[str, int] = {}

    @property
    def linked(self) -> Code:
        """The program itself with the symbols that were asked for."""
        self._running()
        return Code(0, 0, {name: self._addresses[name] for name in self._symbols})

    @contextmanager
    def link(self, objects: Sequence[bytes], symbols: Sequence[str]) -> Iterator[Code]:
        """`objects` in memory, linked as `runtime/object/link.py` does on a machine like that."""
        image = Image([elf.parse(code) for code in objects])
        assert image.machine == elf.AARCH64
        image.require(symbols)
        (base,) = self._words(ord("M"), image.size)
        memory = bytearray(image.size)
        image.write(memoryview(memory), base, self._find)
        regions = [word for r in image.regions for word in (r.start, r.size, r.protection)]
        size = max(-(-(r.start + r.size) // 4096) * 4096 for r in image.regions if r.size)
        self._words(ord("W"), base, len(image.regions), *regions, memory[:size])
        yield Code(base, image.size, {name: image.address(name, base) for name in symbols})
        self._words(ord("U"), base, image.size)

    def call(self, address: int, *arguments: int) -> int:
        """The int64 that the function at `address` returns for int64 arguments, six at most."""
        given = [a % (1 << 64) for a in (*arguments, *[0] * 6)][:6]
        (result,) = self._words(ord("A"), address, *given)
        return result - (result >> 63 << 64)

    def run(
        self,
        code: Code,
        artifact: Artifact,
        arrays: Sequence[Array],
        *,
        threads: int = 1,
        spin: int = 2000,
    ) -> tuple[Array, ...]:
        """The outputs of a kernel in `code`, which also has the runtime, on all its arguments."""
        where = code.addresses
        workspace = artifact.workspace_shared + threads * artifact.workspace_per_thread
        first = len(arrays) - artifact.n_outputs
        runtime = [where[name] for name in ("lw_parallel", "lw_worker", "lw_stop")]
        self._send(
            *(ord("K"), where[artifact.entry], *runtime, threads, spin, workspace),
            *(len(arrays), first, *(a.nbytes for a in arrays)),
            *(np.ascontiguousarray(a).tobytes() for a in arrays),
        )
        return tuple(
            np.frombuffer(self._receive(a.nbytes), a.dtype).reshape(a.shape).copy()
            for a in arrays[first:]
        )

    def close(self) -> None:
        """End the process."""
        if self._process is not None:
            self._process.communicate()
            self._process = None

    def _find(self, symbol: elf.Symbol) -> int:
        if symbol.name not in self._addresses:
            raise EnvironmentFailure(f"{symbol.name} is not among what emulated.c gives")
        return self._addresses[symbol.name]

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            self._process = subprocess.Popen(
                [QEMU, self._program],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
            )
            words = self._receive(_WORD.size * len(self._names))
            found = (word for (word,) in _WORD.iter_unpack(words))
            self._addresses = dict(zip(self._names, found, strict=True))
        return self._process

    def _words(self, *parts: int | bytes | bytearray) -> tuple[int, ...]:
        self._send(*parts)
        return _WORD.unpack(self._receive(_WORD.size))

    def _send(self, *parts: int | bytes | bytearray) -> None:
        process = self._running()
        assert process.stdin is not None
        message = b"".join(_WORD.pack(p) if isinstance(p, int) else bytes(p) for p in parts)
        try:
            process.stdin.write(message)
            process.stdin.flush()
        except BrokenPipeError:
            self._died()

    def _receive(self, size: int) -> bytes:
        process = self._running() if self._process is None else self._process
        assert process.stdout is not None
        data = process.stdout.read(size)
        if len(data) < size:
            self._died()
        return data

    def _died(self) -> None:
        process, self._process = self._process, None
        assert process is not None
        _, said = process.communicate()
        raise AssertionError(f"the code ended the process ({process.returncode}): {said.decode()}")


def _build(directory: Path, objects: Sequence[bytes], symbols: Sequence[str]) -> Path:
    """The program of `emulated.c` with `objects` in it."""
    folder = Path(tempfile.mkdtemp(dir=directory))
    files = []
    for number, code in enumerate(objects):
        files.append(folder / f"{number}.o")
        files[-1].write_bytes(code)
    program = folder / "emulated"
    defined = [
        f"-DOUTSIDE(X)={' '.join(f'X({name})' for name in OUTSIDE)}",
        f"-DGIVEN(X)={' '.join(f'X({name})' for name in symbols)}",
        *(f"-DLAYOUT_{name}={getattr(native_ir, name)}" for name in _POOL),
    ]
    source = Path(__file__).with_name("emulated.c")
    command = [COMPILER, "-O1", "-Wall", "-Wextra", "-Werror", "-static", *defined, source, *files]
    done = subprocess.run(
        [*command, "-lm", "-lpthread", "-o", program], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return program
