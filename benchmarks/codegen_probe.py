"""How near generated code comes to the FMA peak, and what generating it costs.

    python benchmarks/codegen_probe.py [-o json]

A hand-made direct convolution (56x56, 64 -> 64 channels, 3x3, NCHW16c, padded input, packed
weights) for several register tiles, interleaved with a kernel of nothing but independent FMAs. One
thread.
"""

from __future__ import annotations

import ctypes
import json
import sys
import time
from dataclasses import dataclass

import llvmlite.binding as llvm
import numpy as np

from loopwright.codegen.artifact import Param
from loopwright.codegen.llvm import emit
from loopwright.codegen.object_code import assemble, object_bytes, target_machine
from loopwright.codegen.probes import fma_probe
from loopwright.ir.dtype import F32
from loopwright.ir.expr import Buffer, Const, Load, Scope, Var
from loopwright.ir.stmt import Alloc, For, Kernel, LoopKind, Stmt, Store, block
from loopwright.layout import Layout
from loopwright.target import Target, host

H = W = 56
C = 64
TILES = ((14, 2), (28, 1), (14, 1), (7, 4), (6, 4), (8, 2))
ROUNDS = 15


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

    def tile(suffix: str, body: object) -> Stmt:
        w, v, lane = Var(f"w{suffix}"), Var(f"v{suffix}"), Var(f"l{suffix}")
        inner = For(lane, lanes, LoopKind.VECTORIZED, body(w, v, lane))  # type: ignore[operator]
        return For(w, tile_w, LoopKind.UNROLLED, For(v, vectors, LoopKind.UNROLLED, inner))

    def at(w: Var, v: Var, lane: Var) -> object:
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
    """An object in this process. The benchmark trusts its own kernels; tuning never loads them so."""

    def __init__(self, code: bytes, target: Target) -> None:
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


def aligned(shape: tuple[int, ...]) -> np.ndarray:
    """Zeros, aligned to 64 bytes."""
    raw = np.zeros(int(np.prod(shape)) + 16, np.float32)
    start = (-raw.ctypes.data % 64) // 4
    return raw[start : start + int(np.prod(shape))].reshape(shape)


def reference(data: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """NCHW16c output of the convolution of padded NCHW16c data with [O/v][I][3][3][v] weights."""
    plain = data.transpose(0, 3, 1, 2).reshape(C, H + 2, W + 2)
    kernel = weight.transpose(0, 4, 1, 2, 3).reshape(C, C, 3, 3)
    out = np.zeros((C, H, W), np.float64)
    for i in range(3):
        for j in range(3):
            out += np.einsum("oc,chw->ohw", kernel[:, :, i, j], plain[:, i : i + H, j : j + W])
    return out.reshape(C // 16, 16, H, W).transpose(0, 2, 3, 1)


def best_ns(calls: list[object], rounds: int) -> list[float]:
    """The median time of each call, run in turn."""
    times = np.zeros((rounds, len(calls)))
    for r in range(rounds):
        for i, call in enumerate(calls):
            start = time.perf_counter_ns()
            call()  # type: ignore[operator]
            times[r, i] = time.perf_counter_ns() - start
    return [float(t) for t in np.median(times, axis=0)]


def main(argv: list[str]) -> int:
    """Print one line a tile; exit code 0."""
    target = host()
    target_machine(target.triple, target.features, 2)
    opt = int(next((a[4:] for a in argv if a.startswith("opt=")), "2"))
    rng = np.random.default_rng(0)
    probe = fma_probe(target)
    keep = [Loaded(object_bytes(probe.text, target), target)]
    peak = ctypes.CFUNCTYPE(None, ctypes.c_int64, ctypes.c_void_p)(keep[0].address(probe.entry))
    sink = aligned((64,))
    iterations = 200_000
    results = []
    for tile_w, vectors in TILES:
        kernel, params = (
            conv_kernel(tile_w, vectors) if W % tile_w == 0 or tile_w == 6 else (None, ())
        )
        if tile_w == 6:
            continue
        start = time.perf_counter()
        source = emit(kernel, params, target)
        emitted = time.perf_counter()
        artifact = assemble(source, target, opt)
        assembled = time.perf_counter()
        arrays = [aligned(p.physical_shape) for p in params]
        arrays[0][:, 1:-1, 1:-1] = rng.standard_normal(arrays[0][:, 1:-1, 1:-1].shape)
        arrays[1][...] = rng.standard_normal(arrays[1].shape)
        loaded = Loaded(artifact.code, target)
        keep.append(loaded)
        kind = ctypes.CFUNCTYPE(
            None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p
        )
        function = kind(loaded.address(artifact.entry))
        args = (ctypes.c_void_p * 3)(*(a.ctypes.data for a in arrays))
        function(args, None, None, None)
        want = reference(arrays[0], arrays[1])
        error = float(np.abs(arrays[2] - want).max() / np.abs(want).max())
        ns = best_ns(
            [lambda: function(args, None, None, None), lambda: peak(iterations, sink.ctypes.data)],
            ROUNDS,
        )
        gflops = 2 * 9 * C * C * H * W / ns[0]
        limit = probe.flops(iterations) / ns[1]
        results.append(
            Result(
                f"{tile_w}x{vectors}",
                gflops,
                gflops / limit,
                (emitted - start) * 1e3,
                (assembled - emitted) * 1e3,
                error,
            )
        )
    if "json" in argv:
        print(json.dumps([{n: getattr(r, n) for n in Result.__slots__} for r in results]))
        return 0
    for r in results:
        print(
            f"{r.tile:>6}  {r.gflops:7.1f} GFLOP/s  {r.share:6.1%} of the peak   emit {r.emit_ms:5.1f} ms  "
            f"assemble {r.assemble_ms:5.1f} ms   relative error {r.error:.1e}"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
