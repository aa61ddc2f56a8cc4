"""Loop features of a nest, in closed form: nothing is lowered, N candidates are described at once.

The features mean the same for every workload and have a fixed length. They follow the loop context
of Chen et al., "Learning to Optimize Tensor Programs" (NeurIPS 2018): for loop lengths, touched
memory and reuse, the context relation features "how much work happens while no more than 2^t bytes
are touched". We add what matters on CPUs: the register tile and what feeds it, the traffic beyond
each cache, the waste of tails, the work of other stages, and the balance between threads.

Counts and bytes are log2(1 + x), ratios are plain. Bytes and iterations are those of one kernel
call.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from loopwright.ir.stmt import LoopKind
from loopwright.learn.loop_context import READS, TILE_KINDS, Column, StageView
from loopwright.sched.extent import IntArray
from loopwright.sched.nest import Nest, nest
from loopwright.space.config import Config
from loopwright.target.union import Target
from loopwright.templates.apply import scheduled
from loopwright.templates.task import Task

FeatureMatrix = npt.NDArray[np.float32]

_THRESHOLDS = tuple(range(8, 27, 2))
_CACHES = ("l1", "l2", "l3")
_ROLES = ("write", "read0", "read1")
_OTHER = ("iterations", "recompute", "bytes", "vector_stride", "lanes")
NAMES: tuple[str, ...] = (
    "flops",
    "iterations",
    "waste",
    "stages",
    "tile_accumulators",
    "tile_register_share",
    "tile_spilled",
    "tile_lanes",
    "tile_vectors",
    "tile_broadcasts",
    "tile_body",
    "tile_depth",
    "tile_loads_per_fma",
    "tile_feeds",
    "tile_entries",
    "tile_reduce_steps",
    "tile_reduce_unrolled",
    "innermost_serial",
    "reduce_outside",
    *(f"tile_stride_{role}" for role in _ROLES),
    *(f"work_within_2^{t}" for t in _THRESHOLDS),
    *(f"{kind}_{cache}" for cache in _CACHES for kind in ("traffic", "worst", "written", "work")),
    *(f"serial_touched_{role}" for role in _ROLES),
    *(f"serial_reuse_{role}" for role in _ROLES),
    *(f"{prefix}_{name}" for prefix in ("other", "second") for name in _OTHER),
    "parallel_chunks",
    "parallel_imbalance",
)


def featurize(task: Task, points: IntArray) -> FeatureMatrix:
    """float32 [N, len(NAMES)] of points int64 [N, K] of the task's space, one pass per structure.

    Raises: TemplateError when the template branches on a size, or raises.
    """
    result = np.zeros((len(points), len(NAMES)), np.float32)
    for rows, batch in task.space.batches(points):
        result[rows] = features(nest(scheduled(task, batch)), task.target, task.threads)
    return result


def features_of(task: Task, config: Config) -> FeatureMatrix:
    """float32 [1, len(NAMES)] of one config, through a schedule with plain ints."""
    return features(nest(scheduled(task, config)), task.target, task.threads)


def features(analysed: Nest, target: Target, threads: int = 1) -> FeatureMatrix:
    """float32 [N, len(NAMES)] of a nest; N is 1 without a batch."""
    size = analysed.size or 1
    stages = [StageView(stage, analysed) for stage in analysed.stages]
    anchor, *others = sorted(stages, key=_importance)
    values: dict[str, Column] = {"stages": np.full(size, float(len(stages)))}
    _overall(values, anchor)
    _tile(values, anchor, target)
    _memory(values, anchor, target)
    _serial(values, anchor)
    for place, prefix in enumerate(("other", "second")):
        _other_stage(values, prefix, others[place] if place < len(others) else None, size)
    _parallel(values, stages, threads)
    result = np.empty((size, len(NAMES)), np.float32)
    for column, name in enumerate(NAMES):
        result[:, column] = values[name]
    return result


def _importance(view: StageView) -> tuple[bool, int, str]:
    """Sort key: reductions first, then by work; the same for every candidate of a workload."""
    points = view.stage.tensor.size
    for axis in view.stage.tensor.reduce_axis:
        points *= axis.extent
    return not view.is_reduction, -points, view.stage.name


def _log(x: Column | float) -> Column:
    return np.log2(1.0 + np.asarray(x, np.float64))


def _overall(values: dict[str, Column], view: StageView) -> None:
    iterations = view.product(view.path)
    useful = 1.0
    for axis in view.stage.axes:
        useful = useful * (
            view.stage.tensor.shape[_dim(view, axis.name)] if not axis.is_reduce else 1
        )
    for reduce_axis in view.stage.tensor.reduce_axis:
        useful *= reduce_axis.extent
    values["flops"] = _log(useful)
    values["iterations"] = _log(iterations)
    values["waste"] = iterations / useful


def _dim(view: StageView, axis: str) -> int:
    return next(d for d, v in enumerate(view.stage.tensor.axis) if v.name == axis)


def _tile(values: dict[str, Column], view: StageView, target: Target) -> None:
    """The register tile, and the loads for one run of its body."""
    tile = view.tile()
    spatial = [n for n in tile if not n.is_reduce]
    vector = view.loop(LoopKind.VECTORIZED)
    hardware = float(target.lanes(view.stage.tensor.dtype))
    lanes = view.product([vector]) if vector is not None else np.ones(view.size)
    accumulators = view.product(spatial) / np.minimum(lanes, hardware)
    body = view.product(tile) / np.minimum(lanes, hardware)
    vectors, broadcasts = np.zeros(view.size), np.zeros(view.size)
    for number, access in enumerate(view.accesses):
        stride = view.stride(number, vector) if vector is not None else np.full(view.size, 2.0)
        if number < READS:
            values[f"tile_stride_{_ROLES[number]}"] = stride
        if number == 0:
            continue
        loads = view.elements(access, tile)
        broadcasts = broadcasts + np.where(stride == 0, loads, 0.0)
        vectors = vectors + np.where(stride == 1, loads / np.minimum(lanes, hardware), 0.0)
        vectors = vectors + np.where(stride == 2, loads, 0.0)
    for role in _ROLES[len(view.accesses) :]:
        values[f"tile_stride_{role}"] = np.full(view.size, -1.0)
    reduces = [n for n in view.path if n.is_reduce]
    steps = view.product([n for n in reduces if n.kind not in TILE_KINDS])
    values["tile_accumulators"] = accumulators
    values["tile_register_share"] = accumulators / target.registers
    values["tile_spilled"] = np.maximum(accumulators + 2 - target.registers, 0.0)
    values["tile_lanes"] = lanes / hardware
    values["tile_vectors"] = vectors
    values["tile_broadcasts"] = broadcasts
    values["tile_body"] = _log(body)
    values["tile_depth"] = _log(view.product([n for n in tile if n.is_reduce]))
    values["tile_loads_per_fma"] = (vectors + broadcasts) / body
    values["tile_feeds"] = np.minimum(vectors, broadcasts) / np.maximum(body, 1.0)
    values["tile_entries"] = _log(view.product([n for n in view.path if n.kind not in TILE_KINDS]))
    values["tile_reduce_steps"] = _log(steps)
    values["tile_reduce_unrolled"] = _log(view.product(reduces) / steps)


def _memory(values: dict[str, Column], view: StageView, target: Target) -> None:
    """Work done within given numbers of bytes, and estimated traffic beyond each cache.

    The traffic of an access beyond a cache: what it touches in the largest nest of loops that fits,
    times how often that nest is entered.
    """
    totals = view.touched.sum(axis=0)
    for threshold in _THRESHOLDS:
        fits = totals <= 2.0**threshold
        values[f"work_within_2^{threshold}"] = _log(np.where(fits, view.inside, 0.0).max(axis=0))
    columns = np.arange(view.size)
    for cache in _CACHES:
        fits = totals <= float(getattr(target, cache))
        level = np.where(fits.any(axis=0), np.argmax(fits, axis=0), len(view.path))
        traffic = view.touched[:, level, columns] * view.outside[level, columns]
        values[f"traffic_{cache}"] = _log(traffic.sum(axis=0))
        values[f"worst_{cache}"] = _log(traffic.max(axis=0))
        values[f"written_{cache}"] = _log(traffic[0])
        values[f"work_{cache}"] = _log(view.inside[level, columns])


def _serial(values: dict[str, Column], view: StageView) -> None:
    """The innermost loop that is not unrolled: its length, what it touches, how that is reused."""
    depth = len(view.path)
    while depth > 0 and view.path[depth - 1].kind in TILE_KINDS:
        depth -= 1
    loop = view.path[depth - 1] if depth > 0 else None
    values["innermost_serial"] = _log(view.product([loop]) if loop is not None else 1.0)
    outer_spatial = max((d for d, n in enumerate(view.path[:depth]) if not n.is_reduce), default=-1)
    values["reduce_outside"] = _log(
        view.product([n for n in view.path[: outer_spatial + 1] if n.is_reduce]) - 1.0
    )
    inner = view.path[max(depth - 1, 0) :]
    for number, role in enumerate(_ROLES):
        if number >= len(view.accesses):
            values[f"serial_touched_{role}"] = values[f"serial_reuse_{role}"] = np.full(
                view.size, -1.0
            )
            continue
        elements = view.elements(view.accesses[number], inner)
        values[f"serial_touched_{role}"] = _log(elements)
        values[f"serial_reuse_{role}"] = _log(view.product(inner) / elements)


def _other_stage(values: dict[str, Column], prefix: str, view: StageView | None, size: int) -> None:
    """A stage beside the anchor: padding, packing, an epilogue."""
    if view is None:
        for name in _OTHER:
            values[f"{prefix}_{name}"] = np.full(size, -1.0)
        return
    iterations = view.product(view.path)
    vector = view.loop(LoopKind.VECTORIZED)
    last = len(view.accesses) - 1
    values[f"{prefix}_iterations"] = _log(iterations)
    values[f"{prefix}_recompute"] = iterations / float(view.stage.tensor.size)
    values[f"{prefix}_bytes"] = _log(view.touched[:, len(view.stage.around)].sum(axis=0))
    values[f"{prefix}_vector_stride"] = (
        view.stride(last, vector) if vector is not None else np.full(size, -1.0)
    )
    values[f"{prefix}_lanes"] = view.product([vector]) if vector is not None else np.ones(size)


def _parallel(values: dict[str, Column], stages: list[StageView], threads: int) -> None:
    """Chunks of the parallel loops, and the worst ratio of the longest share to an even one."""
    size = stages[0].size
    chunks, imbalance = np.full(size, np.inf), np.ones(size)
    for view in stages:
        loop = view.loop(LoopKind.PARALLEL)
        if loop is None or view.stage.attach is not None:
            continue
        extent = view.product([loop])
        chunks = np.minimum(chunks, extent)
        imbalance = np.maximum(imbalance, np.ceil(extent / threads) * threads / extent)
    values["parallel_chunks"] = _log(np.where(np.isinf(chunks), 0.0, chunks))
    values["parallel_imbalance"] = imbalance
