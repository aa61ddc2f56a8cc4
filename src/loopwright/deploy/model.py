"""A model as what tuning works on: its tasks, and how often it computes each."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from loopwright.deploy.choose import ModelOptions, exact_option, tasks
from loopwright.deploy.compile import Source, import_graph
from loopwright.graph.fuse import Fused, fuse
from loopwright.graph.ir import Graph
from loopwright.ops.attributes import AttrValue
from loopwright.target.parse import parse
from loopwright.target.union import Target
from loopwright.templates.task import Task


@dataclass(frozen=True, slots=True)
class ModelTask:
    """A task of a model, the nodes that are this task, and how many they are."""

    task: Task
    count: int
    nodes: tuple[str, ...]

    @property
    def peer_attrs(self) -> dict[str, AttrValue]:
        """What a peer is asked to compute: the operator with bias and relu.

        The rest of our epilogue is left out, so a peer has less to do where there is one.
        """
        return {name: value for name, value in self.task.attrs if name != "epilogue"}


@dataclass(frozen=True, slots=True)
class ModelTasks:
    """What there is to tune in a model; `untuned` counts the operators that are not."""

    label: str
    parts: tuple[ModelTask, ...]
    untuned: tuple[tuple[str, int], ...]

    @property
    def flops(self) -> int:
        """Arithmetic operations of all parts together, each as often as the model computes it."""
        return sum(part.task.flops * part.count for part in self.parts)


def load_model(
    model: Source,
    *,
    target: str | Target = "cpu",
    threads: int = 1,
    shapes: Mapping[str, tuple[int, ...]] | None = None,
    exact: bool = False,
    winograd: bool | None = None,
) -> ModelTasks:
    """The tasks of `model`, an ONNX file or the name of a bundled model.

    Args:
        shapes: the shapes of inputs, for those whose shape the model leaves open.
        exact: whether no kernel may round more than what it computes, as Winograd's do.
        winograd: deprecated; False is exact=True.

    Raises: ModelError for a file that cannot be used, UnsupportedError for operators or dtypes,
        each with the node it is about.
    """
    graph = import_graph(model, shapes, hollow=True)
    return model_of(graph, ModelOptions(parse(target), threads, exact_option(exact, winograd)))


def model_of(graph: Graph, options: ModelOptions) -> ModelTasks:
    """What there is to tune in a graph: each convolution and product once.

    Of several ways to compute a kernel it is the one that is usually the fastest.
    """
    fused = fuse(graph)
    found: dict[str, ModelTask] = {}
    for kernel in fused.kernels:
        if kernel.operator == "fused":
            continue
        task = tasks(kernel, options)[0]
        before = found.get(task.key)
        nodes = (*before.nodes, kernel.nodes[0]) if before else (kernel.nodes[0],)
        found[task.key] = ModelTask(task, len(nodes), nodes)
    return ModelTasks(graph.name, tuple(found.values()), _untuned(fused))


def _untuned(fused: Fused) -> tuple[tuple[str, int], ...]:
    """How often each operator is in a kernel that is not tuned, the most frequent first."""
    ops = {node.name: node.op for node in fused.graph.nodes}
    loose = [k for k in fused.kernels if k.operator == "fused"]
    return tuple(Counter(ops[name] for k in loose for name in k.nodes).most_common())
