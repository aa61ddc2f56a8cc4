"""Each elementwise operator means one thing, alone and in an epilogue: what ONNX says it means.

Compiled kernels are run on NaN, infinities, zeros of both signs, subnormal and huge numbers, and
compared with the reference of ONNX, which shares no definition with ours.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from node_cases import reference, workload_of

import loopwright as lw
from loopwright.build.compile import compile_config
from loopwright.layout import Array
from loopwright.ops.attributes import NodeAttr
from loopwright.ops.epilogue import Epilogue, parse, step, text_of
from loopwright.ops.opdef import OpKind, StepOperand
from loopwright.ops.registry import OPS, build
from loopwright.runtime.cpu.kernel import CpuDevice, Module
from loopwright.te.reference import evaluate
from loopwright.te.workload import Workload
from loopwright.templates.apply import good_config

Attrs = Mapping[str, NodeAttr]
COUNT = 12
SPECIAL = (np.nan, np.inf, -np.inf, 0.0, -0.0, 1e-42, -1e-42, 3e38, -3e38, 1.0, -1.5, 0.3)
LOGICAL = {"and", "or", "xor", "not", "bitwise_and"}
"""Operators on truth values and bits, of which none is special."""
WAYS: Mapping[str, tuple[Attrs, ...]] = {
    "leaky_relu": ({"alpha": 0.1}, {"alpha": 1.5}, {"alpha": -2.0}, {"alpha": 0.0}),
    "elu": ({"alpha": 1.0}, {"alpha": 2.5}),
    "selu": ({"alpha": 1.6, "gamma": 1.05},),
    "celu": ({"alpha": 1.3},),
    "hard_sigmoid": ({"alpha": 0.2, "beta": 0.5}, {"alpha": -3.0, "beta": 0.1}),
    "thresholded_relu": ({"alpha": 0.5},),
    "gelu": ({"approximate": "none"}, {"approximate": "tanh"}),
    "clip": ({"min": -1.0, "max": 6.0},),
    "cast": ({"to": "float64"}, {"to": "float16"}),
    "mod": ({"fmod": 1},),
}
"""The attributes that operators are tried with; none for the others."""
CASES = [
    (name, attrs)
    for name, row in OPS.items()
    if row.kind is OpKind.ELEMENTWISE
    and row.element is not None
    and row.onnx
    and name not in LOGICAL
    for attrs in WAYS.get(name, ({},))
]
EXCEPT: Mapping[str, Callable[..., Array]] = {
    # The quotient has more digits than a float64 can hold in a product with the divisor.
    "mod": lambda x, y: np.abs(x.astype(np.float64) / y) > 2.0**29,
    # ONNX defines x for x >= 0; its reference multiplies 0 by the slope all the same.
    "prelu": lambda x, y: (x == 0) & ~np.isfinite(y),
}
"""The operands for which an operator does not do what ONNX says, with the reason."""
VALUES = st.sampled_from(SPECIAL) | st.floats(width=32) | st.floats(-10, 10, width=32)
COLUMNS = st.lists(VALUES, min_size=COUNT, max_size=COUNT).map(
    lambda values: np.array(values, np.float32)
)
ALL = np.array(SPECIAL, np.float32)


class Kernels:
    """Compiled operators, each made once."""

    def __init__(self, device: CpuDevice) -> None:
        self.device = device
        self.made: dict[object, Module] = {}

    def alone(self, op: str, attrs: Attrs) -> Module:
        """The operator on its own."""
        arrays = operands(op, ALL, ALL)
        return self._of((op, *attrs.items()), lambda: workload_of(op, arrays, **attrs))

    def fused(self, each: Epilogue) -> Module:
        """The operator behind the product of a column and a row."""
        shapes = {"data": (COUNT, 1), "weight": (COUNT, 1)}
        return self._of(each, lambda: build("dense", **shapes, epilogue=text_of([each])))

    def _of(self, key: object, make: Callable[[], Workload]) -> Module:
        if key not in self.made:
            task = lw.task(make())
            self.made[key] = self.device.module(compile_config(task, good_config(task)))
        return self.made[key]


@pytest.fixture(scope="module")
def kernels() -> Iterator[Kernels]:
    with CpuDevice() as device:
        yield Kernels(device)


def operands(op: str, values: Array, others: Array) -> tuple[Array, ...]:
    """Operands of `op` in a square, so that each value meets each other one."""
    x, y = (np.ascontiguousarray(a) for a in np.meshgrid(values, others, indexing="ij"))
    return ((x,), (x, y), (np.arange(COUNT) % 2 == 0, x, y))[OPS[op].most - 1]


def onnx_says(op: str, attrs: Attrs, arrays: Sequence[Array]) -> Array:
    """What the reference of ONNX computes."""
    said: dict[str, object] = dict(attrs)
    if op == "clip":
        arrays = [*arrays, *(np.array(said.pop(name), np.float32) for name in ("min", "max"))]
    if op == "cast":
        said["to"] = {"float64": 11, "float16": 10}[str(attrs["to"])]
    with np.errstate(all="ignore"):
        return reference(OPS[op].onnx, arrays, opset=24, **said)


def agree(op: str, arrays: Sequence[Array], found: Array, wanted: Array) -> None:
    """Nothing, if `found` is `wanted` but for rounding, and for what `EXCEPT` has."""
    assert found.shape == wanted.shape
    with np.errstate(all="ignore"):
        left_out = EXCEPT[op](*arrays) if op in EXCEPT else np.zeros(wanted.shape, np.bool_)
    actual, expected = (np.where(left_out, 0, a.astype(np.float64)) for a in (found, wanted))
    np.testing.assert_allclose(actual, expected, rtol=2e-5, atol=1e-6)


@pytest.mark.parametrize(("op", "attrs"), CASES)
@settings(deadline=None, max_examples=10)
@example(values=ALL, others=ALL)
@given(values=COLUMNS, others=COLUMNS)
def test_an_operator_alone_and_fused_computes_what_onnx_says(
    kernels: Kernels, op: str, attrs: Attrs, values: Array, others: Array
) -> None:
    arrays = operands(op, values, others)
    wanted = onnx_says(op, attrs, arrays)
    agree(op, arrays, np.asarray(kernels.alone(op, attrs)(*arrays)), wanted)
    column, row = values.reshape(-1, 1), np.ones((COUNT, 1), np.float32)
    for operand in (StepOperand.NOTHING, StepOperand.TENSOR, StepOperand.CHANNELS):
        each = step(op, attrs, operand)
        if each is not None:
            read = {StepOperand.TENSOR: arrays[-1:], StepOperand.CHANNELS: (others,)}.get(
                operand, ()
            )
            agree(op, arrays, np.asarray(kernels.fused(each)(column, row, *read)), wanted)


@pytest.mark.parametrize("op", ["add", "mul"])
@settings(deadline=None, max_examples=10)
@example(values=ALL, number=np.float32(np.inf))
@given(values=COLUMNS, number=VALUES.map(np.float32))
def test_a_number_in_an_epilogue_is_a_constant_operand(
    op: str, values: Array, number: np.float32
) -> None:
    each = step(op, {"value": float(number)}, StepOperand.NUMBER)
    assert each is not None
    assert parse(text_of([each])) == (each,) or np.isnan(number)
    task = build("dense", data=(COUNT, 1), weight=(1, 1), epilogue=text_of([each]))
    (found,) = evaluate(task, [values.reshape(-1, 1), np.ones((1, 1), np.float32)])
    wanted = onnx_says(op, {}, [values.reshape(-1, 1), np.full((COUNT, 1), number)])
    np.testing.assert_allclose(found, wanted, rtol=2e-5, atol=1e-6)


def test_the_list_of_exceptions_holds_no_operator_that_agrees(kernels: Kernels) -> None:
    for op, attrs in CASES:
        if op in EXCEPT:
            arrays = operands(op, ALL, ALL)
            found = np.asarray(kernels.alone(op, attrs)(*arrays))
            wanted = onnx_says(op, attrs, arrays)
            assert not np.allclose(found, wanted, rtol=2e-5, atol=1e-6, equal_nan=True), op
