"""ScatterElements, ScatterND, TopK, GatherND, ReverseSequence, lengths: as in onnxruntime."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper
from onnxruntime_oracle import assert_as_onnxruntime, model, node, single, value

from loopwright.errors import ModelError
from loopwright.frontends.onnx.importer import import_onnx_model
from loopwright.layout import Array

SEEDS = st.integers(0, 10**6)
SHAPES = st.lists(st.integers(1, 4), min_size=1, max_size=3)


def drawn(rng: np.random.Generator, shape: tuple[int, ...], dtype: str = "float32") -> Array:
    """Few different values, so that many are equal."""
    return (rng.integers(-3, 4, shape) / 2).astype(dtype)


@settings(max_examples=40, deadline=None)
@given(SEEDS, SHAPES, st.sampled_from(["none", "add", "mul", "max", "min"]))
def test_elements_are_scattered(seed: int, shape: list[int], reduction: str) -> None:
    rng = np.random.default_rng(seed)
    axis = int(rng.integers(-len(shape), len(shape)))
    extent = shape[axis]
    places = [int(rng.integers(1, n + 1)) for n in shape]
    if reduction == "none":  # of two updates for one place, any may win
        index = rng.permuted(
            np.broadcast_to(
                np.arange(extent).reshape([-1 if d == axis % len(shape) else 1
                                           for d in range(len(shape))]), shape), axis=axis,
        )[tuple(slice(n) for n in places)]  # fmt: skip
    else:
        index = rng.integers(0, extent, places)
    index = np.where(rng.random(index.shape) < 0.3, index - extent, index)
    arrays = [drawn(rng, tuple(shape)), index.astype(np.int64), drawn(rng, index.shape)]
    made = single("ScatterElements", arrays, axis=axis, reduction=reduction)
    assert_as_onnxruntime(made, dict(zip("abc", arrays, strict=True)))


@settings(max_examples=40, deadline=None)
@given(SEEDS, SHAPES, st.sampled_from(["none", "add", "mul", "max", "min"]))
def test_slices_are_scattered(seed: int, shape: list[int], reduction: str) -> None:
    rng = np.random.default_rng(seed)
    depth = int(rng.integers(1, len(shape) + 1))
    total = math.prod(shape[:depth])
    count = int(rng.integers(1, total + 1))
    single_index = rng.choice(total, count, replace=reduction != "none")
    index = np.stack(np.unravel_index(single_index, shape[:depth]), axis=-1)
    index = np.where(rng.random(index.shape) < 0.3, index - np.array(shape[:depth]), index)
    data = drawn(rng, tuple(shape))
    updates = drawn(rng, (count, *shape[depth:]))
    arrays = [data, index.astype(np.int64), updates]
    made = single("ScatterND", arrays, reduction=reduction)
    assert_as_onnxruntime(made, dict(zip("abc", arrays, strict=True)))


def test_a_row_of_a_cache_is_written_in_the_compiled_model() -> None:
    rng = np.random.default_rng(0)
    arrays = [drawn(rng, (6, 3, 8)), np.array([[4]]), drawn(rng, (1, 3, 8))]
    made = single("ScatterND", arrays)
    assert_as_onnxruntime(made, dict(zip("abc", arrays, strict=True)), compiled=True)


def test_a_constant_index_that_is_not_there_is_refused() -> None:
    for op, index in (("ScatterND", [[7]]), ("ScatterElements", [[7, 0]])):
        scatter = node(op, ["x", "i", "u"], ["y"], name="s")
        inputs = [value("x", (4, 2)), value("u", (1, 2))]
        made = model([scatter], inputs, [value("y")], i=np.array(index))
        with pytest.raises(ModelError, match=r"'s' .Scatter.*: an index is outside of"):
            import_onnx_model(made)


@settings(max_examples=40, deadline=None)
@given(SEEDS, SHAPES, st.booleans(), st.sampled_from(["float32", "int64", "float64", "int32"]))
def test_the_largest_are_found_in_order(
    seed: int, shape: list[int], largest: bool, dtype: str
) -> None:
    rng = np.random.default_rng(seed)
    axis = int(rng.integers(-len(shape), len(shape)))
    x = drawn(rng, tuple(shape), dtype)
    if dtype.startswith("float"):
        x[rng.random(x.shape) < 0.2] = rng.choice([-np.inf, np.inf, -0.0])
    count = np.array([rng.integers(1, shape[axis] + 1)])
    top = node("TopK", ["a", "k"], ["v", "i"], axis=axis, largest=int(largest))
    kind = helper.np_dtype_to_tensor_dtype(x.dtype)
    outputs = [helper.make_empty_tensor_value_info(n) for n in "vi"]
    assert_as_onnxruntime(model([top], [value("a", shape, kind)], outputs, k=count), {"a": x})


def test_the_largest_of_a_long_row_in_the_compiled_model() -> None:
    x = np.random.default_rng(1).standard_normal((3, 200)).astype(np.float32)
    top = node("TopK", ["a", "k"], ["v", "i"])
    outputs = [helper.make_empty_tensor_value_info(n) for n in "vi"]
    made = model([top], [value("a", x.shape)], outputs, k=np.array([7]))
    assert_as_onnxruntime(made, {"a": x}, compiled=True)


@settings(max_examples=40, deadline=None)
@given(SEEDS, SHAPES, SHAPES, SHAPES)
def test_slices_are_gathered_in_batches(
    seed: int, batch: list[int], inner: list[int], places: list[int]
) -> None:
    rng = np.random.default_rng(seed)
    batch = batch[: int(rng.integers(0, 3))]
    depth = int(rng.integers(1, len(inner) + 1))
    extents = np.array(inner[:depth])
    index = rng.integers(-extents, extents, (*batch, *places[:1], depth))
    arrays = [drawn(rng, (*batch, *inner)), index]
    made = single("GatherND", arrays, batch_dims=len(batch))
    assert_as_onnxruntime(made, dict(zip("ab", arrays, strict=True)))


@settings(max_examples=20, deadline=None)
@given(SEEDS, st.integers(0, 1), st.lists(st.integers(1, 4), min_size=2, max_size=4))
def test_sequences_are_reversed_up_to_their_lengths(seed: int, time: int, shape: list[int]) -> None:
    rng = np.random.default_rng(seed)
    lengths = rng.integers(0, shape[time] + 1, shape[1 - time])
    arrays = [drawn(rng, tuple(shape)), lengths]
    made = single("ReverseSequence", arrays, time_axis=time, batch_axis=1 - time)
    assert_as_onnxruntime(made, dict(zip("ab", arrays, strict=True)))


@settings(max_examples=30, deadline=None)
@given(
    st.sampled_from([("LSTM", 4), ("GRU", 3), ("RNN", 1)]),
    st.sampled_from(["forward", "reverse", "bidirectional"]),
    SEEDS,
    st.booleans(),
)
def test_sequences_end_after_their_lengths(
    kind: tuple[str, int], direction: str, seed: int, known: bool
) -> None:
    (op, gates), rng = kind, np.random.default_rng(seed)
    steps, batch, width, hidden = int(rng.integers(1, 5)), 3, 2, 2
    both = 2 if direction == "bidirectional" else 1
    lengths = rng.integers(1, steps + 1, batch).astype(np.int32)
    lengths[rng.integers(batch)] = steps

    def floats(*shape: int) -> Array:
        return rng.standard_normal(shape).astype(np.float32)

    weights = {
        "w": floats(both, gates * hidden, width),
        "r": floats(both, gates * hidden, hidden),
        "b": floats(both, 2 * gates * hidden),
        "h": floats(both, batch, hidden),
    }
    given = {"x": floats(steps, batch, width)}
    inputs = [value("x", (steps, batch, width))]
    if known:
        weights["n"] = lengths
    else:
        given["n"] = lengths
        inputs.append(value("n", (batch,), helper.np_dtype_to_tensor_dtype(lengths.dtype)))
    outputs = ["y", "last", "cell"][: 3 if op == "LSTM" else 2]
    recurrent = node(op, ["x", "w", "r", "b", "n", "h"], outputs,
                     hidden_size=hidden, direction=direction)  # fmt: skip
    made = model([recurrent], inputs, [value(o) for o in outputs], **weights)
    assert_as_onnxruntime(made, given)
