"""A model as what tuning works on: its tasks, and how often it computes each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from loopwright.api.task import task_of
from loopwright.errors import ShapeError, UnsupportedError
from loopwright.graph.models import resolve
from loopwright.graph.onnx_file import read_graph
from loopwright.graph.onnx_tasks import ModelTask, model_tasks
from loopwright.target import Target, parse
from loopwright.templates.task import Task


@dataclass(frozen=True, slots=True)
class Part:
    """A task of a model, the nodes that are this task, and how many they are."""

    task: Task
    count: int
    nodes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Model:
    """What there is to tune in a model; `untuned` counts the operators that are not."""

    label: str
    parts: tuple[Part, ...]
    untuned: tuple[tuple[str, int], ...]

    @property
    def flops(self) -> int:
        """Arithmetic operations of all parts together, each as often as the model computes it."""
        return sum(part.task.flops * part.count for part in self.parts)


def load_model(
    model: str,
    *,
    target: str | Target = "cpu",
    threads: int = 1,
    shapes: Mapping[str, tuple[int, ...]] | None = None,
) -> Model:
    """The tasks of `model`, an ONNX file or the name of a bundled model.

    Args:
        shapes: the shapes of inputs, for those whose shape the file leaves open.

    Raises: ModelError for a file that cannot be used, UnsupportedError for a dtype, each with the
        node it is about.
    """
    machine = parse(target)
    found = model_tasks(read_graph(resolve(model), shapes))
    parts = tuple(_part(found.label, part, machine, threads) for part in found.tasks)
    return Model(found.label, parts, found.untuned)


def _part(label: str, found: ModelTask, target: Target, threads: int) -> Part:
    try:
        made = task_of(found.operator, dict(found.attrs), target=target, threads=threads)
    except (ShapeError, UnsupportedError) as error:
        raise type(error)(f"{label}: node {found.nodes[0]!r}: {error}") from error
    return Part(made, found.count, found.nodes)
