"""Any legal schedule of any workload computes what the expression means."""

from __future__ import annotations

from hypothesis import HealthCheck, given, settings
from loopwright.runtime.cpu import CpuDevice
from running import check_compiled
from schedules import Case, cases

QUICK = settings(
    max_examples=120,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)


@QUICK
@given(cases())
def test_generated_code_computes_the_expression(cpu: CpuDevice, case: Case) -> None:
    check_compiled(case.schedule, cpu)
