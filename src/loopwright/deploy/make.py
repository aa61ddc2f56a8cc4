"""Kernels of a graph to a model, none of them off by more than a tolerance."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace

import msgspec

from loopwright.api.program import build_error
from loopwright.api.tune import software
from loopwright.build.candidate import Built
from loopwright.build.compile import compile_config, kernel_name
from loopwright.build.pool import BuilderPool
from loopwright.codegen.artifact import Artifact
from loopwright.deploy.accuracy import Errors
from loopwright.deploy.assemble import Assembled, assemble
from loopwright.deploy.changes import ChangeTimes
from loopwright.deploy.choose import Chooser
from loopwright.errors import ConfigError
from loopwright.graph.fuse import Fused, fuse
from loopwright.graph.ir import Graph
from loopwright.graph.layouts import Chosen, place
from loopwright.graph.selection import select
from loopwright.outcome import Failed, MeasurePlan
from loopwright.records.device import fingerprint
from loopwright.runtime.cpu.model import Model
from loopwright.runtime.cpu.native import compile_ir, runtime_object
from loopwright.space.config import Config
from loopwright.target.union import require_cpu

TOLERANCE = 1e-4
"""How far outputs may be off, as a share of the largest of them."""
_EXACT_ROUNDS = 4
"""How often kernels that are too inexact are replaced by others before all must be exact."""


@dataclass(frozen=True, slots=True)
class Compiled:
    """A model in the making."""

    fused: Fused
    assembled: Assembled

    @property
    def choices(self) -> Mapping[str, Chosen]:
        """How each call is computed, by name."""
        return self.assembled.choices

    def model(self, threads: int | None = None) -> Model:
        """The model, loaded into this process."""
        return Model(self.assembled.manifest, self.assembled.sections, threads)


@dataclass(slots=True)
class ModelMaker:
    """Makes models of one graph; a kernel is compiled, and its error measured, once.

    Without `every`, errors are measured of those kernels alone that round more than what they
    compute: the others are computed no less exactly in any other way.
    """

    graph: Graph
    tolerance: float
    every: bool = True
    built: dict[str, Artifact] = field(default_factory=dict)
    _errors: Errors = field(init=False)

    def __post_init__(self) -> None:
        self._errors = Errors(self.built)

    def make(self, chooser: Chooser) -> tuple[Compiled, Model]:
        """The model of a chooser; its manifest says how exact each kernel is."""
        compiled = compile_graph(self.graph, chooser, self.built)
        model = compiled.model()
        errors = self._errors.of(compiled.choices if self.every else _rounding(compiled.choices))
        calls = tuple(
            msgspec.structs.replace(call, error=errors.get(call.name))
            for call in model.manifest.calls
        )
        model.manifest = msgspec.structs.replace(model.manifest, calls=calls)
        return compiled, model

    def make_exact(self, chooser: Chooser) -> tuple[Compiled, Model]:
        """As `make`, with another way to compute each kernel that is off by too much."""
        refused = chooser.refused
        for _ in range(_EXACT_ROUNDS):
            tried = replace(chooser, refused=refused)
            compiled, model = self.make(tried)
            inexact = self._inexact(compiled)
            if not inexact:
                return compiled, model
            model.close()
            refused |= inexact
        return self.make(replace(chooser, options=replace(chooser.options, exact=True)))

    def _inexact(self, compiled: Compiled) -> frozenset[tuple[str, Config]]:
        """Of templates that round more than the expression: what is off by too much."""
        choices = _rounding(compiled.choices)
        errors = self._errors.of(choices)
        return frozenset(
            (chosen.task.key, chosen.config)
            for name, chosen in choices.items()
            if errors.get(name, 0.0) > self.tolerance
        )


def _rounding(choices: Mapping[str, Chosen]) -> dict[str, Chosen]:
    """Those whose templates round more than the expression."""
    return {name: c for name, c in choices.items() if c.task.template.error is not None}


def require_tolerance(tolerance: float) -> None:
    """Check that errors can be compared with it. Raises: ConfigError."""
    if not 0 < tolerance < math.inf:
        raise ConfigError(f"tolerance {tolerance:g} is no share of an output's scale, such as 1e-4")


def compile_graph(
    graph: Graph,
    chooser: Chooser,
    built: dict[str, Artifact] | None = None,
) -> Compiled:
    """The graph with every kernel chosen and compiled.

    Args:
        built: kernels that need not be compiled again, by name; those that are compiled are added.
    """
    options = chooser.options
    target = require_cpu(options.target, "a whole model")
    known = {} if built is None else built
    fused = fuse(graph)
    with ChangeTimes(options) as change_ns:
        settled = select(fused, chooser.alternatives, chooser, change_ns)
    chooser = replace(chooser, pinned={**settled, **chooser.pinned})
    placed = place(fused, chooser, options.target, options.threads)
    workers = len(os.sched_getaffinity(0))
    with BuilderPool(compile_config, workers) as pool:
        assembled = assemble(
            fused,
            placed,
            target,
            options.threads,
            lambda chosen: _compile_all(pool, chosen, known),
            lambda text: compile_ir(text, target.features, target.arch),
            runtime=runtime_object(arch=target.arch),
            software=software(),
            device=fingerprint(target),
        )
    return Compiled(fused, assembled)


def _compile_all(
    pool: BuilderPool, chosen: Sequence[Chosen], built: dict[str, Artifact]
) -> list[Artifact]:
    """Object code for each choice; equal ones, and those in `built`, are compiled once."""
    futures: dict[str, Future[Built]] = {}
    names = [kernel_name(c.task, c.config) for c in chosen]
    for name, choice in zip(names, chosen, strict=True):
        if name not in futures and name not in built:
            plan = MeasurePlan(threads=choice.task.threads)
            futures[name] = pool.submit(choice.task, choice.config, plan)
    for name, choice in zip(names, chosen, strict=True):
        if name in built:
            continue
        result = futures[name].result().result
        if isinstance(result, Failed):
            raise build_error(choice.task, choice.config, result)
        built[name] = result
    return [built[name] for name in names]
