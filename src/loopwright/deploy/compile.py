"""Models as programs: `lw.compile` makes one that runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from loopwright.deploy.choose import BestRecords, Chooser, ModelOptions, exact_option
from loopwright.deploy.make import TOLERANCE, ModelMaker, require_tolerance
from loopwright.errors import ModelError, RecordsError
from loopwright.frontends.onnx.bundled import bundled_paths, resolve, shapes_of, weights_of
from loopwright.frontends.onnx.file import import_onnx
from loopwright.frontends.onnx.importer import import_onnx_model
from loopwright.frontends.torch.importer import from_torch
from loopwright.graph.ir import Graph
from loopwright.graph.passes.pipeline import simplify
from loopwright.records.shipped import ShippedRecords
from loopwright.records.store import SqlStore
from loopwright.runtime.cpu.model import Model
from loopwright.runtime.model_file import is_model_file
from loopwright.settings import from_environment
from loopwright.target.parse import parse
from loopwright.target.union import Target

if TYPE_CHECKING:
    import onnx
    import torch

Source: TypeAlias = "str | Path | Graph | onnx.ModelProto"
"""A model: an ONNX file, the name of a bundled one, an ONNX model in memory, or a graph."""


def compile(  # noqa: A001  # the field's name for it
    model: Source | torch.nn.Module,
    *,
    threads: int = 1,
    target: str | Target = "cpu",
    records: str | None = None,
    input_shapes: Mapping[str, tuple[int, ...]] | None = None,
    tolerance: float = TOLERANCE,
    exact: bool = False,
    winograd: bool | None = None,
    example_inputs: Sequence[object] | None = None,
) -> Model:
    """`model` as a program for this machine, made from the best programs on record.

    Nothing is tuned: kernels without a record get a good program that needs no tuning. Kernels that
    round more than what they compute, as Winograd's do, are compared with float64.

    Args:
        records: the URL of records; LOOPWRIGHT_RECORDS when None. They need not be there.
        input_shapes: the shapes of inputs that the model leaves open.
        tolerance: largest error of a kernel that may be computed in a more exact way, as a share
            of its output's scale.
        exact: whether no kernel may round more than what it computes, as Winograd's do.
        winograd: deprecated; False is exact=True.
        example_inputs: tensors like the inputs of `model`, a PyTorch module.

    Raises: ModelError for a model that cannot be used, UnsupportedError for operators that are not
        supported, each with the node; ConfigError for a tolerance that is not valid.
    """
    require_tolerance(tolerance)
    given = model if example_inputs is None else from_torch(model, example_inputs)
    graph = import_graph(given, input_shapes)
    options = ModelOptions(parse(target), threads, exact_option(exact, winograd))
    with ExitStack() as stack:
        chooser = Chooser(options, open_stores(records, options.target, stack))
        return ModelMaker(graph, tolerance, every=False).make_exact(chooser)[1]


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
    if is_model_file(path):
        raise ModelError(f"{path.name} is tuned already; give the ONNX file it was made of")
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
