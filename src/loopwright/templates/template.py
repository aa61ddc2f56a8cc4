"""A template: programs that compute a workload, as a space of knobs and a schedule over them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Generic, TypeAlias, TypeVar

from loopwright.errors import LoopwrightError, TemplateError, UserError
from loopwright.sched.schedule import Schedule
from loopwright.space.config import Config, ConfigBatch
from loopwright.space.space import Space
from loopwright.target.cpu import CpuTarget
from loopwright.target.union import Target, require_cpu
from loopwright.te.workload import Workload

Configuration: TypeAlias = Config | ConfigBatch
Made = TypeVar("Made", Space, Config)


@dataclass(frozen=True, slots=True)
class Template:
    """How to compute a workload fast, up to the knobs that tuning chooses.

    `space(workload, target)` declares the knobs; `schedule(s, config)` applies a choice of them to
    `s`, a schedule of that workload. The schedule function runs once for a whole batch of configs
    with one structure: there split sizes are `Size`s, so it may branch on categorical knobs only
    (choices, orders and annotations). Raise `version` with every change that changes what a config
    means: records of other versions are then ignored. Both functions must be importable from a
    module, so that a template pickles.

    `default(workload, target)` is a config of the space that is good without tuning; without it the
    space's first sample is taken. `rewrite(workload, config)` gives a workload with the same
    arguments that computes the same result in another way (Winograd), and is then the one that is
    scheduled; it may look at categorical knobs only.

    `error` is how far an output may be from the precise one, relative to the largest, for an
    algorithm that rounds more than the expression as written; None: only what rounding explains.

    `blocking` names the knobs that decide how arguments lie in memory. A template that prepares
    its weight ahead of the call has `needs_constant_weight`; `is_for` says whether it can compute a
    workload of its operator; None: any.

    With `any_address`, kernels take plain inputs at any address aligned for their dtype, not only
    at multiples of 64: callers then copy nothing, and kernels use unaligned loads.
    """

    name: str
    version: int
    space: Callable[[Workload, Target], Space]
    schedule: Callable[[Schedule, Configuration], None]
    any_address: bool = False
    default: Callable[[Workload, Target], Config] | None = None
    rewrite: Callable[[Workload, Configuration], Workload] | None = None
    error: float | None = None
    blocking: tuple[str, ...] = ()
    needs_constant_weight: bool = False
    is_for: Callable[[Workload], bool] | None = None

    @property
    def is_exact(self) -> bool:
        """Whether kernels round no more than the expression as it is written."""
        return self.error is None

    def fits(self, workload: Workload) -> bool:
        """Whether `workload`, which is one of its operator, can be computed."""
        return self.is_for is None or self.is_for(workload)

    def answers(self, *, exact: bool, constant_weight: bool) -> bool:
        """Whether it is usable if kernels must be `exact`, with or without a constant weight."""
        return (self.is_exact or not exact) and (constant_weight or not self.needs_constant_weight)


@dataclass(frozen=True, slots=True)
class CpuOnly(Generic[Made]):
    """A template function for CPUs; it refuses other targets."""

    make: Callable[[Workload, CpuTarget], Made]

    def __call__(self, workload: Workload, target: Target) -> Made:
        """What the function makes. Raises: ConfigError for a target that is not a CPU."""
        return self.make(workload, require_cpu(target, "it"))


@contextmanager
def errors_named(name: str) -> Iterator[None]:
    """Have errors of a template's function name the template, which is user code.

    Raises: the UserError raised inside, prefixed with the template; TemplateError for anything else
        but errors of our own.
    """
    try:
        yield
    except UserError as error:
        raise type(error)(f"template {name}: {error}") from error
    except LoopwrightError:
        raise
    except Exception as error:
        raise TemplateError(f"template {name}: {type(error).__name__}: {error}") from error
