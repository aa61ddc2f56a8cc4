"""Every schedule step: the loops it makes (golden files), and that they still compute the same."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from running import check_compiled, differences, interpreted, random_inputs

from loopwright.lower.pipeline import apply_passes, lower
from loopwright.runtime.cpu.kernel import CpuDevice
from loopwright.sched.schedule import Schedule, create_schedule
from loopwright.te import language as te
from loopwright.te.reference import evaluate
from loopwright.te.workload import Workload


def product(*, relu: bool = False) -> Workload:
    """C = A B with extents that no tile divides, and D = max(C, 0) behind it."""
    a, b = te.placeholder((10, 7), name="A"), te.placeholder((7, 21), name="B")
    k = te.reduce_axis(7, name="k")
    c = te.compute((10, 21), lambda y, x: te.sum(a[y, k] * b[k, x], axis=k), name="C")
    d = te.compute((10, 21), lambda y, x: te.maximum(c[y, x], 0.0), name="D") if relu else c
    return te.workload(d, name="product")


def blur() -> Workload:
    """`out` reads a window of `mid`, which is elementwise in `src`."""
    src = te.placeholder((9, 12), name="src")
    mid = te.compute((9, 12), lambda y, x: src[y, x] * 0.5, name="mid")
    out = te.compute((7, 12), lambda y, x: mid[y, x] + mid[y + 1, x] + mid[y + 2, x], name="out")
    return te.workload(out, name="blur")


def split_by_a_factor_that_divides(s: Schedule) -> None:
    s["C"].split("C.y", 5)


def split_with_a_tail(s: Schedule) -> None:
    s["C"].split("C.y", 4)


def split_in_parts(s: Schedule) -> None:
    s["C"].split("C.x", nparts=4)


def split_wider_than_the_loop(s: Schedule) -> None:
    s["C"].split("C.y", 16)


def split_a_reduce_axis_with_a_tail(s: Schedule) -> None:
    s["C"].split("k", 3)


def fuse(s: Schedule) -> None:
    s["C"].fuse("C.y", "C.x")


def fuse_and_split_across_rows(s: Schedule) -> None:
    s["C"].split(s["C"].fuse("C.y", "C.x"), 8)


def tile(s: Schedule) -> None:
    s["C"].tile("C.y", "C.x", 4, 8)


def reorder(s: Schedule) -> None:
    s["C"].reorder("k", "C.x", "C.y")


def vectorize(s: Schedule) -> None:
    xo, xi = s["C"].split("C.x", 8)
    s["C"].reorder(xo, "k", xi)
    s["C"].vectorize(xi)


def vectorize_without_a_tail(s: Schedule) -> None:
    xo, xi = s["C"].split("C.x", 7)
    s["C"].reorder(xo, "k", xi)
    s["C"].vectorize(xi)


def unroll(s: Schedule) -> None:
    yo, yi = s["C"].split("C.y", 2)
    s["C"].reorder(yo, "C.x", "k", yi)
    s["C"].unroll(yi)


def register_tile(s: Schedule) -> None:
    yo, xo, yi, xi = s["C"].tile("C.y", "C.x", 3, 8)
    ko, ki = s["C"].split("k", 2)
    s["C"].reorder(yo, xo, ko, ki, yi, xi)
    s["C"].unroll(ki)
    s["C"].unroll(yi)
    s["C"].vectorize(xi)


def reduce_outside_the_tile(s: Schedule) -> None:
    ko, ki = s["C"].split("k", 4)
    s["C"].reorder(ko, "C.y", ki, "C.x")
    s["C"].vectorize("C.x")


def parallel(s: Schedule) -> None:
    s["C"].parallel("C.y")


STEPS = [
    split_by_a_factor_that_divides,
    split_with_a_tail,
    split_in_parts,
    split_wider_than_the_loop,
    split_a_reduce_axis_with_a_tail,
    fuse,
    fuse_and_split_across_rows,
    tile,
    reorder,
    vectorize,
    vectorize_without_a_tail,
    unroll,
    register_tile,
    reduce_outside_the_tile,
    parallel,
]


def compute_at_rows(s: Schedule) -> None:
    yo, _ = s["out"].split("out.y", 2)
    s["mid"].compute_at("out", yo)


def compute_at_tile(s: Schedule) -> None:
    _, xo, _, _ = s["out"].tile("out.y", "out.x", 3, 5)
    s["mid"].compute_at("out", xo)
    s["mid"].set_scope("local")


def compute_inline(s: Schedule) -> None:
    s["mid"].compute_inline()


def compute_root(s: Schedule) -> None:
    s["mid"].compute_at("out", "out.y")
    s["mid"].compute_root()


def set_scope(s: Schedule) -> None:
    s["out"].unroll("out.x")
    s["mid"].compute_at("out", "out.y")
    for loop in s["mid"].loops:
        s["mid"].unroll(loop)
    s["mid"].set_scope("register")


def cache_read_input(s: Schedule) -> None:
    copy = s.cache_read("src", ["mid"], "local")
    s["mid"].compute_at("out", "out.y")
    s[copy].compute_at("mid", "mid.x")


def cache_read_stage(s: Schedule) -> None:
    yo, _ = s["out"].split("out.y", 4)
    s[s.cache_read("mid", ["out"], "local")].compute_at("out", yo)


def cache_write(s: Schedule) -> None:
    cache = s.cache_write("out", "local")
    yo, xo, _, xi = s["out"].tile("out.y", "out.x", 4, 4)
    s["out"].vectorize(xi)
    s[cache].compute_at("out", xo)
    s[cache].unroll(cache.axis[0])
    s["mid"].compute_at("out", yo)


def set_layout_of_an_input(s: Schedule) -> None:
    s.set_layout("src", [1, 0, (1, 8)])


def set_layout_of_the_output(s: Schedule) -> None:
    s.set_layout("out", [0, 1, (1, 4), (0, 2)])


def set_layout_of_a_region(s: Schedule) -> None:
    yo, _ = s["out"].split("out.y", 2)
    s["mid"].compute_at("out", yo)
    s.set_layout("mid", [1, 0, (1, 4)])


PLACES = [
    compute_at_rows,
    compute_at_tile,
    compute_inline,
    compute_root,
    set_scope,
    cache_read_input,
    cache_read_stage,
    cache_write,
    set_layout_of_an_input,
    set_layout_of_the_output,
    set_layout_of_a_region,
]


def compute_reduction_at_tile(s: Schedule) -> None:
    yo, xo, yi, xi = s["D"].tile("D.y", "D.x", 4, 8)
    s["D"].unroll(yi)
    s["D"].vectorize(xi)
    s["C"].compute_at("D", xo)
    s["C"].set_scope("register")
    s["C"].reorder("k", "C.y", "C.x")
    s["C"].unroll("C.y")
    s["C"].vectorize("C.x")
    s["D"].parallel(yo)


def cache_write_reduction(s: Schedule) -> None:
    cache = s.cache_write("C")
    s[cache].compute_at("C", "C.y")


EPILOGUES = [compute_reduction_at_tile, cache_write_reduction]

CASES = [
    *((make, product()) for make in STEPS),
    *((make, blur()) for make in PLACES),
    *((make, product(relu=True)) for make in EPILOGUES),
]
each_case = pytest.mark.parametrize(
    ("make", "workload"), CASES, ids=[make.__name__ for make, _ in CASES]
)
Make = Callable[[Schedule], None]


def scheduled(make: Make, workload: Workload) -> Schedule:
    schedule = create_schedule(workload)
    make(schedule)
    return schedule


@each_case
def test_loops_are_as_the_golden_file_says(
    golden: Callable[[str, str], None], make: Make, workload: Workload
) -> None:
    schedule = scheduled(make, workload)
    golden(make.__name__, f"{schedule}\n\n{lower(schedule)!s}")


@each_case
@pytest.mark.parametrize("flat", [False, True], ids=["dimensions", "flat"])
def test_loops_compute_what_the_expression_and_the_unscheduled_program_do(
    make: Make, workload: Workload, flat: bool
) -> None:
    inputs = random_inputs(workload)
    plain = interpreted(create_schedule(workload), inputs, flat=flat)
    made = interpreted(scheduled(make, workload), inputs, flat=flat)
    assert differences(workload, made, evaluate(workload, inputs)) == []
    assert differences(workload, made, plain) == []


@each_case
def test_generated_code_computes_the_same(make: Make, workload: Workload, cpu: CpuDevice) -> None:
    check_compiled(scheduled(make, workload), cpu)


def test_an_unscheduled_program_is_the_loops_of_its_axes(
    golden: Callable[[str, str], None],
) -> None:
    golden("no_steps", str(lower(create_schedule(product(relu=True)))))


def test_flat_loops_have_one_index_a_buffer(golden: Callable[[str, str], None]) -> None:
    schedule = scheduled(set_layout_of_a_region, blur())
    golden("flat", str(apply_passes(lower(schedule), "cpu")))


def test_a_kernel_can_be_named() -> None:
    assert lower(create_schedule(blur()), "other").name == "other"
    assert lower(create_schedule(blur())).name == "blur"


def test_integers_agree_to_the_bit() -> None:
    a = te.placeholder((5, 6), "int8", name="A")
    k = te.reduce_axis(6)
    r = te.compute((5,), lambda i: te.sum(a[i, k].astype("int32"), axis=k), name="R")
    workload = te.workload(r)
    (array,) = random_inputs(workload)
    schedule = create_schedule(workload)
    schedule["R"].split("k", 4)
    (result,) = interpreted(schedule, [array])
    np.testing.assert_array_equal(result, array.astype(np.int32).sum(axis=1))
