"""The models that come with the package: graphs without their weights, by name.

Weights can be made up for them: seeded, and scaled so that no activation grows or vanishes.
"""

from __future__ import annotations

import math
import zlib
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from loopwright.errors import ModelError
from loopwright.frontends.onnx.file import import_onnx

if TYPE_CHECKING:
    import onnx

_FOLDER = Path(str(resources.files("loopwright"))) / "models"
DATA_INPUTS = frozenset({"input", "h0", "c0"})
"""The inputs of the bundled models that are data; all their others are weights."""
_PIECE = 1 << 16


def bundled() -> tuple[str, ...]:
    """The names of the models that come with the package."""
    return tuple(sorted(path.stem for path in _FOLDER.glob("*.onnx")))


def bundled_paths() -> frozenset[Path]:
    """The files of the models that come with the package; they have no weights."""
    return frozenset(_FOLDER.glob("*.onnx"))


def resolve(model: str) -> Path:
    """The file that `model` names: a path, or a bundled model with or without `.onnx`.

    Raises: ModelError when there is neither.
    """
    path = Path(model)
    if path.is_file():
        return path
    if path.is_dir():
        raise ModelError(f"{model} is a folder, not an ONNX file")
    if len(path.parts) == 1:
        found = _FOLDER / f"{model.removesuffix('.onnx')}.onnx"
        if found.is_file():
            return found
    raise ModelError(
        f"there is no file {model}, nor a bundled model of that name: {', '.join(bundled())}"
    )


def fill(model: onnx.ModelProto, *, seed: int = 0) -> onnx.ModelProto:
    """A copy of the bundled `model` whose weights are initializers, so that any runtime loads it.

    The same seed gives the same bytes; a weight's values depend on its name, not on its place.
    """
    onnx = import_onnx()
    filled = onnx.ModelProto()
    filled.CopyFrom(model)
    graph = filled.graph
    for name, array in weights_of(model, seed=seed).items():
        graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    for value in [v for v in graph.input if v.name not in DATA_INPUTS]:
        graph.input.remove(value)
    return filled


def weights_of(model: onnx.ModelProto, *, seed: int = 0) -> dict[str, npt.NDArray[np.float32]]:
    """The weights that `fill` gives the bundled `model`, by name."""
    graph = model.graph
    found = {}
    uses: dict[str, tuple[str, int]] = {}
    for node in graph.node:
        for place, name in enumerate(node.input):
            uses.setdefault(name, (node.op_type, place))
    for value in [v for v in graph.input if v.name not in DATA_INPUTS]:
        shape = tuple(d.dim_value for d in value.type.tensor_type.shape.dim)
        rng = np.random.default_rng([seed, zlib.crc32(value.name.encode())])
        found[value.name] = _weight(*uses.get(value.name, ("", 0)), shape, rng)
    return found


def shapes_of(model: onnx.ModelProto) -> dict[str, npt.NDArray[np.float32]]:
    """Zeros in the shapes of the weights of the bundled `model`: what needs no values is quick."""
    zero = np.float32(0)
    return {
        value.name: np.broadcast_to(zero, [d.dim_value for d in value.type.tensor_type.shape.dim])
        for value in model.graph.input
        if value.name not in DATA_INPUTS
    }


def _weight(
    operator: str, place: int, shape: tuple[int, ...], rng: np.random.Generator
) -> npt.NDArray[np.float32]:
    """Values for the weight that is input `place` of `operator`."""
    if operator == "BatchNormalization" and place == 4:  # a variance: positive
        rng.standard_normal(shape)
        return (1.0 + 0.2 * rng.random(shape)).astype(np.float32)
    if operator in ("BatchNormalization", "LayerNormalization"):
        return _noise(shape, rng, 0.1, 1.0 if place == 1 else 0.0)
    if len(shape) < 2:
        return _noise(shape, rng, 0.05)
    gain = 2.0 if operator in ("Conv", "ConvTranspose") else 1.0
    return _noise(shape, rng, math.sqrt(gain / _fan_in(operator, shape)))


def _noise(
    shape: tuple[int, ...], rng: np.random.Generator, deviation: float, mean: float = 0.0
) -> npt.NDArray[np.float32]:
    """Normal numbers, drawn piece by piece: in float64 a large weight would not fit the caches."""
    found = np.empty(math.prod(shape), np.float32)
    for start in range(0, found.size, _PIECE):
        piece = found[start : start + _PIECE]
        piece[:] = mean + rng.standard_normal(piece.size) * deviation
    return found.reshape(shape)


def _fan_in(operator: str, shape: tuple[int, ...]) -> int:
    """How many products are summed into one output."""
    if operator == "Conv":
        return math.prod(shape[1:])
    if operator == "ConvTranspose":
        return max(shape[0] * math.prod(shape[2:]) // 4, 1)
    if operator == "Gather":
        return 1
    return shape[-2] if operator == "MatMul" else shape[-1]
