from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from node_cases import agree, compiled, floats, meaning, reference, workload_of

from loopwright.errors import ShapeError, UnsupportedError
from loopwright.ir import walk
from loopwright.ir.expr import Cast
from loopwright.layout import Array
from loopwright.ops.attributes import NodeAttr

COORDINATES = [
    "half_pixel",
    "asymmetric",
    "align_corners",
    "pytorch_half_pixel",
    "half_pixel_symmetric",
]
NEAREST = ["floor", "ceil", "round_prefer_floor", "round_prefer_ceil"]


NAMES = {
    "mode": "mode",
    "coordinate": "coordinate_transformation_mode",
    "nearest": "nearest_mode",
}


def resized(x: Array, scales: tuple[float, ...], attrs: dict[str, str]) -> Array:
    """What ONNX makes of `x`, in float64 so that only the places matter.

    With corners aligned, what onnxruntime and PyTorch make of it: the last element lies on the
    last one. The reference of ONNX takes extent * scale for the extent, a whole number or not.
    """
    said = {NAMES[name]: value for name, value in attrs.items()}
    if attrs.get("coordinate") == "align_corners":
        return onnxruntime_says(x, sizes_of(x, scales), said)
    return reference("Resize", [x, None, np.array(scales, np.float32)], opset=19, **said)


def onnxruntime_says(x: Array, sizes: tuple[int, ...], said: dict[str, str]) -> Array:
    """What onnxruntime makes of `x`, dimensions of extent 1 put before it."""
    before = (1,) * (4 - x.ndim)
    operands = [x.reshape(*before, *x.shape), None, None, np.array((*before, *sizes), np.int64)]
    return reference("Resize", operands, opset=19, runtime=True, **said).reshape(sizes)


def node_attrs(x: Array, scales: tuple[float, ...], attrs: dict[str, str]) -> dict[str, NodeAttr]:
    rounded = tuple(float(np.float32(s)) for s in scales)
    return {"sizes": sizes_of(x, scales), "scales": rounded, **attrs}


def sizes_of(x: Array, scales: tuple[float, ...]) -> tuple[int, ...]:
    """The extents of `x` times `scales`, rounded down."""
    return tuple(int(n * float(np.float32(s))) for n, s in zip(x.shape, scales, strict=True))


@pytest.mark.parametrize("scale", [2.0, 3.0, 0.5, 1.5, 0.6, 2.3, 1 / 3])
@pytest.mark.parametrize(("coordinate", "nearest"), list(itertools.product(COORDINATES, NEAREST)))
def test_nearest_places_are_those_of_onnx(coordinate: str, nearest: str, scale: float) -> None:
    x = np.arange(10, dtype=np.float32)
    attrs = {"mode": "nearest", "coordinate": coordinate, "nearest": nearest}
    found = meaning("resize", [x], **node_attrs(x, (scale,), attrs))
    agree("resize", found, resized(x, (scale,), attrs))


@settings(max_examples=60, deadline=None)
@given(
    extent=st.integers(2, 12),
    scale=st.floats(0.5, 4, width=32),
    coordinate=st.sampled_from(COORDINATES[:4]),
)
def test_linear_places_of_any_scale_are_those_of_onnx(
    extent: int, scale: float, coordinate: str
) -> None:
    x = floats(extent)
    attrs = {"mode": "linear", "coordinate": coordinate}
    found = meaning("resize", [x], **node_attrs(x, (scale,), attrs))
    agree("resize", found, resized(x, (scale,), attrs), 1e-4)


@pytest.mark.parametrize("scale", [2.0, 3.0, 0.5, 1.5, 0.6, 2.3])
@pytest.mark.parametrize("coordinate", COORDINATES)
def test_linear_places_are_those_of_onnx(coordinate: str, scale: float) -> None:
    x = floats(10)
    attrs = {"mode": "linear", "coordinate": coordinate}
    found = meaning("resize", [x], **node_attrs(x, (scale,), attrs))
    agree("resize", found, resized(x, (scale,), attrs), 1e-4)


CASES: dict[str, tuple[tuple[float, ...], dict[str, str]]] = {
    "twice, nearest": ((1, 1, 2, 2), {"coordinate": "asymmetric", "nearest": "floor"}),
    "twice, linear": ((1, 1, 2, 2), {"mode": "linear"}),
    "corners": ((1, 1, 1.75, 2.6), {"mode": "linear", "coordinate": "align_corners"}),
    "half": ((1, 1, 0.5, 0.5), {"mode": "linear", "coordinate": "pytorch_half_pixel"}),
    "odd": ((1, 1, 1.618034, 1.5707963), {"mode": "linear"}),
    "odd, nearest": ((1, 1, 1.618034, 1.5707963), {"nearest": "round_prefer_ceil"}),
    "channels": ((1, 2, 3, 1), {"mode": "linear"}),
}


@pytest.mark.parametrize("case", CASES)
def test_images_are_resized_as_in_onnx(case: str) -> None:
    scales, attrs = CASES[case]
    x = floats(1, 3, 8, 10)
    made = node_attrs(x, scales, attrs)
    agree("resize", meaning("resize", [x], **made), resized(x, scales, attrs), 1e-4)
    compiled("resize", [x], **made)


def test_plain_scales_need_no_floats() -> None:
    x = floats(1, 3, 8, 10)
    made = workload_of("resize", [x], **node_attrs(x, (1, 1, 2, 2), CASES["twice, nearest"][1]))
    body = made.stages[0].op.body  # type: ignore[union-attr]  # the only stage computes
    assert not any(isinstance(node, Cast) for node in walk.visit(body))


def test_places_of_odd_scales_are_computed_in_floats() -> None:
    x = floats(40)
    attrs: dict[str, NodeAttr] = {
        "sizes": (62,),
        "scales": (1.5707963267948966,),
        "mode": "nearest",
    }
    places = np.clip(np.ceil((np.arange(62) + 0.5) / 1.5707963267948966 - 1.0), 0, 39)
    agree("resize", meaning("resize", [x], **attrs), x[places.astype(int)])
    compiled("resize", [x], **attrs)


@pytest.mark.parametrize("dtype", ["uint8", "float16"])
def test_other_dtypes_take_their_nearest(dtype: str) -> None:
    x = np.arange(24).reshape(4, 6).astype(dtype)
    found = meaning(
        "resize", [x], sizes=(8, 3), mode="nearest", coordinate="asymmetric", nearest="floor"
    )
    agree("resize", found, x.repeat(2, axis=0)[:, ::2])
    compiled("resize", [x], sizes=(8, 3))


@pytest.mark.parametrize(
    ("attrs", "message"),
    [
        ({"sizes": (3,)}, "need 2 positive numbers"),
        ({"sizes": (4, 4), "mode": "cubic"}, "resize mode 'cubic'"),
        ({"sizes": (4, 4), "coordinate": "tf_crop_and_resize"}, "tf_crop"),
        ({"sizes": (4, 4), "nearest": "random"}, "nearest 'random'"),
    ],
)
def test_resizes_that_are_not_there_are_refused(attrs: dict[str, NodeAttr], message: str) -> None:
    with pytest.raises((ShapeError, UnsupportedError), match=message):
        meaning("resize", [floats(2, 3)], **attrs)
