from __future__ import annotations

import numpy as np
import pytest
from node_cases import agree, compiled, floats, meaning, reference, workload_of

from loopwright.errors import ShapeError
from loopwright.layout import Array


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize(("op", "name"), [("softmax", "Softmax"), ("log_softmax", "LogSoftmax")])
def test_softmax_is_that_of_onnx(op: str, name: str, axis: int) -> None:
    x = 5 * floats(3, 4, 17)
    agree(op, meaning(op, [x], axis=axis), reference(name, [x], axis=axis))
    compiled(op, [x], axis=axis)


@pytest.mark.parametrize("op", ["softmax", "log_softmax"])
def test_large_numbers_do_not_overflow_softmax(op: str) -> None:
    x = np.array([[1000.0, 999.0], [-1000.0, -1001.0]], np.float32)
    found = meaning(op, [x], axis=1)
    np.testing.assert_allclose(found[0], found[1])
    assert np.isfinite(found).all()


@pytest.mark.parametrize("op", ["softmax", "log_softmax"])
def test_softmax_of_half_precision_sums_in_single(op: str) -> None:
    x = floats(2, 300, dtype="float16")
    kinds = {t.name: t.dtype.name for t in workload_of(op, [x], axis=1).stages}
    assert (kinds["out.sum"], kinds["out"]) == ("float32", "float16")
    compiled(op, [x], axis=1)


@pytest.mark.parametrize("with_bias", [False, True])
@pytest.mark.parametrize("axis", [1, 2])
def test_layer_norms_are_those_of_onnx(axis: int, with_bias: bool) -> None:
    x = floats(3, 5, 17) * 3 + 2
    shape = x.shape[axis:]
    arrays: list[Array] = [x, floats(*shape, seed=1)]
    arrays += [floats(*shape, seed=2)] if with_bias else []
    expected = reference("LayerNormalization", arrays, axis=axis, epsilon=1e-3)
    agree("layer_norm", meaning("layer_norm", arrays, axis=axis, epsilon=1e-3), expected, 1e-4)
    compiled("layer_norm", arrays, axis=axis, epsilon=1e-3)


@pytest.mark.parametrize("shape", [(2, 3, 9), (2, 3, 7, 5)], ids=str)
def test_instance_norms_are_those_of_onnx(shape: tuple[int, ...]) -> None:
    arrays = [floats(*shape), floats(3, seed=1), floats(3, seed=2)]
    expected = reference("InstanceNormalization", arrays, epsilon=1e-3)
    agree("instance_norm", meaning("instance_norm", arrays, epsilon=1e-3), expected, 1e-4)
    compiled("instance_norm", arrays, epsilon=1e-3)


@pytest.mark.parametrize("shape", [(4, 3), (2, 3, 9), (2, 3, 7, 5)], ids=str)
def test_batch_norms_are_those_of_onnx(shape: tuple[int, ...]) -> None:
    arrays = [floats(*shape), *(floats(3, seed=n) for n in range(3))]
    arrays.append(np.abs(floats(3, seed=4)) + np.float32(0.1))
    expected = reference("BatchNormalization", arrays, epsilon=1e-3)
    agree("batch_norm", meaning("batch_norm", arrays, epsilon=1e-3), expected, 1e-4)
    compiled("batch_norm", arrays, epsilon=1e-3)


@pytest.mark.parametrize("size", [1, 3, 4, 5])
def test_local_responses_divide_by_their_neighbours(size: int) -> None:
    x = 3 * floats(2, 7, 4, 5)
    attrs = {"alpha": 0.3, "beta": 0.6, "bias": 1.5}
    before = (size - 1) // 2
    around = np.pad(x.astype(float) ** 2, ((0, 0), (before, size - 1 - before), (0, 0), (0, 0)))
    squares = sum(around[:, k : k + 7] for k in range(size))
    expected = (x / (1.5 + 0.3 / size * squares) ** 0.6).astype(np.float32)
    agree("lrn", meaning("lrn", [x], size=size, **attrs), expected, 1e-4)
    if size % 2:  # all that onnxruntime takes
        agree("lrn", expected, reference("LRN", [x], runtime=True, size=size, **attrs), 1e-4)
    compiled("lrn", [x], size=size, **attrs)


@pytest.mark.parametrize(
    ("op", "shapes", "attrs", "message"),
    [
        ("softmax", [(3,)], {"axis": 1}, "axis=1 is not a dimension of 1"),
        ("layer_norm", [(3, 4), (3,)], {"axis": 1}, "do not broadcast"),
        ("instance_norm", [(3, 4), (4,), (4,)], {}, "at least 3 dimensions"),
        ("instance_norm", [(3, 4, 5), (4,), (5,)], {}, "one number for each channel"),
        ("batch_norm", [(3, 4), (4,), (4,), (4,), (3,)], {}, "one number for each channel"),
        ("lrn", [(3, 4)], {"size": 0}, "at least 1"),
    ],
)
def test_norms_that_do_not_fit_are_refused(
    op: str, shapes: list[tuple[int, ...]], attrs: dict[str, int], message: str
) -> None:
    with pytest.raises(ShapeError, match=message):
        meaning(op, [floats(*shape) for shape in shapes], **attrs)
