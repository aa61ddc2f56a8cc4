"""Kernels to object code in a process of its own, since LLVM aborts on some errors; run here."""

from __future__ import annotations

import functools
import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor

import aarch64
import numpy as np
import pytest
from c_kernels import compiled, needs_c_compiler
from machines import presets_to_run, runs_here

from loopwright.codegen.artifact import Artifact, Param
from loopwright.codegen.llvm.emit import emit
from loopwright.codegen.llvm.object_code import assemble
from loopwright.ir import dtype as dt
from loopwright.ir.expr import Buffer, Expr, Load, Var
from loopwright.ir.kernel import Kernel
from loopwright.ir.stmt import For, If, LoopKind, Stmt, Store
from loopwright.layout import Layout
from loopwright.runtime.cpu.kernel import CpuDevice, aligned_copy
from loopwright.runtime.cpu.native import SYMBOLS, runtime_object
from loopwright.target.host import host
from loopwright.target.presets import PRESETS
from loopwright.target.union import Target

Compile = Callable[..., Artifact]
Run = Callable[..., tuple[np.ndarray, ...]]
Mapped = Callable[..., list[np.ndarray]]


@pytest.fixture(scope="session")
def compiler() -> Iterator[ProcessPoolExecutor]:
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        yield pool


@pytest.fixture(scope="session")
def compile_kernel(compiler: ProcessPoolExecutor) -> Compile:
    def compile_kernel(kernel: Kernel, target: Target | None = None) -> Artifact:
        target = host() if target is None else target
        params = tuple(Param(b.name, b.dtype, b.shape, Layout.plain(1)) for b in kernel.params)
        return compiler.submit(assemble, emit(kernel, params, target), target).result()

    return compile_kernel


@pytest.fixture(scope="session")
def devices() -> Iterator[dict[int, CpuDevice]]:
    found = {threads: CpuDevice(threads) for threads in (1, 2)}
    yield found
    for device in found.values():
        device.close()


@pytest.fixture(scope="session")
def emulated(tmp_path_factory: pytest.TempPathFactory) -> Iterator[aarch64.Emulated]:
    """A process that runs AArch64 code; for tests that are marked with `needs_emulator`."""
    found = aarch64.Emulated(tmp_path_factory.mktemp("emulated"))
    yield found
    found.close()


@pytest.fixture(scope="session")
def run_emulated(
    emulated: aarch64.Emulated, tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., tuple[np.ndarray, ...]]:
    """The outputs of an artifact for AArch64 on `arrays`, linked with the native runtime."""
    runtime = runtime_object(tmp_path_factory.mktemp("cache"), "aarch64")

    def run_emulated(
        artifact: Artifact, arrays: Sequence[np.ndarray], *, threads: int = 1, spin: int = 2000
    ) -> tuple[np.ndarray, ...]:
        with emulated.link([artifact.code, runtime], (artifact.entry, *SYMBOLS)) as code:
            return emulated.run(code, artifact, arrays, threads=threads, spin=spin)

    return run_emulated


@pytest.fixture(scope="session")
def run(
    compile_kernel: Compile, devices: dict[int, CpuDevice], request: pytest.FixtureRequest
) -> Run:
    """The outputs of a kernel on `arrays`: its inputs, then what its outputs hold before."""

    def run(
        kernel: Kernel,
        *arrays: np.ndarray,
        target: Target | None = None,
        threads: int = 1,
    ) -> tuple[np.ndarray, ...]:
        artifact = compile_kernel(kernel, target)
        if target is aarch64.TARGET and not runs_here(aarch64.PRESET):
            emulate: Run = request.getfixturevalue("run_emulated")
            return emulate(artifact, arrays, threads=threads)
        module = devices[threads].module(artifact)
        copies = [aligned_copy(np.array(a)) for a in arrays]
        module.call(*copies)
        return tuple(copies[len(copies) - kernel.n_outputs :])

    return run


@pytest.fixture(
    params=[*presets_to_run("cpu", aarch64.PRESET), pytest.param("c", marks=needs_c_compiler)]
)
def mapped(mapped_for: Mapped, request: pytest.FixtureRequest) -> Mapped:
    """`mapped_for` this machine, for one of the other architecture, and by way of C."""
    if request.param == "c":
        return functools.partial(mapped_for, language="c")
    target = None if request.param == "cpu" else PRESETS[request.param]
    return functools.partial(mapped_for, target=target)


@pytest.fixture(scope="session")
def by_way_of_c(devices: dict[int, CpuDevice]) -> Callable[..., list[np.ndarray]]:
    """The output of each kernel, all compiled from one C file."""

    def by_way_of_c(kernels: Sequence[Kernel], arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
        params = tuple(Param(b.name, b.dtype, b.shape, Layout.plain(1)) for b in kernels[0].params)
        found = []
        for artifact in compiled([(kernel, params) for kernel in kernels], host()):
            copies = [aligned_copy(np.array(array)) for array in arrays]
            devices[1].module(artifact).call(*copies)
            found.append(copies[-1])
        return found

    return by_way_of_c


@pytest.fixture(scope="session")
def mapped_for(run: Run, by_way_of_c: Callable[..., list[np.ndarray]]) -> Mapped:
    """`fn` of the elements of some arrays, by a scalar loop and by masked vectors of 16 lanes."""

    def mapped_for(
        fn: Callable[..., Expr],
        *arrays: np.ndarray,
        out: dt.DType = dt.F32,
        target: Target | None = None,
        language: str = "llvm",
    ) -> list[np.ndarray]:
        n = arrays[0].size
        inputs = [Buffer(f"a{i}", _dtype(a), (n,)) for i, a in enumerate(arrays)]
        result = Buffer("result", out, (n,))

        def store(index: Expr) -> Stmt:
            return Store(result, (index,), fn(*(Load(b, (index,)) for b in inputs)))

        i, lane = Var("i"), Var("lane")
        scalar = For(i, n, LoopKind.SERIAL, store(i))
        index = i * 16 + lane
        body = For(lane, 16, LoopKind.VECTORIZED, If(index < n, store(index)))
        vector = For(i, -(-n // 16), LoopKind.SERIAL, body)
        empty = np.zeros(n, out.numpy)
        kernels = [
            Kernel(name, (*inputs, result), 1, loops)
            for name, loops in (("scalar", scalar), ("vector", vector))
        ]
        if language == "c":
            return by_way_of_c(kernels, [*arrays, empty])
        found: list[np.ndarray] = []
        for kernel in kernels:
            found += run(kernel, *arrays, empty, target=target)
        return found

    return mapped_for


def _dtype(array: np.ndarray) -> dt.DType:
    return next(t for t in dt.ALL if t.numpy == array.dtype)
