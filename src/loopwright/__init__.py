"""Loopwright learns to write fast tensor programs.

    import loopwright as lw

    task = lw.task("conv2d", data=(1, 64, 56, 56), weight=(64, 64, 3, 3), strides=(1, 1))
    result = lw.tune(task, trials=128, records="sqlite:///r.db")
    conv = lw.build(task, records="sqlite:///r.db")

Public names are imported when they are first used, so that `import loopwright` costs nothing.
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from loopwright import te as te
    from loopwright.api import Built as Built
    from loopwright.api import build as build
    from loopwright.api import task as task
    from loopwright.api import tune as tune
    from loopwright.lower.pipeline import lower as lower
    from loopwright.sched.schedule import Schedule as Schedule
    from loopwright.sched.schedule import create_schedule as create_schedule
    from loopwright.space.space import Space as Space
    from loopwright.target import Target as Target
    from loopwright.te.workload import Workload as Workload
    from loopwright.te.workload import workload as workload
    from loopwright.templates.task import Task as Task
    from loopwright.templates.template import Template as Template

__version__ = "0.1.0"

_LAZY = {
    "Built": "loopwright.api",
    "build": "loopwright.api",
    "task": "loopwright.api",
    "tune": "loopwright.api",
    "lower": "loopwright.lower.pipeline",
    "Schedule": "loopwright.sched.schedule",
    "create_schedule": "loopwright.sched.schedule",
    "Space": "loopwright.space.space",
    "Target": "loopwright.target",
    "Workload": "loopwright.te.workload",
    "workload": "loopwright.te.workload",
    "Task": "loopwright.templates.task",
    "Template": "loopwright.templates.template",
}
__all__ = ["__version__", "te", *_LAZY]


def __getattr__(name: str) -> object:
    """The public name `name`, imported now."""
    if name == "te":
        return importlib.import_module("loopwright.te")
    if name not in _LAZY:
        raise AttributeError(f"module 'loopwright' has no attribute {name!r}")
    return getattr(importlib.import_module(_LAZY[name]), name)


def __dir__() -> list[str]:
    """The public names."""
    return sorted(__all__)


class _Root(ModuleType):
    """Keeps a public name in front of a package of the same name: `lw.lower` is the function."""

    def __setattr__(self, name: str, value: object) -> None:
        if not (name in _LAZY and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Root
