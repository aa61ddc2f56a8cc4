"""Random kernels: what the generated code computes is what a plain walk over the loops computes.

Values are small integers held in float32, so every result is exact whatever is contracted.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from machines import can_run
from random_kernels import check, nests, tiles

from loopwright.ir.kernel import Kernel
from loopwright.target.presets import PRESETS

TARGETS = [PRESETS[name] for name in PRESETS if can_run(name)]
FIXTURES = (HealthCheck.function_scoped_fixture, HealthCheck.too_slow)


@settings(max_examples=150, deadline=None, suppress_health_check=FIXTURES)
@given(kernel=nests(), target=st.integers(0, len(TARGETS) - 1))
def test_any_loop_nest_computes_what_it_says(
    run: Callable[..., tuple[np.ndarray, ...]], kernel: Kernel, target: int
) -> None:
    check(run, kernel, TARGETS[target])


@settings(max_examples=150, deadline=None, suppress_health_check=FIXTURES)
@given(kernel=tiles(), target=st.integers(0, len(TARGETS) - 1))
def test_any_register_tile_computes_what_it_says(
    run: Callable[..., tuple[np.ndarray, ...]], kernel: Kernel, target: int
) -> None:
    check(run, kernel, TARGETS[target])
