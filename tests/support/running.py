"""Programs run three ways: NumPy on the expression, generated code, the interpreter."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from loopwright.build.compile import compile_schedule
from loopwright.ir import interp
from loopwright.layout import Array
from loopwright.lower.pipeline import apply_passes, lower
from loopwright.runtime.cpu.kernel import CpuDevice
from loopwright.sched.schedule import Schedule
from loopwright.target.host import host
from loopwright.target.union import Target
from loopwright.te.reference import compare, evaluate
from loopwright.te.workload import Workload


def random_inputs(workload: Workload, seed: int = 0) -> tuple[Array, ...]:
    """An array for each input: floats in [-1, 1], integers in [-4, 4] (from 0 when unsigned)."""
    rng = np.random.default_rng(seed)
    arrays: list[Array] = []
    for tensor in workload.inputs:
        kind = tensor.dtype
        if kind.is_float:
            values = rng.uniform(-1.0, 1.0, tensor.shape)
        elif kind.is_bool:
            values = rng.integers(0, 2, tensor.shape)
        else:
            values = rng.integers(-4 if kind.kind.value == "int" else 0, 5, tensor.shape)
        arrays.append(np.asarray(values).astype(kind.numpy))
    return tuple(arrays)


def compiled(
    schedule: Schedule, inputs: Sequence[Array], cpu: CpuDevice, target: Target | None = None
) -> tuple[Array, ...]:
    """The plain outputs of the code generated for `schedule`."""
    module = cpu.module(compile_schedule(schedule, host() if target is None else target))
    outputs = module(*inputs)
    return outputs if isinstance(outputs, tuple) else (outputs,)


def interpreted(
    schedule: Schedule, inputs: Sequence[Array], *, flat: bool = False, seed: int = 0
) -> tuple[Array, ...]:
    """The plain outputs of the loops, every access checked, unordered loops in random order."""
    kernel = lower(schedule)
    if flat:
        kernel = apply_passes(kernel, "cpu")
    args = schedule.workload.args
    layouts = [schedule.layout(t.name) for t in args]
    packed = [layout.pack(a) for layout, a in zip(layouts, inputs, strict=False)]
    outputs = [
        np.zeros(layout.physical_shape(t.shape), t.dtype.numpy)
        for layout, t in zip(layouts[len(inputs) :], args[len(inputs) :], strict=True)
    ]
    interp.run(kernel, [*packed, *outputs], np.random.default_rng(seed))
    plain = zip(layouts[len(inputs) :], outputs, schedule.workload.outputs, strict=True)
    return tuple(layout.unpack(memory, t.shape) for layout, memory, t in plain)


def differences(
    workload: Workload, actual: Sequence[Array], expected: Sequence[Array]
) -> list[str]:
    """What is wrong with each output that is wrong."""
    pairs = zip(workload.outputs, actual, expected, strict=True)
    found = [(t.name, compare(workload, a, e)) for t, a, e in pairs]
    return [f"{name}: {reason}" for name, reason in found if reason is not None]


def check_compiled(
    schedule: Schedule, cpu: CpuDevice, target: Target | None = None, seed: int = 0
) -> None:
    """Assert that generated code computes what the expression means."""
    inputs = random_inputs(schedule.workload, seed)
    expected = evaluate(schedule.workload, inputs)
    wrong = differences(schedule.workload, compiled(schedule, inputs, cpu, target), expected)
    assert not wrong, f"{wrong}\n{schedule.workload}\n{schedule}"


def check_interpreted(schedule: Schedule, *, flat: bool = False, seed: int = 0) -> None:
    """Assert that the loops compute what the expression means, without an access out of bounds."""
    inputs = random_inputs(schedule.workload, seed)
    expected = evaluate(schedule.workload, inputs)
    wrong = differences(schedule.workload, interpreted(schedule, inputs, flat=flat), expected)
    assert not wrong, f"{wrong}\n{schedule.workload}\n{schedule}"
