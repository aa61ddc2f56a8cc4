"""The passes over a graph, in order."""

from __future__ import annotations

from collections.abc import Callable

from loopwright.graph.ir import Graph
from loopwright.graph.passes.affine import fold_affine, plain_norms
from loopwright.graph.passes.cleanup import (
    fold_constants,
    merge_common,
    merge_moves,
    merge_pads,
    plain_arithmetic,
    remove_copies,
)
from loopwright.graph.passes.patterns import find_activations, find_layer_norms
from loopwright.graph.passes.transposed import transposed_to_plain

PASSES: tuple[Callable[[Graph], Graph], ...] = (
    fold_constants,
    remove_copies,
    merge_common,
    find_layer_norms,
    find_activations,
    merge_pads,
    fold_affine,
    plain_norms,
    transposed_to_plain,
    plain_arithmetic,
    fold_constants,
    merge_moves,
    remove_copies,
    merge_common,
)


def simplify(graph: Graph) -> Graph:
    """The graph after every pass: the same values, with less to compute."""
    for step in PASSES:
        graph = step(graph)
    return graph
