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
    from loopwright.api.program import Program as Program
    from loopwright.api.program import build as build
    from loopwright.api.task import task as task
    from loopwright.api.tune import tune as tune
    from loopwright.deploy.compile import compile as compile  # noqa: A004  # the field's name for it
    from loopwright.deploy.optimize import optimize as optimize
    from loopwright.export.library import export_c as export_c
    from loopwright.fleet.client import api as fleet
    from loopwright.fleet.client.runner import FleetRunner as FleetRunner
    from loopwright.frontends.torch.importer import from_torch as from_torch
    from loopwright.lower.pipeline import lower as lower
    from loopwright.runtime.cpu.model import Model as Model
    from loopwright.runtime.cpu.model import load_model as load
    from loopwright.sched.schedule import Schedule as Schedule
    from loopwright.sched.schedule import create_schedule as create_schedule
    from loopwright.space.constraints import Constraint as Constraint
    from loopwright.space.knobs import AnnotateKnob as Annotate
    from loopwright.space.knobs import ChoiceKnob as Choice
    from loopwright.space.knobs import ReorderKnob as Reorder
    from loopwright.space.knobs import SplitKnob as Split
    from loopwright.space.space import Space as Space
    from loopwright.target.union import Target as Target
    from loopwright.te import language as te
    from loopwright.te.workload import Workload as Workload
    from loopwright.te.workload import workload as workload
    from loopwright.templates.task import Task as Task
    from loopwright.templates.template import Configuration as Configuration
    from loopwright.templates.template import Template as Template
    from loopwright.version import __version__ as __version__

_LAZY = {
    "compile": "loopwright.deploy.compile",
    "from_torch": "loopwright.frontends.torch.importer",
    "load": "loopwright.runtime.cpu.model",
    "export_c": "loopwright.export.library",
    "optimize": "loopwright.deploy.optimize",
    "Model": "loopwright.runtime.cpu.model",
    "Program": "loopwright.api.program",
    "build": "loopwright.api.program",
    "task": "loopwright.api.task",
    "tune": "loopwright.api.tune",
    "fleet": "loopwright.fleet.client.api",
    "FleetRunner": "loopwright.fleet.client.runner",
    "__version__": "loopwright.version",
    "lower": "loopwright.lower.pipeline",
    "Schedule": "loopwright.sched.schedule",
    "create_schedule": "loopwright.sched.schedule",
    "Constraint": "loopwright.space.constraints",
    "Annotate": "loopwright.space.knobs",
    "Choice": "loopwright.space.knobs",
    "Reorder": "loopwright.space.knobs",
    "Split": "loopwright.space.knobs",
    "Space": "loopwright.space.space",
    "Target": "loopwright.target.union",
    "te": "loopwright.te.language",
    "Workload": "loopwright.te.workload",
    "workload": "loopwright.te.workload",
    "Task": "loopwright.templates.task",
    "Configuration": "loopwright.templates.template",
    "Template": "loopwright.templates.template",
}
_MODULES = frozenset({"te", "fleet"})
_RENAMED = {
    "load": "load_model",
    "Annotate": "AnnotateKnob",
    "Choice": "ChoiceKnob",
    "Reorder": "ReorderKnob",
    "Split": "SplitKnob",
}
"""Public names that their modules call otherwise."""
__all__ = [
    "Annotate",
    "Choice",
    "Configuration",
    "Constraint",
    "FleetRunner",
    "Model",
    "Program",
    "Reorder",
    "Schedule",
    "Space",
    "Split",
    "Target",
    "Task",
    "Template",
    "Workload",
    "__version__",
    "build",
    "compile",
    "create_schedule",
    "export_c",
    "fleet",
    "from_torch",
    "load",
    "lower",
    "optimize",
    "task",
    "te",
    "tune",
    "workload",
]


def __getattr__(name: str) -> object:
    """The public name `name`, imported now."""
    if name not in _LAZY:
        raise AttributeError(f"module 'loopwright' has no attribute {name!r}")
    module = importlib.import_module(_LAZY[name])
    return module if name in _MODULES else getattr(module, _RENAMED.get(name, name))


def __dir__() -> list[str]:
    """The public names."""
    return __all__


class _Root(ModuleType):
    """Keeps a public name before a package of that name: `lw.lower` and `lw.te` are no packages."""

    def __setattr__(self, name: str, value: object) -> None:
        if not (name in _LAZY and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Root
