from __future__ import annotations

import ctypes
from concurrent.futures import ProcessPoolExecutor

import numpy as np
import pytest
from assembly import assembly

from loopwright.codegen.llvm.object_code import object_bytes
from loopwright.codegen.llvm.probes import fma_probe, stream_probe
from loopwright.runtime.cpu.kernel import aligned_copy
from loopwright.runtime.object.link import link
from loopwright.target.host import host
from loopwright.target.presets import PRESETS


@pytest.mark.parametrize(
    ("preset", "register"),
    [("x86-64-avx512", "%zmm"), ("x86-64-avx2", "%ymm"), ("aarch64-neon", ".4s")],
)
def test_the_peak_kernel_is_nothing_but_wide_multiply_adds(
    compiler: ProcessPoolExecutor, preset: str, register: str
) -> None:
    probe = fma_probe(PRESETS[preset])
    text = compiler.submit(assembly, probe.text, PRESETS[preset]).result()
    fused = [line for line in text.splitlines() if "vfmadd" in line or "\tfmla" in line]
    lanes = PRESETS[preset].vector_bits // 32
    assert len(fused) == probe.flops_per_iteration // (2 * lanes)
    assert all(register in line and "(" not in line for line in fused)


def test_the_peak_kernel_runs(compiler: ProcessPoolExecutor) -> None:
    probe = fma_probe(host())
    linked = link(compiler.submit(object_bytes, probe.text, host()).result(), (probe.entry,))
    sink = aligned_copy(np.ones(16, np.float32))
    ctypes.CFUNCTYPE(None, ctypes.c_int64, ctypes.c_void_p)(linked[probe.entry])(
        3, sink.ctypes.data
    )
    assert sink[0] > 1


def test_the_stream_kernels_cover_the_arrays(compiler: ProcessPoolExecutor) -> None:
    probe = stream_probe(host())
    entries = (probe.read_entry, probe.triad_entry)
    linked = link(compiler.submit(object_bytes, probe.text, host()).result(), entries)
    n = probe.step * 3
    rng = np.random.default_rng(0)
    a, b, c = (aligned_copy(rng.integers(0, 9, n).astype(np.float32)) for _ in range(3))
    sink = aligned_copy(np.zeros(64, np.float32))
    pointer, count = ctypes.c_void_p, ctypes.c_int64
    read = ctypes.CFUNCTYPE(None, count, pointer, pointer)(linked[probe.read_entry])
    read(n, a.ctypes.data, sink.ctypes.data)
    lanes = host().vector_bits // 32
    first = a.reshape(-1, lanes)[::8].sum()  # the sum of the first stream is counted twice
    assert sink.sum() == a.sum() + first
    triad = ctypes.CFUNCTYPE(None, count, pointer, pointer, pointer)(linked[probe.triad_entry])
    triad(n, a.ctypes.data, b.ctypes.data, c.ctypes.data)
    np.testing.assert_array_equal(c, a + 3 * b)
