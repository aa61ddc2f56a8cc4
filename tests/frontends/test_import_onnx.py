from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from loopwright.errors import LoopwrightError, ModelError, UnsupportedError
from loopwright.frontends.onnx.bundled import bundled, fill, resolve, shapes_of
from loopwright.frontends.onnx.importer import import_onnx_model
from loopwright.graph.evaluate import evaluate
from loopwright.graph.ir import Graph, verify
from loopwright.graph.passes.pipeline import PASSES

Array = npt.NDArray[np.generic]
node = helper.make_node
F = TensorProto.FLOAT


def model(
    nodes: Sequence[onnx.NodeProto],
    inputs: Mapping[str, Sequence[int | str]],
    outputs: Sequence[str] = ("y",),
    weights: Mapping[str, Array] | None = None,
    opset: int = 18,
    dtype: int = F,
) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info(name, dtype, shape) for name, shape in inputs.items()],
        [helper.make_tensor_value_info(name, F, None) for name in outputs],
        [numpy_helper.from_array(array, name) for name, array in (weights or {}).items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def random_inputs(graph: Graph, seed: int = 0) -> dict[str, Array]:
    rng = np.random.default_rng(seed)
    found: dict[str, Array] = {}
    for name in graph.inputs:
        value = graph.values[name]
        if value.dtype.is_float:
            found[name] = rng.standard_normal(value.shape).astype(value.dtype.numpy)
        else:
            found[name] = rng.integers(0, 2, value.shape).astype(value.dtype.numpy)
    return found


def assert_like_onnx(made: onnx.ModelProto, *, rtol: float = 1e-4) -> Graph:
    """Assert that the imported graph, after each pass, computes what ONNX's evaluator does."""
    graph = import_onnx_model(made)
    inputs = random_inputs(graph)
    expected = ReferenceEvaluator(made).run(None, inputs)
    steps = [graph]
    for step in PASSES:
        steps.append(step(steps[-1]))
        verify(steps[-1])
    for each in (graph, steps[-1]):
        assert each.outputs == tuple(v.name for v in made.graph.output)
        for found, wanted in zip(evaluate(each, inputs), expected, strict=True):
            assert found.dtype == np.asarray(wanted).dtype
            np.testing.assert_allclose(found, wanted, rtol=rtol, atol=1e-5)
    return steps[-1]


@pytest.mark.parametrize("name", bundled())
def test_a_bundled_model_has_the_shapes_that_onnx_infers(name: str) -> None:
    loaded = onnx.load(resolve(name))
    graph = import_onnx_model(loaded, None, shapes_of(loaded))
    verify(graph)
    inferred = onnx.shape_inference.infer_shapes(loaded, strict_mode=True, data_prop=True).graph
    compared = 0
    for value in (*inferred.value_info, *inferred.output):
        if value.name in graph.values:
            shape = tuple(d.dim_value for d in value.type.tensor_type.shape.dim)
            assert graph.values[value.name].shape == shape, value.name
            compared += 1
    assert compared > len(loaded.graph.node) // 3
    assert graph.outputs == tuple(value.name for value in loaded.graph.output)


@pytest.mark.parametrize("name", ["dqn", "dcgan", "lstm_lm"])
def test_a_bundled_model_computes_what_onnxruntime_does(name: str) -> None:
    filled = fill(onnx.load(resolve(name)))
    graph = import_onnx_model(filled)
    inputs = random_inputs(graph)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(
        filled.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    expected = session.run(None, inputs)
    for step in (*PASSES, None):
        for found, wanted in (
            zip(evaluate(graph, inputs), expected, strict=True) if step is None else ()
        ):
            np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5 * np.abs(wanted).max())
        graph = graph if step is None else step(graph)


def test_a_shape_that_is_computed_from_shapes_becomes_a_constant() -> None:
    made = model(
        [
            node("Shape", ["x"], ["s"]),
            node("Gather", ["s", "zero"], ["n"], axis=0),
            node("Unsqueeze", ["n", "axes"], ["n1"]),
            node("Mul", ["n1", "two"], ["n2"]),
            node("Concat", ["n2", "rest"], ["shape"], axis=0),
            node("Reshape", ["x", "shape"], ["y"]),
        ],
        {"x": (3, 4, 5)},
        weights={
            "zero": np.array(0),
            "axes": np.array([0]),
            "two": np.array([2]),
            "rest": np.array([-1]),
        },
    )
    graph = import_onnx_model(made)
    assert [n.op for n in graph.nodes] == ["reshape"]
    assert graph.values["y"].shape == (6, 10)
    assert not graph.constants


@pytest.mark.parametrize("steps", [1, 4])
@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
@pytest.mark.parametrize("op", ["LSTM", "GRU", "RNN"])
def test_recurrent_operators_are_written_out(op: str, direction: str, steps: int) -> None:
    gates = {"LSTM": 4, "GRU": 3, "RNN": 1}[op]
    ways, hidden, width, batch = 2 if direction == "bidirectional" else 1, 3, 5, 2
    rng = np.random.default_rng(1)
    weights = {
        "w": rng.uniform(-1, 1, (ways, gates * hidden, width)).astype(np.float32),
        "r": rng.uniform(-1, 1, (ways, gates * hidden, hidden)).astype(np.float32),
        "b": rng.uniform(-1, 1, (ways, 2 * gates * hidden)).astype(np.float32),
    }
    states = ["h", "c"] if op == "LSTM" else ["h"]
    outputs = ["y", "yh", "yc"][: 1 + len(states)]
    inputs = {"x": (steps, batch, width), **dict.fromkeys(states, (ways, batch, hidden))}
    made = model(
        [
            node(
                op,
                ["x", "w", "r", "b", "", *states],
                outputs,
                hidden_size=hidden,
                direction=direction,
            )
        ],
        inputs,
        outputs,
        weights,
    )
    graph = import_onnx_model(made)
    given = random_inputs(graph)
    session = onnxruntime.InferenceSession(
        made.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    for found, wanted in zip(evaluate(graph, given), session.run(None, given), strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-6)


def test_external_weights_are_read(tmp_path: Path) -> None:
    weight = np.arange(12, dtype=np.float32).reshape(3, 4)
    made = model([node("MatMul", ["x", "w"], ["y"])], {"x": (2, 3)}, weights={"w": weight})
    path = tmp_path / "model.onnx"
    onnx.save(made, path, save_as_external_data=True, location="w.bin", size_threshold=0)
    graph = import_onnx_model(path)
    np.testing.assert_array_equal(graph.constants["w"], weight)
    (tmp_path / "w.bin").write_bytes(b"\0" * 7)
    with pytest.raises(ModelError, match=r"weight 'w' cannot be read"):
        import_onnx_model(path)
    (tmp_path / "w.bin").unlink()
    with pytest.raises(ModelError, match=r"weight 'w' cannot be read"):
        import_onnx_model(path)


def test_an_output_that_is_an_input_or_another_output_is_a_copy() -> None:
    made = model(
        [
            node("Relu", ["x"], ["y"]),
            node("Identity", ["y"], ["z"]),
            node("Identity", ["x"], ["v"]),
        ],
        {"x": (2, 3)},
        ["y", "z", "v"],
    )
    assert_like_onnx(made)


def test_a_function_of_the_model_and_one_of_onnx_are_put_in_place() -> None:
    made = model([node("Relu", ["x"], ["t"]), node("Sin", ["t"], ["y"])], {"x": (2, 3)})
    made.graph.node[0].domain = "own"
    made.graph.node[0].op_type = "Twice"
    made.opset_import.append(helper.make_opsetid("own", 1))
    made.functions.append(
        helper.make_function(
            "own",
            "Twice",
            ["a"],
            ["b"],
            [node("Add", ["a", "a"], ["b"])],
            [helper.make_opsetid("", 18)],
        )
    )
    assert [n.op for n in import_onnx_model(made).nodes] == ["add", "sin"]
    target = np.array([[1, 0], [0, 1]])
    loss = node("NegativeLogLikelihoodLoss", ["x", "t"], ["y"], reduction="mean")
    assert_like_onnx(model([loss], {"x": (2, 3, 2)}, weights={"t": target}))


def test_all_that_is_unsupported_is_named_at_once() -> None:
    made = model([node("Relu", ["x"], ["a"])], {"x": (2, 3)}, [])
    del made.graph.output[:]
    made.graph.node.extend(
        [
            node("Det", ["a"], ["b"], name="d1"),
            node("Det", ["b"], ["c"], name="d2"),
            node("Fancy", ["c"], ["y"], name="f", domain="com.other"),
        ]
    )
    made.graph.output.append(helper.make_tensor_value_info("y", F, (2, 3)))
    named = r"Det in 2 nodes, as 'd1'; com.other.Fancy in 1 node, 'f'"
    with pytest.raises(UnsupportedError, match=named):
        import_onnx_model(made)


def _weight(value: Array) -> Callable[[], onnx.ModelProto]:
    return lambda: model(
        [node("MatMul", ["x", "w"], ["y"], name="n")], {"x": (2, 3)}, weights={"w": value}
    )


def _one(
    op: str,
    *more: str,
    shape: Sequence[int | str] = (2, 3),
    weights: Mapping[str, Array] | None = None,
    opset: int = 18,
    dtype: int = F,
    **attrs: object,
) -> Callable[[], onnx.ModelProto]:
    inputs = {"x": shape, **{m: (2,) for m in more if m and m not in (weights or {})}}
    return lambda: model(
        [node(op, ["x", *more], ["y"], name="n", **attrs)],
        inputs,
        weights=weights,
        opset=opset,
        dtype=dtype,
    )


BAD: Mapping[str, tuple[Callable[[], onnx.ModelProto], type[LoopwrightError], str]] = {
    "a NaN": (
        _weight(np.array([[1.0, np.nan]] * 3, np.float32)),
        ModelError,
        r"weight 'w' is NaN at \[0, 1\], and 3 of its 6 elements",
    ),
    "operands that do not fit": (
        _weight(np.ones((4, 2), np.float32)),
        ModelError,
        r"node 'n' \(matmul\).*last dimension of a",
    ),
    "a dynamic dimension": (
        _one("Relu", shape=("batch", 3)),
        ModelError,
        r"dimension 0 of input 'x' is dynamic \('batch'\).*--input-shape x:1x3",
    ),
    "an old opset": (
        _one("Relu", opset=6),
        UnsupportedError,
        r"uses opset 6; 7 to \d+ are supported",
    ),
    "a dtype": (
        _one("Identity", dtype=TensorProto.STRING),
        UnsupportedError,
        r"input 'x': the element type string is not supported",
    ),
    "training": (
        _one(
            "BatchNormalization",
            "s",
            "b",
            "m",
            "v",
            training_mode=1,
            weights={n: np.ones(3, np.float32) for n in "sbmv"},
        ),
        UnsupportedError,
        r"node 'n' \(BatchNormalization\): training mode",
    ),
    "pads that do not fit": (
        _one(
            "Conv",
            "w",
            shape=(1, 2, 5, 5),
            pads=[1, 1],
            weights={"w": np.ones((1, 2, 3, 3), np.float32)},
        ),
        ModelError,
        r"g.*pads",
    ),
    "a shape of other size": (
        _one("Reshape", "s", weights={"s": np.array([4, 2])}),
        ModelError,
        r"6 elements do not fit the shape \[4, 2\]|shapes",
    ),
    "an index that is not there": (
        _one("Gather", "i", weights={"i": np.array([5])}, axis=0),
        ModelError,
        r"node 'n' \(Gather\): an index is outside of 2 entries",
    ),
    "an axis that is not there": (
        _one("Concat", "z", axis=4, weights={"z": np.ones((2, 3), np.float32)}),
        ModelError,
        r"the axis 4 is not there|axis",
    ),
    "indices of a pool": (
        lambda: model(
            [node("MaxPool", ["x"], ["y", "i"], name="n", kernel_shape=[2, 2])],
            {"x": (1, 1, 4, 4)},
            ["y", "i"],
        ),
        UnsupportedError,
        r"node 'n' \(MaxPool\): the second output",
    ),
}


@pytest.mark.parametrize("what", BAD)
def test_a_bad_model_is_refused_with_the_reason(what: str) -> None:
    made, kind, message = BAD[what]
    with pytest.raises(kind, match=message):
        import_onnx_model(made())


def test_a_parameter_that_is_computed_is_refused() -> None:
    made = model(
        [
            node("Cast", ["x"], ["s"], to=TensorProto.INT64),
            node("Reshape", ["x", "s"], ["y"], name="n"),
        ],
        {"x": (2,)},
    )
    with pytest.raises(UnsupportedError, match=r"'n' \(Reshape\): the new shape .*'s'.*constant"):
        import_onnx_model(made)


def test_a_file_that_is_cut_off_or_not_onnx_is_refused(tmp_path: Path) -> None:
    whole = resolve("dqn").read_bytes()
    path = tmp_path / "cut.onnx"
    for content in (whole[: len(whole) // 2], b"no model at all", b""):
        path.write_bytes(content)
        with pytest.raises(LoopwrightError, match=r"cut\.onnx"):
            import_onnx_model(path)
    with pytest.raises(ModelError, match="cannot be read"):
        import_onnx_model(tmp_path / "none.onnx")


@pytest.mark.parametrize("op", ["Add", "Mul", "MatMul", "Sub"])
def test_infinities_of_a_weight_are_kept(op: str) -> None:
    mask = np.triu(np.full((3, 3), -np.inf, np.float32), 1)
    graph = import_onnx_model(
        model([node(op, ["x", "m"], ["y"])], {"x": (3, 3)}, weights={"m": mask})
    )
    np.testing.assert_array_equal(graph.constants["m"], mask)
