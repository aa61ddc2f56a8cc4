"""If, Loop and Scan: written out where conditions and counts are constant, against onnxruntime."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto
from onnxruntime_oracle import assert_as_onnxruntime, graph_of, model, node, value

from loopwright.errors import ModelError, UnsupportedError
from loopwright.frontends.onnx.importer import import_onnx_model
from loopwright.frontends.onnx.rules import control
from loopwright.layout import Array

FLOAT, INT, BOOL = TensorProto.FLOAT, TensorProto.INT64, TensorProto.BOOL


def floats(*shape: int) -> Array:
    return np.random.default_rng(3).standard_normal(shape).astype(np.float32)


def branches(condition: Sequence[onnx.NodeProto], **weights: Array) -> onnx.ModelProto:
    """`x + w` if the value `c` is true, else `x * w`, of a `w` that each branch has of its own."""
    then = graph_of([node("Add", ["x", "w"], ["a"])], [], [value("a")], w=floats(4))
    other = graph_of([node("Mul", ["x", "w"], ["a"])], [], [value("a")], w=floats(4) + 1)
    chosen = node("If", ["c"], ["y"], name="pick", then_branch=then, else_branch=other)
    return model([*condition, chosen], [value("x", (3, 4))], [value("y")], **weights)


@pytest.mark.parametrize("truth", [True, False])
def test_a_constant_condition_takes_its_branch(truth: bool) -> None:
    assert_as_onnxruntime(branches([], c=np.array(truth)), {"x": floats(3, 4)})


@pytest.mark.parametrize("extent", [3, 4])
def test_a_condition_on_a_shape_is_known(extent: int) -> None:
    asked = [
        node("Shape", ["x"], ["s"]),
        node("Gather", ["s", "zero"], ["n"]),
        node("Equal", ["n", "wanted"], ["c"]),
    ]
    weights = {"zero": np.array(0), "wanted": np.array(extent)}
    assert_as_onnxruntime(branches(asked, **weights), {"x": floats(3, 4)})


def test_a_condition_on_values_is_refused_with_the_way_round() -> None:
    asked = [node("ReduceSum", ["x"], ["s"], keepdims=0), node("Greater", ["s", "zero"], ["c"])]
    with pytest.raises(UnsupportedError, match=r"'pick' .If.: the condition .* one model for each"):
        import_onnx_model(branches(asked, zero=np.float32(0)))


def test_an_unsupported_operator_matters_in_the_branch_that_is_taken_alone() -> None:
    then = graph_of([node("Det", ["x"], ["a"], name="odd")], [], [value("a")])
    other = graph_of([node("ReduceSum", ["x"], ["a"], keepdims=0)], [], [value("a")])
    for truth in (True, False):
        chosen = node("If", ["c"], ["y"], then_branch=then, else_branch=other)
        made = model([chosen], [value("x", (3, 3))], [value("y")], c=np.array(truth))
        if truth:
            with pytest.raises(UnsupportedError, match=r"'odd' .Det.: the operator is not supp"):
                import_onnx_model(made)
        else:
            assert_as_onnxruntime(made, {"x": floats(3, 3)})


def counting(limit: int | None, until: int | None, *, scans: bool = True) -> onnx.ModelProto:
    """`h = tanh(h + x) * (i + 1)`, `limit` times at most, and until step `until`."""
    inner = [
        node("Cast", ["i"], ["f"], to=FLOAT),
        node("Add", ["h", "x"], ["s"]),
        node("Tanh", ["s"], ["t"]),
        node("Add", ["f", "one"], ["g"]),
        node("Mul", ["t", "g"], ["h_out"]),
        node("Less", ["i", "until"], ["go_on"]),
        node("Identity", ["t"], ["each"]),
    ]
    step = graph_of(
        inner,
        [value("i", (), INT), value("go", (), BOOL), value("h", (2, 3))],
        [value("go_on", (), BOOL), value("h_out"), *([value("each")] if scans else [])],
        one=np.float32(1),
        until=np.array(10**9 if until is None else until),
    )
    outputs = ["y", "e"][: 1 + scans]
    loop = node("Loop", ["" if limit is None else "n", "", "h0"], outputs, name="l", body=step)
    weights = {} if limit is None else {"n": np.array(limit)}
    return model([loop], [value("x", (2, 3)), value("h0", (2, 3))],
                 [value(o) for o in outputs], **weights)  # fmt: skip


@settings(max_examples=15, deadline=None)
@given(st.integers(1, 6) | st.none(), st.integers(0, 6) | st.none())
def test_a_loop_of_a_constant_count_is_written_out(limit: int | None, until: int | None) -> None:
    if limit is None and until is None:
        return
    given = {"x": floats(2, 3), "h0": floats(2, 3) / 2}
    assert_as_onnxruntime(counting(limit, until), given)


def test_a_loop_of_no_step_gives_what_it_was_given() -> None:
    given = {"x": floats(2, 3), "h0": floats(2, 3) / 2}
    assert_as_onnxruntime(counting(0, None, scans=False), given)
    with pytest.raises(UnsupportedError, match=r"'l' .Loop.: it takes no step"):
        import_onnx_model(counting(0, None))


def test_a_loop_without_an_end_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control, "MAX_STEPS", 9)
    with pytest.raises(UnsupportedError, match=r"'l' .Loop.: it has 10 steps or more, and 9 can"):
        import_onnx_model(counting(None, None))


def test_a_count_that_is_an_input_is_refused() -> None:
    made = counting(3, None)
    made.graph.initializer.pop()
    made.graph.input.append(value("n", (), INT))
    with pytest.raises(UnsupportedError, match=r"'l' .Loop.: the number of steps"):
        import_onnx_model(made)


@settings(max_examples=15, deadline=None)
@given(st.sampled_from([-2, -1, 0, 1, 2]), st.tuples(*[st.integers(0, 1)] * 3), st.integers(0, 1))
def test_scans_go_along_any_axis_both_ways(
    axis: int, directions: tuple[int, int, int], out_axis: int
) -> None:
    step = graph_of(
        [node("Add", ["h", "a"], ["t"]), node("Mul", ["t", "b"], ["u"]),
         node("Tanh", ["u"], ["h_out"]), node("Sub", ["t", "b"], ["each"])],
        [value("h", (2,)), value("a", (2,)), value("b", (2,))],
        [value("h_out", (2,)), value("each", (2,))],
    )  # fmt: skip
    axis = axis % 2
    shape = (2, 2)
    scan = node(
        "Scan", ["h0", "a", "b"], ["y", "e"], body=step, num_scan_inputs=2,
        scan_input_axes=[axis, 0], scan_input_directions=directions[:2],
        scan_output_directions=directions[2:], scan_output_axes=[out_axis],
    )  # fmt: skip
    made = model([scan], [value("h0", (2,)), value("a", shape), value("b", shape)],
                 [value("y"), value("e")])  # fmt: skip
    assert_as_onnxruntime(made, {"h0": floats(2), "a": floats(2, 2), "b": floats(2, 2) + 1})


def test_an_initializer_that_nothing_reads_is_no_input() -> None:
    made = model([node("Relu", ["x"], ["y"])], [value("x", (2,)), value("old", (3,))],
                 [value("y")], old=floats(3))  # fmt: skip
    assert import_onnx_model(made).inputs == ("x",)


def test_a_dimension_name_is_given_once_and_must_agree() -> None:
    made = model([node("Add", ["a", "b"], ["y"])], [value("a", ("n", 2)), value("b", ("n", 2))],
                 [value("y")])  # fmt: skip
    graph = import_onnx_model(made, {"a": (3, 2)})
    assert graph.values["b"].shape == (3, 2)
    with pytest.raises(ModelError, match=r"'n' is 3 in input 'a' and 1 in input 'b'"):
        import_onnx_model(made, {"a": (3, 2), "b": (1, 2)})
