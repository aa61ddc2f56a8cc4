"""Kernels that measure a machine: FMAs in registers, FMAs fed from the nearest cache, and streams.

They are for `loopwright doctor` and the benchmarks. The first and the last are LLVM text with plain
C entry points; the second is one of our own register tiles, since that is what it stands for.
"""

from __future__ import annotations

from dataclasses import dataclass

from loopwright.codegen.artifact import Param
from loopwright.codegen.llvm.emit import LlvmSource, emit
from loopwright.ir.dtype import F32
from loopwright.layout import Layout
from loopwright.lower.pipeline import apply_passes, lower
from loopwright.sched.schedule import Schedule
from loopwright.target.cpu import CpuTarget
from loopwright.te import functions as te
from loopwright.te.tensor import compute, placeholder, reduce_axis
from loopwright.te.workload import workload

_CHAINS_WIDE, _CHAINS = 24, 12
"""Independent accumulators: more than latency times units, fewer than registers (32 or 16)."""
_UNROLL = 4
_STREAM_UNROLL = 8
_FED_DEPTH, _FED_REPEATS = 64, 1024


@dataclass(frozen=True, slots=True)
class FmaProbe:
    """`void entry(int64_t iterations, float *sink)`; `sink` holds 64 bytes."""

    text: str
    entry: str
    flops_per_iteration: int

    def flops(self, iterations: int) -> int:
        """Floating point operations of a call."""
        return self.flops_per_iteration * iterations


@dataclass(frozen=True, slots=True)
class StreamProbe:
    """Two streams over `n` floats, a multiple of `step`, in arrays aligned to 64 bytes.

    `read_entry`: `void (int64_t n, const float *a, float *sink)` reads 4n bytes.
    `triad_entry`: `void (int64_t n, const float *a, const float *b, float *c)`, c = a + 3b, reads
    8n bytes and writes 4n.
    """

    text: str
    read_entry: str
    triad_entry: str
    step: int


def fma_probe(target: CpuTarget) -> FmaProbe:
    """The kernel of float32 fused multiply-adds alone, at the target's full vector width."""
    lanes = target.lanes(F32)
    chains = _CHAINS_WIDE if target.registers >= 32 else _CHAINS
    kind = f"<{lanes} x float>"
    suffix = f"v{lanes}f32"
    phis: list[str] = []
    steps: list[str] = []
    firsts = [f"[ splat (float {float(i)!r}), %entry ]" for i in range(chains)]
    phis += [
        f"  %a{i}.0 = phi {kind} {first}, [ %a{i}.{_UNROLL}, %loop ]"
        for i, first in enumerate(firsts)
    ]
    for u in range(_UNROLL):
        steps += [
            f"  %a{i}.{u + 1} = call {kind} @llvm.fmuladd.{suffix}"
            f"({kind} %a{i}.{u}, {kind} %x, {kind} %y)"
            for i in range(chains)
        ]
    total = [f"  %t0 = fadd {kind} %a0.{_UNROLL}, %a0.{_UNROLL}"]
    total += [f"  %t{i} = fadd {kind} %t{i - 1}, %a{i}.{_UNROLL}" for i in range(1, chains)]
    # The factors come from memory, so that nothing can be constant-folded.
    text = f"""target triple = "{target.triple}"
declare {kind} @llvm.fmuladd.{suffix}({kind}, {kind}, {kind})
define void @lw_fma(i64 %n, ptr %sink) {_attributes(target)} {{
entry:
  %x = load {kind}, ptr %sink, align 4
  %y = fadd {kind} %x, splat (float 0.5)
  br label %loop
loop:
  %i = phi i64 [ 0, %entry ], [ %next, %loop ]
{_joined(phis)}
{_joined(steps)}
  %next = add nuw nsw i64 %i, 1
  %more = icmp slt i64 %next, %n
  br i1 %more, label %loop, label %done
done:
{_joined(total)}
  store {kind} %t{chains - 1}, ptr %sink, align 4
  ret void
}}
"""
    return FmaProbe(text, "lw_fma", 2 * lanes * chains * _UNROLL)


@dataclass(frozen=True, slots=True)
class FedProbe:
    """A tile of a matrix product over operands that stay in L1, with the ABI of any kernel."""

    source: LlvmSource
    flops: int


def fed_fma_probe(target: CpuTarget) -> FedProbe:
    """A register tile that loads its operands: C[y, x] = sum over r, k of A[k, y] * B[k, x].

    r repeats the sum over the same operands (12 KiB with AVX-512), so that only L1 and the FMA
    units can limit it.
    """
    rows, vectors = (14, 2) if target.registers >= 32 else (6, 2)
    lanes = target.lanes(F32)
    k, r = reduce_axis(_FED_DEPTH, "k"), reduce_axis(_FED_REPEATS, "r")
    a = placeholder((_FED_DEPTH, rows), name="A")
    b = placeholder((_FED_DEPTH, vectors * lanes), name="B")
    tile = compute(
        (rows, vectors * lanes), lambda y, x: te.sum(a[k, y] * b[k, x], axis=(r, k)), name="C"
    )
    schedule = Schedule(workload(tile, [a, b, tile], name="fed_fma"))
    stage = schedule[tile]
    outer, inner = stage.split(k, 8)
    vector, lane = stage.split(tile.axis[1], lanes)
    stage.reorder(r, outer, inner, tile.axis[0], vector, lane)
    for loop in (inner, tile.axis[0], vector):
        stage.unroll(loop)
    stage.vectorize(lane)
    params = tuple(
        Param(t.name, t.dtype, t.shape, Layout.plain(t.ndim)) for t in schedule.workload.args
    )
    source = emit(apply_passes(lower(schedule), target.kind), params, target)
    return FedProbe(source, schedule.workload.flops)


def stream_probe(target: CpuTarget) -> StreamProbe:
    """The read kernel and the triad kernel, at full vector width."""
    lanes = target.lanes(F32)
    kind, step = f"<{lanes} x float>", target.lanes(F32) * _STREAM_UNROLL
    sums = [
        f"  %s{u} = phi {kind} [ zeroinitializer, %entry ], [ %r{u}, %loop ]"
        for u in range(_STREAM_UNROLL)
    ]
    reads, triads = [], []
    for u in range(_STREAM_UNROLL):
        reads += [
            f"  %p{u} = getelementptr float, ptr %at, i64 {u * lanes}",
            f"  %v{u} = load {kind}, ptr %p{u}, align {lanes * 4}",
            f"  %r{u} = fadd {kind} %s{u}, %v{u}",
        ]
        triads += [
            f"  %i{u} = add i64 %i, {u * lanes}",
            *(f"  %p{n}{u} = getelementptr float, ptr %{n}, i64 %i{u}" for n in "abc"),
            *(f"  %v{n}{u} = load {kind}, ptr %p{n}{u}, align {lanes * 4}" for n in "ab"),
            f"  %m{u} = fmul {kind} %vb{u}, splat (float 3.0)",
            f"  %w{u} = fadd {kind} %va{u}, %m{u}",
            f"  store {kind} %w{u}, ptr %pc{u}, align {lanes * 4}",
        ]
    total = [f"  %t0 = fadd {kind} %r0, %r0"]
    total += [f"  %t{u} = fadd {kind} %t{u - 1}, %r{u}" for u in range(1, _STREAM_UNROLL)]
    text = f"""target triple = "{target.triple}"
define void @lw_read(i64 %n, ptr %a, ptr %sink) {_attributes(target)} {{
entry:
  br label %loop
loop:
  %i = phi i64 [ 0, %entry ], [ %next, %loop ]
{_joined(sums)}
  %at = getelementptr float, ptr %a, i64 %i
{_joined(reads)}
  %next = add nuw nsw i64 %i, {step}
  %more = icmp slt i64 %next, %n
  br i1 %more, label %loop, label %done
done:
{_joined(total)}
  store {kind} %t{_STREAM_UNROLL - 1}, ptr %sink, align 4
  ret void
}}
define void @lw_triad(i64 %n, ptr noalias %a, ptr noalias %b, ptr noalias %c)
  {_attributes(target)} {{
entry:
  br label %loop
loop:
  %i = phi i64 [ 0, %entry ], [ %next, %loop ]
{_joined(triads)}
  %next = add nuw nsw i64 %i, {step}
  %more = icmp slt i64 %next, %n
  br i1 %more, label %loop, label %done
done:
  ret void
}}
"""
    return StreamProbe(text, "lw_read", "lw_triad", step)


def _attributes(target: CpuTarget) -> str:
    bits = target.vector_bits
    return f'nounwind "prefer-vector-width"="{bits}" "min-legal-vector-width"="{bits}"'


def _joined(lines: list[str]) -> str:
    return "\n".join(lines)
