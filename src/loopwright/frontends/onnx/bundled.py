"""The models that come with the package: graphs without their weights, by name."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

from loopwright.errors import ModelError

_FOLDER = Path(str(resources.files("loopwright"))) / "models"


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
