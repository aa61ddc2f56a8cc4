"""Runs operators of a graph in three ways: as tensor expressions, as kernels, and in ONNX."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnxruntime
from onnx import helper
from onnx.reference import ReferenceEvaluator

import loopwright as lw
from loopwright.build.compile import compile_config
from loopwright.ir.dtype import parse
from loopwright.layout import Array
from loopwright.ops.attributes import NodeAttr
from loopwright.ops.registry import define
from loopwright.runtime.cpu.kernel import CpuDevice
from loopwright.te.reference import compare, evaluate
from loopwright.te.tensor import placeholder
from loopwright.te.workload import Workload

Arrays = Sequence[Array | None]


def workload_of(op: str, arrays: Arrays, **attrs: NodeAttr) -> Workload:
    """The workload of one operator on inputs like `arrays`."""
    inputs = [
        None if a is None else placeholder(a.shape, parse(a.dtype.name), f"x{n}")
        for n, a in enumerate(arrays)
    ]
    outputs = define(op, attrs, inputs, "out")
    return lw.te.workload(
        outputs, [*(t for t in inputs if t is not None), *outputs], name=f"node_{op}"
    )


def meaning(op: str, arrays: Arrays, **attrs: NodeAttr) -> Array:
    """The first output of an operator by its tensor expression."""
    given = [a for a in arrays if a is not None]
    return evaluate(workload_of(op, arrays, **attrs), given)[0]


def reference(
    op_type: str, arrays: Arrays, *, opset: int = 21, runtime: bool = False, **attrs: object
) -> Array:
    """The first output of an ONNX operator, by its reference or by onnxruntime."""
    names = ["" if a is None else f"x{n}" for n, a in enumerate(arrays)]
    feeds = {n: a for n, a in zip(names, arrays, strict=True) if a is not None}
    infos = [
        helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(a.dtype), a.shape)
        for n, a in feeds.items()
    ]
    node = helper.make_node(op_type, names, ["y"], **attrs)
    model = helper.make_model(
        helper.make_graph([node], "g", infos, [helper.make_empty_tensor_value_info("y")]),
        opset_imports=[helper.make_opsetid("", opset)],
        ir_version=10,
    )
    if runtime:
        session = onnxruntime.InferenceSession(
            model.SerializeToString(), providers=["CPUExecutionProvider"]
        )
        return np.asarray(session.run(None, feeds)[0])
    return np.asarray(ReferenceEvaluator(model).run(None, feeds)[0])


def agree(op: str, actual: Array, expected: Array, tolerance: float = 1e-5) -> None:
    """Nothing, if `actual` is `expected` but for rounding; else an AssertionError."""
    assert actual.dtype == expected.dtype, f"{op} gives {actual.dtype}, not {expected.dtype}"
    assert actual.shape == expected.shape, f"{op} gives {actual.shape}, not {expected.shape}"
    if actual.dtype.kind == "f" or actual.dtype.name == "bfloat16":
        close = {"rtol": tolerance, "atol": tolerance}
        np.testing.assert_allclose(actual.astype(float), expected.astype(float), **close)
    else:
        np.testing.assert_array_equal(actual, expected)


def compiled(op: str, arrays: Arrays, *, seed: int = 0, **attrs: NodeAttr) -> None:
    """Nothing, if a kernel of the operator computes what its expression says."""
    made = workload_of(op, arrays, **attrs)
    task = lw.task(made)
    row = task.space.sample(np.random.default_rng(seed), 1)[0]
    config = task.space.decode(row)
    given = [a for a in arrays if a is not None]
    with CpuDevice() as device:
        found = device.module(compile_config(task, config))(*given)
    outputs = found if isinstance(found, tuple) else (found,)
    for actual, expected in zip(outputs, evaluate(made, given), strict=True):
        wrong = compare(made, np.asarray(actual), expected)
        assert wrong is None, f"{op}: {wrong}"


def floats(*shape: int, seed: int = 0, dtype: str = "float32") -> Array:
    """Numbers around 0 in which no two operations meet by accident."""
    return np.random.default_rng(seed).normal(size=shape).astype(parse(dtype).numpy)
