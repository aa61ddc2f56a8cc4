"""The default config of the template for any workload is right, in any layouts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn
from running import compiled, differences, random_inputs
from workloads import workloads

from loopwright.build.compile import compile_config
from loopwright.layout import Layout
from loopwright.ops.registry import define
from loopwright.runtime.cpu.kernel import CpuDevice
from loopwright.target.host import host
from loopwright.target.parse import parse
from loopwright.te import language as te
from loopwright.te.reference import evaluate
from loopwright.te.tensor import Tensor
from loopwright.te.workload import Workload
from loopwright.templates.apply import scheduled
from loopwright.templates.cpu.generic import TEMPLATE
from loopwright.templates.task import Task, make

LAW = settings(deadline=None, suppress_health_check=[*HealthCheck])
BLOCKED = Layout.blocked(4, [0, 1, 2, 3, (1, 8)])
Op = tuple[str, dict[str, object]]


def chain(shapes: Sequence[tuple[int, ...]], *ops: Op, dtype: str = "float32") -> Workload:
    """The first op on all inputs, each next one on the result of the one before."""
    inputs = [te.placeholder(shape, dtype, f"x{n}") for n, shape in enumerate(shapes)]
    values: list[Tensor] = list(inputs)
    for number, (op, attrs) in enumerate(ops):
        values = list(define(op, attrs, values, f"n{number}"))  # type: ignore[arg-type]
    return te.workload(values, name="chain")


def task_of(workload: Workload, layouts: Mapping[str, Layout] | None = None) -> Task:
    chosen = tuple((layouts or {}).items())
    return make(workload, TEMPLATE, host(), threads=2, layouts=chosen)


def check(workload: Workload, cpu: CpuDevice, layouts: Mapping[str, Layout] | None = None) -> None:
    task = task_of(workload, layouts)
    assert task.template.default is not None
    schedule = scheduled(task, task.template.default(workload, task.target))
    inputs = random_inputs(workload)
    found = differences(workload, compiled(schedule, inputs, cpu), evaluate(workload, inputs))
    assert not found, f"{found}\n{workload}\n{schedule}"


POOL = {"kernel": (3, 3), "strides": (2, 2), "pads": (1, 1, 1, 1)}
AVERAGE = {"kernel": (3, 3), "strides": (1, 1), "pads": (1, 1, 1, 1)}
IMAGE = (1, 24, 9, 11)
CASES: dict[str, tuple[list[tuple[int, ...]], list[Op]]] = {
    "relu": ([IMAGE], [("relu", {})]),
    "channels that blocks do not divide": ([(2, 18, 5, 7)], [("silu", {})]),
    "fewer channels than a block": ([(1, 3, 6, 6)], [("relu", {})]),
    "residual": ([IMAGE, IMAGE], [("add", {}), ("relu", {})]),
    "scale by channel": ([IMAGE, (24, 1, 1)], [("mul", {}), ("sigmoid", {})]),
    "gate": ([IMAGE, (1, 24, 1, 1)], [("mul", {})]),
    "max pool": ([IMAGE], [("max_pool", POOL)]),
    "max pool of 18": ([(1, 18, 8, 8)], [("max_pool", {"kernel": (2, 2), "strides": (2, 2)})]),
    "max pool 5x5": ([IMAGE], [("max_pool", {"kernel": (5, 5), "pads": (2, 2, 2, 2)})]),
    "average pool": ([IMAGE], [("average_pool", AVERAGE), ("relu", {})]),
    "global pool": ([IMAGE], [("reduce_mean", {"axes": (2, 3), "keepdims": 1})]),
    "global maximum": ([(1, 16, 7, 7)], [("reduce_max", {"axes": (2, 3), "keepdims": 1})]),
    "concat": ([(1, 8, 5, 7), (1, 16, 5, 7), (1, 8, 5, 7)], [("concat", {"axis": 1})]),
    "uneven concat": ([(1, 6, 4, 5), (1, 13, 4, 5)], [("concat", {"axis": 1}), ("relu", {})]),
    "concat of rows": ([(1, 16, 5, 7), (1, 16, 3, 7)], [("concat", {"axis": 2})]),
    "slice": (
        [IMAGE],
        [("slice", {"starts": (0, 8, 0, 0), "steps": (1,) * 4, "sizes": (1, 16, 9, 11)})],
    ),
    "mirrored slice": (
        [IMAGE],
        [("slice", {"starts": (0, 0, 8, 1), "steps": (1, 1, -2, 3), "sizes": (1, 24, 4, 3)})],
    ),
    "pad": (
        [IMAGE],
        [("pad", {"pads": (0, 0, 1, 2, 0, 0, 1, 0), "mode": "constant", "value": 0.5})],
    ),
    "softmax of channels": ([IMAGE], [("softmax", {"axis": 1})]),
    "softmax of columns": ([(2, 8, 5, 33)], [("softmax", {"axis": 3})]),
    "instance norm": ([IMAGE, (24,), (24,)], [("instance_norm", {"epsilon": 1e-5})]),
    "resize": (
        [IMAGE],
        [
            (
                "resize",
                {
                    "sizes": (1, 24, 18, 22),
                    "mode": "nearest",
                    "coordinate": "asymmetric",
                    "nearest": "floor",
                    "scales": (1.0, 1.0, 2.0, 2.0),
                },
            )
        ],
    ),
    "transpose": ([IMAGE], [("transpose", {"perm": (0, 2, 3, 1)})]),
}


@pytest.mark.parametrize("blocked", ["none", "inputs", "output", "all"])
@pytest.mark.parametrize("case", CASES)
def test_a_family_in_each_layout(cpu: CpuDevice, case: str, blocked: str) -> None:
    shapes, ops = CASES[case]
    workload = chain(shapes, *ops)
    chosen = {"none": (), "inputs": workload.inputs, "output": workload.outputs}
    tensors = chosen.get(blocked, workload.args)
    check(workload, cpu, {t.name: BLOCKED for t in tensors if t.ndim == 4})


ROWS: dict[str, tuple[list[tuple[int, ...]], list[Op]]] = {
    "softmax": ([(3, 5, 40)], [("softmax", {"axis": 2})]),
    "softmax of one row": ([(1, 100)], [("softmax", {"axis": 1})]),
    "softmax of rows shorter than a vector": ([(7, 5)], [("softmax", {"axis": 1})]),
    "softmax of long rows": ([(2, 1111)], [("log_softmax", {"axis": 1})]),
    "softmax of columns": ([(50, 19)], [("softmax", {"axis": 0})]),
    "masked softmax": ([(3, 4, 24), (24,)], [("add", {}), ("softmax", {"axis": 2})]),
    "layer norm": ([(6, 77), (77,), (77,)], [("layer_norm", {"axis": 1, "epsilon": 1e-5})]),
    "layer norm of planes": (
        [(3, 6, 7), (6, 7), (6, 7)],
        [("layer_norm", {"axis": 1, "epsilon": 1e-5})],
    ),
    "mean of rows": ([(9, 70)], [("reduce_mean", {"axes": (1,), "keepdims": 0}), ("relu", {})]),
    "mean of columns": ([(70, 9)], [("reduce_mean", {"axes": (0,), "keepdims": 0})]),
    "sum of all": ([(5, 31)], [("reduce_sum", {"axes": (0, 1), "keepdims": 0})]),
    "norm": ([(4, 33)], [("reduce_l2", {"axes": (1,), "keepdims": 1})]),
    "product of the middle": ([(3, 9, 10)], [("reduce_prod", {"axes": (1,), "keepdims": 0})]),
    "log sum exp": ([(4, 65)], [("reduce_log_sum_exp", {"axes": (1,), "keepdims": 0})]),
    "argmax": ([(4, 33)], [("argmax", {"axis": 1, "keepdims": 0, "select_last": 0})]),
    "heads": (
        [(2, 6, 24)],
        [("reshape", {"shape": (2, 6, 3, 8)}), ("transpose", {"perm": (0, 2, 3, 1)})],
    ),
    "gelu": ([(5, 70), (70,)], [("add", {}), ("gelu", {"approximate": "none"})]),
    "chain": ([(5, 37)], [("mish", {}), ("mish", {}), ("silu", {}), ("tanh", {})]),
    "a scalar": ([()], [("exp", {}), ("neg", {})]),
    "tile": ([(2, 3)], [("tile", {"repeats": (2, 5)})]),
}


@pytest.mark.parametrize("case", ROWS)
def test_rows_and_reductions(cpu: CpuDevice, case: str) -> None:
    shapes, ops = ROWS[case]
    check(chain(shapes, *ops), cpu)


def test_several_outputs_share_a_stage(cpu: CpuDevice) -> None:
    x = te.placeholder((4, 20), name="x")
    (shared,) = define("softmax", {"axis": 1}, [x], "s")
    (doubled,) = define("add", {}, [shared, shared], "d")
    check(te.workload([shared, doubled]), cpu)


@pytest.mark.parametrize("dtype", ["float64", "float16", "bfloat16", "int32", "int64", "int8"])
def test_other_dtypes(cpu: CpuDevice, dtype: str) -> None:
    check(chain([(3, 21), (21,)], ("max", {}), dtype=dtype), cpu)
    check(chain([(3, 40)], ("reduce_max", {"axes": (1,), "keepdims": 0}), dtype=dtype), cpu)


@pytest.mark.parametrize("axis", [0, 1])
def test_gather(cpu: CpuDevice, axis: int) -> None:
    table = te.placeholder((9, 20), name="table")
    rows = te.placeholder((2, 3), "int64", name="rows")
    (out,) = define("gather", {"axis": axis}, [table, rows], "g")
    check(te.workload(out, [table, rows, out]), cpu)


@st.composite
def images(draw: DrawFn) -> tuple[Workload, dict[str, Layout]]:
    """Elementwise operators and pools of an image, blocked by any number of channels."""
    shape = tuple(draw(st.integers(low, high)) for low, high in ((1, 2), (1, 26), (1, 9), (1, 9)))
    block = draw(st.sampled_from((4, 8, 16)))
    blocked = Layout.blocked(4, [0, 1, 2, 3, (1, block)])
    kernel = draw(st.integers(1, min(3, *shape[2:])))
    pads = (draw(st.integers(0, kernel - 1)), draw(st.integers(0, kernel - 1))) * 2
    window = {"kernel": (kernel,) * 2, "strides": (draw(st.integers(1, 3)),) * 2, "pads": pads}
    pool = draw(st.sampled_from([None, "max_pool", "average_pool"]))
    ops: list[Op] = [("add", {}), ("relu", {})]
    if pool is not None:
        ops.append((pool, window))
    ops += [(op, {}) for op in draw(st.lists(st.sampled_from(("sigmoid", "abs")), max_size=2))]
    other = tuple(n if draw(st.booleans()) else 1 for n in shape)
    workload = chain([shape, other], *ops)
    return workload, {t.name: blocked for t in workload.args if draw(st.booleans())}


@settings(LAW, max_examples=40)
@given(images())
def test_images_in_any_layout(cpu: CpuDevice, case: tuple[Workload, dict[str, Layout]]) -> None:
    check(case[0], cpu, case[1])


@settings(LAW, max_examples=40)
@given(workloads(), st.data())
def test_any_workload_in_any_layout(
    cpu: CpuDevice, workload: Workload, data: st.DataObject
) -> None:
    layouts = {}
    for tensor in workload.args:
        if tensor.ndim and data.draw(st.booleans()):
            block = (data.draw(st.integers(0, tensor.ndim - 1)), data.draw(st.integers(2, 9)))
            layouts[tensor.name] = Layout.blocked(tensor.ndim, [*range(tensor.ndim), block])
    check(workload, cpu, layouts)


@pytest.mark.parametrize("target", ["x86-64-avx512", "x86-64-sse4", "aarch64-neon"])
def test_defaults_are_of_the_space_and_compile(target: str) -> None:
    for shapes, ops in (CASES["max pool"], CASES["concat"], ROWS["softmax"]):
        workload = chain(shapes, *ops)
        task = make(workload, TEMPLATE, parse(target))
        assert task.template.default is not None
        config = task.template.default(workload, task.target)
        assert task.space.decode(task.space.encode(config)) == config
        assert compile_config(task, config).code


def test_small_kernels_do_not_run_in_parallel() -> None:
    for extent, parallel in ((100, False), (100_000, True)):
        workload = chain([(extent,)], ("relu", {}))
        task = task_of(workload)
        assert task.template.default is not None
        steps = str(scheduled(task, task.template.default(workload, task.target)))
        assert ("parallel" in steps) == parallel
