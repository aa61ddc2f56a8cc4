"""A tuned model in this process: one native call runs all of it.

    model = load_model(Path("resnet18.lw"))
    y = model(x)

Any number of threads may call a model: each has its own memory, and one at a time gets the workers
of the thread pool; the others run on their own thread.
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, TypeAlias

import numpy as np
import numpy.typing as npt

from loopwright.codegen.llvm import driver
from loopwright.errors import ConfigError, ShapeError
from loopwright.ir import dtype as dt
from loopwright.runtime import model_file
from loopwright.runtime.cpu.kernel import aligned_copy, aligned_empty
from loopwright.runtime.cpu.loader import require_object, require_runnable
from loopwright.runtime.cpu.native import SYMBOLS, native, natives
from loopwright.runtime.cpu.pool import ThreadPool
from loopwright.runtime.model_file import CallInfo, Manifest, Port
from loopwright.runtime.object.link import Linked, link_all
from loopwright.runtime.object.symbols import MODEL_SYMBOLS

Array: TypeAlias = npt.NDArray[np.generic]
Output: TypeAlias = npt.NDArray[Any]
"""An array of the model's dtype, which the type checker does not know."""

CONSTANTS, DRIVER, RUNTIME = "constants", "driver", "runtime"
"""Sections besides the kernels: packed weights, the model's driver, the native runtime."""
_POINTERS = [ctypes.c_void_p] * 6
_Run = ctypes.CFUNCTYPE(None, *_POINTERS)
_TimedRun = ctypes.CFUNCTYPE(None, *_POINTERS, ctypes.c_void_p)


@dataclass(frozen=True, slots=True)
class KernelTime:
    """A kernel of a model and the nanoseconds of each of its runs."""

    info: CallInfo
    ns: tuple[int, ...]

    @property
    def median_ns(self) -> float:
        """The median run."""
        return float(np.median(self.ns))


class Model:
    """A model that can be called with NumPy arrays; `close` (or `with`) ends its threads."""

    def __init__(
        self,
        manifest: Manifest,
        sections: Mapping[str, model_file.Bytes],
        threads: int | None = None,
    ) -> None:
        if threads is not None and threads < 1:
            raise ConfigError(f"threads={threads}: a model runs on at least 1")
        _require_runnable(manifest)
        self.manifest = manifest
        self.threads = manifest.threads if threads is None else threads
        self._sections = dict(sections)
        objects = [bytes(data) for name, data in sections.items() if name != CONSTANTS]
        entries = (driver.ENTRY, driver.TIMED_ENTRY)
        own = RUNTIME in sections  # older files have none
        wanted = (*entries, *SYMBOLS) if own else entries
        self._code: Linked = link_all(objects, wanted, MODEL_SYMBOLS)
        self._run = _Run(self._code[driver.ENTRY])
        self._timed = _TimedRun(self._code[driver.TIMED_ENTRY])
        self._constants = _aligned_bytes(sections.get(CONSTANTS, b""))
        runtime = natives(self._code) if own else native()
        self._pool = ThreadPool(self.threads, runtime, yields=True)
        self._local = threading.local()

    @property
    def name(self) -> str:
        """The name of the model."""
        return self.manifest.name

    @property
    def inputs(self) -> tuple[Port, ...]:
        """What a call takes, in order."""
        return self.manifest.inputs

    @property
    def outputs(self) -> tuple[Port, ...]:
        """What a call returns, in order."""
        return self.manifest.outputs

    def __call__(self, *arrays: Array, **named: Array) -> Output | tuple[Output, ...]:
        """The output (one array, or a tuple) for plain inputs, in order or by name.

        Raises: ShapeError for a wrong number, name, shape or dtype of an input.
        """
        results = self._outputs(self._given(arrays, named))
        return results[0] if len(results) == 1 else results

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Output]:
        """The outputs by name for the inputs by name. Raises: as `__call__`."""
        results = self._outputs(self._given((), inputs))
        return {port.name: array for port, array in zip(self.outputs, results, strict=True)}

    def profile(
        self, inputs: Mapping[str, Array], runs: int = 20, warmup: int = 2
    ) -> tuple[KernelTime, ...]:
        """The time of each kernel in `runs` runs after a few to warm up. Raises: as `__call__`."""
        if runs < 1:
            raise ConfigError(f"runs={runs}: a profile takes at least 1")
        given = self._given((), inputs)
        results = self._empty()
        stamps = np.zeros((runs, len(self.manifest.calls) + 1), np.int64)
        for run in range(-warmup, runs):
            pointers, kept = self._arguments(given, results)
            self._timed(*pointers, stamps[max(run, 0)].ctypes.data)
            del kept
        ns = np.diff(stamps, axis=1)
        return tuple(
            KernelTime(info, tuple(int(n) for n in ns[:, place]))
            for place, info in enumerate(self.manifest.calls)
        )

    def save(self, path: Path | str) -> None:
        """Write the model to a file. Raises: ModelError when it cannot be written."""
        contents = [(name, data) for name, data in self._sections.items()]
        model_file.write(Path(path), self.manifest, contents)

    def close(self) -> None:
        """End the pool's threads; the model still runs, on the calling thread."""
        self._pool.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _outputs(self, given: Sequence[Array]) -> tuple[Output, ...]:
        results = self._empty()
        pointers, kept = self._arguments(given, results)
        self._run(*pointers)
        del kept
        return results

    def _empty(self) -> tuple[Output, ...]:
        return tuple(aligned_empty(p.shape, dt.parse(p.dtype).numpy) for p in self.outputs)

    def _arguments(
        self, given: Sequence[Array], results: Sequence[Array]
    ) -> tuple[tuple[int, ...], object]:
        """The pointers of a call, and what must stay alive during it."""
        memory: Array | None = getattr(self._local, "memory", None)
        own = -(-self.manifest.memory // 64) * 64
        if memory is None:
            shared, each = self.manifest.workspace_shared, self.manifest.workspace_per_thread
            memory = aligned_empty((own + shared + self.threads * each + 64,), np.uint8)
            self._local.memory = memory
        base = int(memory.ctypes.data)
        io = (ctypes.c_void_p * (len(given) + len(results)))(
            *(a.ctypes.data for a in (*given, *results))
        )
        pointers = (
            ctypes.addressof(io),
            int(self._constants.ctypes.data),
            base,
            base + own,
            self._pool.parallel,
            self._pool.address,
        )
        return pointers, (io, memory)

    def _given(self, arrays: Sequence[Array], named: Mapping[str, Array]) -> list[Array]:
        """The inputs in order, checked, contiguous and aligned."""
        ports = self.inputs
        known = {port.name for port in ports}
        for name in named:
            if name not in known:
                raise ShapeError(
                    f"{self.name} has no input {name!r}; its inputs are {_described(ports)}"
                )
        if len(arrays) > len(ports):
            raise ShapeError(
                f"{self.name}: got {len(arrays)} inputs, takes {len(ports)}: {_described(ports)}"
            )
        found = []
        for place, port in enumerate(ports):
            both = place < len(arrays) and port.name in named
            if both or (place >= len(arrays) and port.name not in named):
                what = "is given twice" if both else "is missing"
                raise ShapeError(
                    f"{self.name}: input {port.name!r} {what}; it takes {_described(ports)}"
                )
            array = arrays[place] if place < len(arrays) else named[port.name]
            found.append(self._checked(port, array))
        return found

    def _checked(self, port: Port, given: Array) -> Array:
        array = np.asarray(given)
        wanted = dt.parse(port.dtype).numpy
        if array.shape != port.shape or array.dtype != wanted:
            raise ShapeError(
                f"{self.name}: input {port.name!r} is {array.dtype}{list(array.shape)}, "
                f"wanted {_describe(port)}"
            )
        return aligned_copy(array)


def load_model(path: Path | str, threads: int | None = None) -> Model:
    """The model in a file, ready to be called; nothing is compiled.

    Args:
        threads: how many it runs on; None: as many as it was tuned for.

    Raises: ModelError for a file that cannot be used; ConfigError when it is made for a CPU with
        features that this one lacks.
    """
    manifest, sections = model_file.read(Path(path))
    try:
        return Model(manifest, sections, threads)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error


def require_loadable(path: Path) -> Manifest:
    """The manifest of a file that `load_model` would load. Raises: as it does."""
    manifest, _ = model_file.read(path)
    try:
        _require_runnable(manifest)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error
    return manifest


def _require_runnable(manifest: Manifest) -> None:
    """Raise ConfigError unless the model's kernels run on this machine."""
    require_object(f"model {manifest.name}", manifest.kind, manifest.form)
    require_runnable(manifest.target, manifest.requires)


def _aligned_bytes(data: model_file.Bytes) -> Array:
    array = np.frombuffer(data, np.uint8) if len(data) else np.zeros(64, np.uint8)
    return aligned_copy(array)


def _described(ports: Sequence[Port]) -> str:
    return ", ".join(f"{port.name} {_describe(port)}" for port in ports)


def _describe(port: Port) -> str:
    return f"{port.dtype}{list(port.shape)}"
