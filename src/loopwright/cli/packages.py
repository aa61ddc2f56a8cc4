"""The optional packages: what each is for, whether it works here, and how to install it."""

from __future__ import annotations

import importlib
import importlib.metadata
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType


@dataclass(frozen=True, slots=True)
class Package:
    """An optional package, and the extra of Loopwright that installs it."""

    name: str
    purpose: str
    extra: str


@dataclass(frozen=True, slots=True)
class Found:
    """The result of importing a package: its version, or None and what to do."""

    package: Package
    version: str | None
    advice: str


PACKAGES = (
    Package("lightgbm", "the learned cost model (policy `model`)", "learn"),
    Package("onnx", "reading models", "onnx"),
    Package("onnxruntime", "comparing with onnxruntime", "bench"),
    Package("torch", "comparing with PyTorch", "torch"),
    Package("matplotlib", "drawing curves", "plot"),
    Package("cryptography", "certificates and signatures of a fleet", "tls"),
    Package("fastapi", "a tracker's dashboard and metrics", "server"),
)


def find(package: Package, load: Callable[[str], ModuleType] = importlib.import_module) -> Found:
    """Whether `package` can be imported, which only importing it can show."""
    try:
        load(package.name)
    except ModuleNotFoundError:
        return Found(package, None, f"pip install 'loopwright[{package.extra}]'")
    except (ImportError, OSError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        if "libgomp" in reason:
            return Found(package, None, "its library libgomp.so.1 is missing; apt install libgomp1")
        return Found(package, None, f"installed, but broken: {reason}")
    try:
        version = importlib.metadata.version(package.name)
    except importlib.metadata.PackageNotFoundError:
        version = "unknown"
    return Found(package, version, "")
