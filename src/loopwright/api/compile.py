"""Models as programs: `lw.compile` makes one that runs."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from loopwright.api.choose import BestRecords, Chooser, Options
from loopwright.api.program import build_error
from loopwright.api.tune import software
from loopwright.codegen.artifact import Artifact
from loopwright.codegen.compile import compile_config, kernel_name
from loopwright.errors import RecordsError
from loopwright.graph.assemble import Assembled, assemble
from loopwright.graph.fill import shapes_of, weights_of
from loopwright.graph.fuse import Fused, fuse
from loopwright.graph.import_onnx import import_onnx_model
from loopwright.graph.import_torch import from_torch
from loopwright.graph.ir import Graph
from loopwright.graph.layouts import Call, Chosen, place
from loopwright.graph.models import bundled_paths, resolve
from loopwright.graph.onnx_file import import_onnx
from loopwright.graph.passes.pipeline import simplify
from loopwright.measure.build import Built
from loopwright.measure.builders import BuilderPool
from loopwright.measure.types import Failed, MeasurePlan
from loopwright.records.device import fingerprint
from loopwright.records.shipped import ShippedRecords
from loopwright.records.store import SqlStore
from loopwright.runtime.model import Model
from loopwright.runtime.native import compile_ir, runtime_object
from loopwright.settings import from_environment
from loopwright.target import Target, parse

if TYPE_CHECKING:
    import onnx
    import torch

Source: TypeAlias = "str | Path | Graph | onnx.ModelProto"
"""A model: an ONNX file, the name of a bundled one, an ONNX model in memory, or a graph."""


@dataclass(frozen=True, slots=True)
class Compiled:
    """A model in the making: its kernels and how each call is computed, by name."""

    fused: Fused
    choices: Mapping[str, Chosen]
    assembled: Assembled

    def model(self, threads: int | None = None) -> Model:
        """The model, loaded into this process."""
        return Model(self.assembled.manifest, self.assembled.sections, threads)


def compile(  # noqa: A001  # the field's name for it
    model: Source | torch.nn.Module,
    *,
    threads: int = 1,
    target: str | Target = "cpu",
    records: str | None = None,
    input_shapes: Mapping[str, tuple[int, ...]] | None = None,
    winograd: bool = True,
    example_inputs: Sequence[object] | None = None,
) -> Model:
    """`model` as a program for this machine, made of the best programs on record.

    Nothing is tuned: kernels without a record get a good program that needs no tuning.

    Args:
        records: the URL of records; LOOPWRIGHT_RECORDS when None. They need not be there.
        input_shapes: the shapes of inputs that the model leaves open.
        winograd: whether 3x3 convolutions may be computed so.
        example_inputs: tensors like the inputs of `model`, a PyTorch module.

    Raises: ModelError for a model that cannot be used, UnsupportedError for operators that are not
        there, each with the node.
    """
    given = model if example_inputs is None else from_torch(model, example_inputs)
    graph = import_graph(given, input_shapes)
    options = Options(parse(target), threads, winograd)
    with ExitStack() as stack:
        chooser = Chooser(options, open_stores(records, options.target, stack))
        return compile_graph(graph, chooser).model()


def import_graph(
    model: Source, shapes: Mapping[str, tuple[int, ...]] | None = None, *, hollow: bool = False
) -> Graph:
    """The graph of `model`, simplified.

    Args:
        hollow: zeros do for the weights of a bundled model, which are made up in any case.

    Raises: ModelError or UnsupportedError.
    """
    if isinstance(model, Graph):
        return simplify(model)
    if not isinstance(model, str | Path):
        return simplify(import_onnx_model(model, shapes))
    path = resolve(str(model))
    if path in bundled_paths():
        loaded = import_onnx().load(str(path))
        loaded.graph.name = path.stem
        weights = shapes_of(loaded) if hollow else weights_of(loaded)
        return simplify(import_onnx_model(loaded, shapes, weights))
    return simplify(import_onnx_model(path, shapes))


def open_stores(records: str | None, target: Target, stack: ExitStack) -> tuple[BestRecords, ...]:
    """The records at a URL until `stack` closes, and those that come with the package.

    Raises: RecordsError for a URL that was given and cannot be used.
    """
    shipped = ShippedRecords(target)
    try:
        url = records or from_environment().records
        return (stack.enter_context(SqlStore(url, create=False)), shipped)
    except RecordsError:
        if records is not None:
            raise
        return (shipped,)


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
    known = {} if built is None else built
    fused = fuse(graph)
    placed = place(fused, chooser, options.target, options.threads)
    workers = len(os.sched_getaffinity(0))
    with BuilderPool(compile_config, workers) as pool:
        assembled = assemble(
            fused,
            placed,
            options.target,
            options.threads,
            lambda chosen: _compile_all(pool, chosen, known),
            lambda text: compile_ir(text, options.target.features),
            runtime=runtime_object(),
            software=software(),
            device=fingerprint(options.target),
        )
    choices = {step.name: step.chosen for step in placed.steps if isinstance(step, Call)}
    return Compiled(fused, choices, assembled)


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
