"""How near generated code comes to the FMA peak, and what generating it costs.

    python benchmarks/codegen_probe.py [-o json] [--opt N]

A hand-made direct convolution (56x56, 64 -> 64 channels, 3x3, NCHW16c, padded input, packed
weights) for several register tiles, interleaved with a kernel of nothing but independent FMAs. One
thread.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

import llvmlite.binding as llvm
import numpy as np
import numpy.typing as npt

from loopwright.codegen.artifact import Param
from loopwright.codegen.llvm.emit import emit
from loopwright.codegen.llvm.object_code import OPT_LEVEL, assemble, object_bytes
from loopwright.codegen.llvm.probes import fma_probe
from loopwright.ir.dtype import F32
from loopwright.ir.expr import Buffer, Const, Expr, Load, Scope, Var
from loopwright.ir.kernel import Kernel
from loopwright.ir.stmt import Alloc, For, LoopKind, Stmt, Store, block
from loopwright.layout import Layout
from loopwright.target.cpu import CpuTarget
from loopwright.target.host import host

Array = npt.NDArray[np.float32]

H = W = 56
C = 64
TILES = ((14, 2), (7, 4), (8, 2), (14, 1), (28, 1))
ROUNDS = 30
ITERATIONS = 80_000


@dataclass(frozen=True, slots=True)
class Result:
    """One tile: what it reached and what it cost to make."""

    tile: str
    gflops: float
    share: float
    emit_ms: float
    assemble_ms: float
    error: float


def conv_kernel(tile_w: int, vectors: int, lanes: int = 16) -> tuple[Kernel, tuple[Param, ...]]:
    """The convolution with a register tile of `tile_w` columns by `vectors` vectors of channels."""
    width = vectors * lanes
    data_shape = (C // 16, H + 2, W + 2, 16)
    weight_shape = (C // width, C, 3, 3, width)
    out_shape = (C // lanes, H, W, lanes)
    data, weight, out = (
        Buffer(name, F32, (int(np.prod(shape)),))
        for name, shape in (("data", data_shape), ("weight", weight_shape), ("out", out_shape))
    )
    acc = Buffer("acc", F32, (tile_w * width,), Scope.REGISTER)
    oc, y, xo, ico, kh, kw = (Var(n) for n in ("oc", "y", "xo", "ico", "kh", "kw"))

    def tile(suffix: str, body: Callable[[Var, Var, Var], Stmt]) -> Stmt:
        w, v, lane = Var(f"w{suffix}"), Var(f"v{suffix}"), Var(f"l{suffix}")
        inner = For(lane, lanes, LoopKind.VECTORIZED, body(w, v, lane))
        return For(w, tile_w, LoopKind.UNROLLED, For(v, vectors, LoopKind.UNROLLED, inner))

    def at(w: Var, v: Var, lane: Var) -> Expr:
        return (w * vectors + v) * lanes + lane

    def zero(w: Var, v: Var, lane: Var) -> Stmt:
        return Store(acc, (at(w, v, lane),), Const(0.0, F32))

    def update(w: Var, v: Var, lane: Var) -> Stmt:
        index = at(w, v, lane)
        x = Load(data, (((ico * (H + 2) + y + kh) * (W + 2) + xo * tile_w + w + kw) * 16 + ici,))
        k = Load(
            weight, ((((oc * C + ico * 16 + ici) * 3 + kh) * 3 + kw) * width + v * lanes + lane,)
        )
        return Store(acc, (index,), Load(acc, (index,)) + x * k)

    def write(w: Var, v: Var, lane: Var) -> Stmt:
        to = (((oc * vectors + v) * H + y) * W + xo * tile_w + w) * lanes + lane
        return Store(out, (to,), Load(acc, (at(w, v, lane),)))

    ici = Var("ici")
    reduction: Stmt = For(ici, 16, LoopKind.UNROLLED, tile("u", update))
    for var, extent in ((kw, 3), (kh, 3), (ico, C // 16)):
        reduction = For(var, extent, LoopKind.SERIAL, reduction)
    body: Stmt = Alloc(acc, block(tile("z", zero), reduction, tile("s", write)))
    for var, extent in ((xo, W // tile_w), (y, H), (oc, C // width)):
        body = For(var, extent, LoopKind.SERIAL, body)
    params = tuple(
        Param(name, F32, shape, Layout.plain(len(shape)))
        for name, shape in (("data", data_shape), ("weight", weight_shape), ("out", out_shape))
    )
    return Kernel(f"conv_{tile_w}x{vectors}", (data, weight, out), 1, body), params


class Loaded:
    """An object in this process; tuning never loads one that has not been checked in a child."""

    def __init__(self, code: bytes, target: CpuTarget) -> None:
        llvm.initialize_native_target()
        llvm.initialize_native_asmprinter()
        machine = llvm.Target.from_triple(target.triple).create_target_machine(
            codemodel="jitdefault", jit=True
        )
        self.engine = llvm.create_mcjit_compiler(llvm.parse_assembly(""), machine)
        self.engine.add_object_file(llvm.ObjectFileRef.from_data(code))
        self.engine.finalize_object()

    def address(self, name: str) -> int:
        """The address of a function."""
        return int(self.engine.get_function_address(name))


def aligned(shape: tuple[int, ...]) -> Array:
    """Zeros, aligned to 64 bytes."""
    raw = np.zeros(int(np.prod(shape)) + 16, np.float32)
    start = (-raw.ctypes.data % 64) // 4
    return raw[start : start + int(np.prod(shape))].reshape(shape)


def reference(data: Array, weight: Array) -> npt.NDArray[np.float64]:
    """NCHW16c output of the convolution of padded NCHW16c data with [O/v][I][3][3][v] weights."""
    plain = data.transpose(0, 3, 1, 2).reshape(C, H + 2, W + 2)
    kernel = weight.transpose(0, 4, 1, 2, 3).reshape(C, C, 3, 3)
    out = np.zeros((C, H, W), np.float64)
    for i in range(3):
        for j in range(3):
            out += np.einsum("oc,chw->ohw", kernel[:, :, i, j], plain[:, i : i + H, j : j + W])
    return out.reshape(C // 16, 16, H, W).transpose(0, 2, 3, 1)


def best_ns(calls: Sequence[Callable[[], object]], rounds: int) -> list[float]:
    """The shortest time of each call, run in turn: other work on the machine only adds to it."""
    times = np.zeros((rounds, len(calls)))
    for r in range(rounds):
        for i, call in enumerate(calls):
            start = time.perf_counter_ns()
            call()
            times[r, i] = time.perf_counter_ns() - start
    return [float(t) for t in times.min(axis=0)]


class Peak:
    """The kernel of independent multiply-adds, ready to be called."""

    def __init__(self, target: CpuTarget) -> None:
        probe = fma_probe(target)
        self._loaded = Loaded(object_bytes(probe.text, target), target)
        self._sink = aligned((64,))
        entry = self._loaded.address(probe.entry)
        self._call = ctypes.CFUNCTYPE(None, ctypes.c_int64, ctypes.c_void_p)(entry)
        self.flops = probe.flops(ITERATIONS)

    def __call__(self) -> None:
        """Run it once."""
        self._call(ITERATIONS, self._sink.ctypes.data)


def measure(tile_w: int, vectors: int, target: CpuTarget, peak: Peak, opt: int) -> Result:
    """One tile: made, run, checked, and timed in turn with the peak kernel."""
    kernel, params = conv_kernel(tile_w, vectors)
    start = time.perf_counter()
    source = emit(kernel, params, target)
    emitted = time.perf_counter()
    artifact = assemble(source, target, opt)
    assembled = time.perf_counter()
    rng = np.random.default_rng(0)
    data, weight, out = (aligned(p.physical_shape) for p in params)
    inside = data[:, 1:-1, 1:-1]
    inside[...] = rng.standard_normal(inside.shape)
    weight[...] = rng.standard_normal(weight.shape)
    loaded = Loaded(artifact.code, target)
    function = ctypes.CFUNCTYPE(None, *[ctypes.c_void_p] * 4)(loaded.address(artifact.entry))
    args = (ctypes.c_void_p * 3)(*(a.ctypes.data for a in (data, weight, out)))
    function(args, None, None, None)
    want = reference(data, weight)
    ns, peak_ns = best_ns([lambda: function(args, None, None, None), peak], ROUNDS)
    gflops = 2 * 9 * C * C * H * W / ns
    return Result(
        tile=f"{tile_w}x{vectors}",
        gflops=gflops,
        share=gflops * peak_ns / peak.flops,
        emit_ms=(emitted - start) * 1e3,
        assemble_ms=(assembled - emitted) * 1e3,
        error=float(np.abs(out - want).max() / np.abs(want).max()),
    )


def main() -> int:
    """Print one line a tile; exit code 0."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-o", "--output", choices=["text", "json"], default="text")
    parser.add_argument(
        "--opt", type=int, default=OPT_LEVEL, choices=range(4), help="LLVM's code generation level"
    )
    options = parser.parse_args()
    target = host()
    peak = Peak(target)
    results = [measure(*tile, target, peak, options.opt) for tile in TILES]
    if options.output == "json":
        print(json.dumps([asdict(r) for r in results]))
        return 0
    for r in results:
        print(
            f"{r.tile:>6}  {r.gflops:7.1f} GFLOP/s  {r.share:6.1%} of the peak   "
            f"emit {r.emit_ms:5.1f} ms  assemble {r.assemble_ms:5.1f} ms   error {r.error:.1e}"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
