"""Any legal schedule of any workload computes what the expression means."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from running import check_compiled, check_interpreted
from schedules import Case, cases
from workloads import chains, convolutions, pipelines, products, reductions

from loopwright.ir.verify import verify
from loopwright.lower.pipeline import apply_passes, lower
from loopwright.runtime.cpu.kernel import CpuDevice
from loopwright.sched.schedule import create_schedule
from loopwright.target.parse import parse
from loopwright.te import language as te

QUICK = settings(deadline=None, suppress_health_check=[*HealthCheck])
STRATEGIES = {
    "chains": chains(),
    "reductions": reductions(),
    "products": products(),
    "convolutions": convolutions(),
    "pipelines": pipelines(),
}
each_kind = pytest.mark.parametrize("kind", sorted(STRATEGIES))


@each_kind
def test_loops_compute_the_expression_in_any_order_and_within_bounds(kind: str) -> None:
    @settings(QUICK, max_examples=80)
    @given(cases(STRATEGIES[kind]))
    def check(case: Case) -> None:
        check_interpreted(case.schedule)

    check()


@each_kind
def test_generated_code_computes_the_expression(kind: str, cpu: CpuDevice) -> None:
    @settings(QUICK, max_examples=30)
    @given(cases(STRATEGIES[kind]))
    def check(case: Case) -> None:
        check_compiled(case.schedule, cpu)

    check()


@pytest.mark.parametrize("target", ["x86-64-sse4", "x86-64-avx2"])
def test_narrower_targets_compute_the_same(target: str, cpu: CpuDevice) -> None:
    @settings(QUICK, max_examples=25)
    @given(cases())
    def check(case: Case) -> None:
        check_compiled(case.schedule, cpu, parse(target))

    check()


@settings(QUICK, max_examples=60)
@given(cases())
def test_the_kernel_is_well_formed_and_what_was_established_holds_after_each_pass(
    case: Case,
) -> None:
    kernel = lower(case.schedule)
    verify(kernel)
    apply_passes(kernel, "cpu", check=True)


@settings(QUICK, max_examples=120)
@given(cases())
def test_flat_loops_compute_the_same(case: Case) -> None:
    check_interpreted(case.schedule, flat=True)


@pytest.mark.parametrize("name", ["row", "lane", "fold"])
def test_parts_of_a_reduction_are_folded_in_parts(name: str) -> None:
    a = te.placeholder((2, 7), "float32", "A")
    k = te.reduce_axis(7, "k")
    sums = te.compute(
        (2,),
        {
            "row": lambda row: te.sum(a[row, k], axis=k),
            "lane": lambda lane: te.sum(a[lane, k], axis=k),
            "fold": lambda fold: te.sum(a[fold, k], axis=k),
        }[name],
        name="sums",
    )
    schedule = create_schedule(te.workload((sums,), name="sums"))
    schedule.split_reduction("sums", 2)
    schedule.split_reduction("sums.parts", 2)
    check_interpreted(schedule)
    check_interpreted(schedule, flat=True)
