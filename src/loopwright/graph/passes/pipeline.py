"""The passes over a graph, in order."""

from __future__ import annotations

from collections.abc import Callable

from loopwright.graph.ir import Graph
from loopwright.graph.passes.transposed import transposed_to_plain

PASSES: tuple[Callable[[Graph], Graph], ...] = (transposed_to_plain,)


def simplify(graph: Graph) -> Graph:
    """The graph after every pass."""
    for step in PASSES:
        graph = step(graph)
    return graph
