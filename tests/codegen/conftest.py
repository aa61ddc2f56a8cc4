"""Kernels to object code in a process of its own, since LLVM aborts on some errors; run here."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor

import numpy as np
import pytest

from loopwright.codegen.artifact import Artifact, Param
from loopwright.codegen.llvm import emit
from loopwright.codegen.object_code import assemble
from loopwright.ir import dtype as dt
from loopwright.ir.expr import Buffer, Expr, Load, Var
from loopwright.ir.stmt import For, If, Kernel, LoopKind, Stmt, Store
from loopwright.layout import Layout
from loopwright.runtime.cpu import CpuDevice, aligned_copy
from loopwright.target import Target, host

Compile = Callable[..., Artifact]
Run = Callable[..., tuple[np.ndarray, ...]]


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
def run(compile_kernel: Compile, devices: dict[int, CpuDevice]) -> Run:
    """The outputs of a kernel on `arrays`: its inputs, then what its outputs hold before."""

    def run(
        kernel: Kernel, *arrays: np.ndarray, target: Target | None = None, threads: int = 1
    ) -> tuple[np.ndarray, ...]:
        module = devices[threads].load(compile_kernel(kernel, target))
        copies = [aligned_copy(np.array(a)) for a in arrays]
        module.call(*copies)
        return tuple(copies[len(copies) - kernel.n_outputs :])

    return run


@pytest.fixture(scope="session")
def mapped(run: Run) -> Callable[..., list[np.ndarray]]:
    """`fn` of the elements of some arrays, by a scalar loop and by masked vectors of 16 lanes."""

    def mapped(
        fn: Callable[..., Expr],
        *arrays: np.ndarray,
        out: dt.DType = dt.F32,
        target: Target | None = None,
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
        found: list[np.ndarray] = []
        for loops in (scalar, vector):
            kernel = Kernel("mapped", (*inputs, result), 1, loops)
            found += run(kernel, *arrays, empty, target=target)
        return found

    return mapped


def _dtype(array: np.ndarray) -> dt.DType:
    return next(t for t in dt.ALL if t.numpy == array.dtype)
