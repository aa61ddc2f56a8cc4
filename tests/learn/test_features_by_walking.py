"""Features against a definition that shares nothing with them: small loops, walked one by one."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pytest

from loopwright.learn.features import NAMES, features
from loopwright.sched.nest import nest
from loopwright.sched.schedule import Schedule, create_schedule
from loopwright.target.parse import parse
from loopwright.te import language as te

AVX2 = replace(parse("x86-64-avx2"), l1=512, l2=2048, l3=1 << 16)
LANES = 8  # of float32
ROLES = ("write", "read0", "read1")
THRESHOLDS = range(8, 27, 2)


@dataclass(frozen=True, slots=True)
class Loop:
    """A loop as it is written by hand: `kind` is one of serial, unrolled, vectorized, parallel."""

    name: str
    extent: int
    kind: str = "serial"
    reduces: bool = False

    @property
    def in_tile(self) -> bool:
        return self.kind in ("unrolled", "vectorized")


Index = Callable[[Mapping[str, int]], tuple[int, ...]]


@dataclass(frozen=True, slots=True)
class Program:
    """A schedule, the loops that it means, the element each access is at, and the useful work."""

    schedule: Callable[[], Schedule]
    loops: tuple[Loop, ...]
    accesses: tuple[Index, ...]
    useful: int

    def runs(self, moving: Sequence[Loop]) -> Iterator[dict[str, int]]:
        """The values of all loops while those in `moving` run and the others stay at 0."""
        still = {loop.name: 0 for loop in self.loops}
        for values in itertools.product(*(range(loop.extent) for loop in moving)):
            yield still | dict(zip((loop.name for loop in moving), values, strict=True))

    def count(self, moving: Sequence[Loop]) -> int:
        return sum(1 for _ in self.runs(moving))

    def elements(self, access: int, moving: Sequence[Loop]) -> int:
        return len({self.accesses[access](at) for at in self.runs(moving)})

    def stride(self, access: int) -> int:
        """0: stays, 1: goes to the next element, 2: jumps, or there is no vector loop."""
        vector = next((loop for loop in self.loops if loop.kind == "vectorized"), None)
        if vector is None:
            return 2
        first, then = itertools.islice(self.runs([vector]), 2)
        old, new = self.accesses[access](first), self.accesses[access](then)
        if old == new:
            return 0
        return 1 if (*old[:-1], old[-1] + 1) == new else 2


def product(*, transposed: bool = False) -> Schedule:
    a = te.placeholder((12, 6), name="A")
    b = te.placeholder((32, 6) if transposed else (6, 32), name="B")
    k = te.reduce_axis(6, name="k")
    c = te.compute(
        (12, 32),
        lambda y, x: te.sum(a[y, k] * (b[x, k] if transposed else b[k, x]), axis=k),
        name="C",
    )
    return create_schedule(te.workload(c, name="product"))


def tiled_product(y: int, x: int, lanes: int, *, transposed: bool = False) -> Schedule:
    s = product(transposed=transposed)
    yo, xo, yi, xi = s["C"].tile("C.y", "C.x", y, x)
    xv, xl = s["C"].split(xi, lanes)
    s["C"].reorder(yo, xo, "k", yi, xv, xl)
    s["C"].unroll(yi)
    s["C"].unroll(xv)
    s["C"].vectorize(xl)
    s["C"].parallel(yo)
    return s


def tiled(y: int, x: int, lanes: int, *, transposed: bool = False) -> Program:
    def column(at: Mapping[str, int]) -> int:
        return at["xo"] * x + at["xv"] * lanes + at["xl"]

    def row(at: Mapping[str, int]) -> int:
        return at["yo"] * y + at["yi"]

    return Program(
        lambda: tiled_product(y, x, lanes, transposed=transposed),
        (
            Loop("yo", -(-12 // y), "parallel"),
            Loop("xo", 32 // x),
            Loop("k", 6, reduces=True),
            Loop("yi", y, "unrolled"),
            Loop("xv", x // lanes, "unrolled"),
            Loop("xl", lanes, "vectorized"),
        ),
        (
            lambda at: (row(at), column(at)),
            lambda at: (row(at), at["k"]),
            lambda at: (column(at), at["k"]) if transposed else (at["k"], column(at)),
        ),
        12 * 32 * 6,
    )


def split_reduction() -> Schedule:
    s = product()
    ko, ki = s["C"].split("k", 3)
    s["C"].reorder("C.y", ko, "C.x", ki)
    s["C"].unroll(ki)
    return s


def sliding() -> Schedule:
    data, weight = te.placeholder((20,), name="D"), te.placeholder((4, 5), name="W")
    k = te.reduce_axis(5, name="k")
    c = te.compute((4, 16), lambda c, x: te.sum(data[x + k] * weight[c, k], axis=k), name="C")
    s = create_schedule(te.workload(c, name="sliding"))
    s["C"].reorder("C.c", "k", "C.x")
    s["C"].vectorize("C.x")
    return s


def copied() -> Schedule:
    a = te.placeholder((12, 32), name="A")
    c = te.compute((12, 32), lambda y, x: a[y, x] + 1.0, name="C")
    return create_schedule(te.workload(c, name="copied"))


PROGRAMS = {
    "plain": Program(
        product,
        (Loop("y", 12), Loop("x", 32), Loop("k", 6, reduces=True)),
        (
            lambda at: (at["y"], at["x"]),
            lambda at: (at["y"], at["k"]),
            lambda at: (at["k"], at["x"]),
        ),
        12 * 32 * 6,
    ),
    "tiled": tiled(4, 16, 8),
    "wide": tiled(3, 32, 16),
    "narrow": tiled(6, 8, 4),
    "spilled": tiled(12, 32, 8),
    "uneven": tiled(5, 16, 8),
    "transposed": tiled(4, 16, 8, transposed=True),
    "split": Program(
        split_reduction,
        (
            *(Loop("y", 12), Loop("ko", 2, reduces=True), Loop("x", 32)),
            Loop("ki", 3, "unrolled", reduces=True),
        ),
        (
            lambda at: (at["y"], at["x"]),
            lambda at: (at["y"], at["ko"] * 3 + at["ki"]),
            lambda at: (at["ko"] * 3 + at["ki"], at["x"]),
        ),
        12 * 32 * 6,
    ),
    "sliding": Program(
        sliding,
        (Loop("c", 4), Loop("k", 5, reduces=True), Loop("x", 16, "vectorized")),
        (
            lambda at: (at["c"], at["x"]),
            lambda at: (at["x"] + at["k"],),
            lambda at: (at["c"], at["k"]),
        ),
        4 * 16 * 5,
    ),
    "copied": Program(
        copied,
        (Loop("y", 12), Loop("x", 32)),
        (lambda at: (at["y"], at["x"]), lambda at: (at["y"], at["x"])),
        12 * 32,
    ),
}


def log(x: float) -> float:
    return float(np.log2(1 + x))


def by_walking(p: Program, caches: Mapping[str, int], registers: int) -> dict[str, float]:
    """What the features of the anchor mean, counted."""
    return overall(p) | tile(p, registers) | memory(p, caches) | serial(p)


def overall(p: Program) -> dict[str, float]:
    walked = p.count(p.loops)
    return {"flops": log(p.useful), "iterations": log(walked), "waste": walked / p.useful}


def tile(p: Program, registers: int) -> dict[str, float]:
    loops = [loop for loop in p.loops if loop.in_tile]
    lanes = p.count([loop for loop in loops if loop.kind == "vectorized"])
    used = min(lanes, LANES)
    accumulators = p.count([loop for loop in loops if not loop.reduces]) / used
    body = p.count(loops) / used
    vectors = broadcasts = 0.0
    for read in range(1, len(p.accesses)):
        loads = p.elements(read, loops)
        if p.stride(read) == 0:
            broadcasts += loads
        else:
            vectors += loads / used if p.stride(read) == 1 else loads
    reduces = [loop for loop in p.loops if loop.reduces]
    steps = p.count([loop for loop in reduces if not loop.in_tile])
    strides = [p.stride(n) if n < len(p.accesses) else -1 for n in range(3)]
    return {
        "tile_accumulators": accumulators,
        "tile_register_share": accumulators / registers,
        "tile_spilled": max(accumulators + 2 - registers, 0),
        "tile_lanes": lanes / LANES,
        "tile_vectors": vectors,
        "tile_broadcasts": broadcasts,
        "tile_body": log(body),
        "tile_depth": log(p.count([loop for loop in loops if loop.reduces])),
        "tile_loads_per_fma": (vectors + broadcasts) / body,
        "tile_feeds": min(vectors, broadcasts) / max(body, 1),
        "tile_entries": log(p.count([loop for loop in p.loops if not loop.in_tile])),
        "tile_reduce_steps": log(steps),
        "tile_reduce_unrolled": log(p.count(reduces) / steps),
    } | {f"tile_stride_{role}": stride for role, stride in zip(ROLES, strides, strict=True)}


def memory(p: Program, caches: Mapping[str, int]) -> dict[str, float]:
    depths = range(len(p.loops) + 1)
    inside = [p.count(p.loops[d:]) for d in depths]
    touched = [[4 * p.elements(n, p.loops[d:]) for n in range(len(p.accesses))] for d in depths]
    found = {
        f"work_within_2^{t}": log(
            max((inside[d] for d in depths if sum(touched[d]) <= 2**t), default=0)
        )
        for t in THRESHOLDS
    }
    for cache, nbytes in caches.items():
        held = next((d for d in depths if sum(touched[d]) <= nbytes), len(p.loops))
        entered = p.count(p.loops[:held])
        found |= {
            f"traffic_{cache}": log(sum(touched[held]) * entered),
            f"worst_{cache}": log(max(touched[held]) * entered),
            f"written_{cache}": log(touched[held][0] * entered),
            f"work_{cache}": log(inside[held]),
        }
    return found


def serial(p: Program) -> dict[str, float]:
    outer = list(p.loops)
    while outer and outer[-1].in_tile:
        outer.pop()
    inner = p.loops[max(len(outer) - 1, 0) :]
    spatial = [d for d, loop in enumerate(outer) if not loop.reduces]
    around = [loop for loop in outer[: spatial[-1]] if loop.reduces] if spatial else []
    found = {
        "innermost_serial": log(p.count(outer[-1:])),
        "reduce_outside": log(p.count(around) - 1),
    }
    for number, role in enumerate(ROLES):
        exists = number < len(p.accesses)
        elements = p.elements(number, inner) if exists else 0
        found[f"serial_touched_{role}"] = log(elements) if exists else -1
        found[f"serial_reuse_{role}"] = log(p.count(inner) / elements) if exists else -1
    return found


@pytest.mark.parametrize("name", PROGRAMS)
def test_features_are_what_walking_the_loops_counts(name: str) -> None:
    program = PROGRAMS[name]
    row = features(nest(program.schedule()), AVX2)[0]
    found = dict(zip(NAMES, row.tolist(), strict=True))
    caches = {cache: int(getattr(AVX2, cache)) for cache in ("l1", "l2", "l3")}
    wanted = by_walking(program, caches, AVX2.registers)
    assert {n: found[n] for n in wanted} == pytest.approx(wanted, rel=1e-6)


@pytest.mark.parametrize("cache", [1, 11, 12, 1 << 20])
def test_traffic_of_caches_at_their_bounds(cache: int) -> None:
    """One iteration touches 12 bytes: a cache just of that size holds it, a smaller holds none."""
    target = replace(AVX2, l1=cache)
    row = features(nest(product()), target)[0]
    wanted = memory(PROGRAMS["plain"], {"l1": cache})
    found = {n: float(row[NAMES.index(n)]) for n in wanted}
    assert found == pytest.approx(wanted, rel=1e-6)


def test_all_that_the_walk_defines_is_a_feature() -> None:
    """What it leaves out is of other stages and of threads."""
    left = set(NAMES) - set(by_walking(PROGRAMS["plain"], {"l1": 1, "l2": 1, "l3": 1}, 16))
    assert {n.split("_")[0] for n in left} == {"stages", "other", "second", "parallel"}


# --- other stages and threads ---


def chain() -> Schedule:
    """An input shifted, a product of it, and an epilogue that reads the product and a vector."""
    a, b = te.placeholder((12, 6), name="A"), te.placeholder((6, 32), name="B")
    v = te.placeholder((32,), name="V")
    shifted = te.compute((12, 6), lambda y, x: a[y, x] + 1.0, name="S")
    k = te.reduce_axis(6, name="k")
    c = te.compute((12, 32), lambda y, x: te.sum(shifted[y, k] * b[k, x], axis=k), name="C")
    d = te.compute((12, 32), lambda y, x: c[y, x] + v[x], name="E")
    return create_schedule(te.workload(d, name="chain"))


def named(schedule: Schedule, threads: int = 1) -> dict[str, float]:
    row = features(nest(schedule), AVX2, threads)[0]
    return dict(zip(NAMES, row.tolist(), strict=True))


def test_stages_beside_the_anchor_are_counted_the_larger_first() -> None:
    s = chain()
    s["E"].vectorize(s["E"].split("E.x", 8)[1])
    found = named(s)
    assert found["stages"] == 3
    assert found["flops"] == pytest.approx(log(12 * 32 * 6))
    assert found["other_iterations"] == pytest.approx(log(12 * 32))
    assert found["other_recompute"] == 1
    assert found["other_bytes"] == pytest.approx(log(4 * (12 * 32 + 12 * 32 + 32)))
    assert (found["other_vector_stride"], found["other_lanes"]) == (1, 8)
    assert found["second_iterations"] == pytest.approx(log(12 * 6))
    assert found["second_bytes"] == pytest.approx(log(4 * 2 * 12 * 6))
    assert (found["second_vector_stride"], found["second_lanes"]) == (-1, 1)


def test_a_stage_inside_another_is_computed_again_and_touches_less() -> None:
    s = chain()
    s["S"].compute_at(s["C"], "C.x")
    found = named(s)
    assert found["second_iterations"] == pytest.approx(log(12 * 32 * 6))
    assert found["second_recompute"] == 32
    assert found["second_bytes"] == pytest.approx(log(4 * 2 * 6))


@pytest.mark.parametrize("threads", range(1, 14))
def test_the_worst_share_of_parallel_loops_is_dealt_out(threads: int) -> None:
    s = chain()
    s["C"].parallel("C.y")
    s["E"].parallel(s["E"].split("E.y", 3)[0])
    found = named(s, threads)
    worst = 1.0
    for chunks in (12, 4):
        hands = [0] * threads
        for chunk in range(chunks):
            hands[chunk % threads] += 1
        worst = max(worst, max(hands) * threads / chunks)
    assert found["parallel_imbalance"] == pytest.approx(worst)
    assert found["parallel_chunks"] == pytest.approx(log(4))
