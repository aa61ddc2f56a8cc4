"""Made-up landscapes with the character of real ones, to test policies with."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from loopwright.measure.landscape import Landscape, Origin
from loopwright.outcome import FailureKind
from loopwright.sched.extent import IntArray
from loopwright.space.constraints import BoolArray, Columns, Constraint
from loopwright.space.knobs import AnnotateKnob, ChoiceKnob, ReorderKnob, SplitKnob
from loopwright.space.restricted import RestrictedSpace
from loopwright.space.space import Space

_FLOPS = 231_211_008
_PEAK_NS = 2_000_000.0


def product_at_most(limit: int, *sizes: tuple[str, int], reason: str = "") -> Constraint:
    """The constraint that the product of the `(split, part)` sizes is at most `limit`."""
    text = " * ".join(f"{name}[{part}]" for name, part in sizes)

    def within(columns: Columns) -> BoolArray:
        product: IntArray = np.ones(1, dtype=np.int64)
        for name, part in sizes:
            product = product * columns[name][part]
        return product <= limit

    names = tuple(dict.fromkeys(name for name, _ in sizes))
    return Constraint(names, within, reason if reason else f"{text} is more than {limit}")


def synthetic_space() -> Space:
    """Some 5,000 points: two tiled axes with a joint register limit, an order, flags."""
    knobs = (
        SplitKnob("tile_w", 56, 3, "factors", max_factor=(8, 28)),
        SplitKnob("tile_oc", 64, 3, "factors", max_factor=(8, 16)),
        ChoiceKnob("unroll", (1, 2, 4, 8)),
        ReorderKnob("order", ("ic", "kh", "kw"), (("ic", "kh", "kw"), ("kh", "ic", "kw"))),
        AnnotateKnob("annotation", ("oc",), ("none", "vectorize")),
    )
    fits = product_at_most(64, ("tile_w", 2), ("tile_oc", 2), reason="the tile leaves registers")
    return Space(knobs, (fits,))


def synthetic(seed: int = 0, *, noise: float = 0.02, failing: float = 0.03) -> Landscape:
    """A landscape over all of `synthetic_space`: a smooth cost with interactions, noise and
    failures.

    Good points are rare, as in real ones: the register tile must be the right size, the cache
    tile must fit it, and flags matter only where the tile is good.
    """
    rng = np.random.default_rng(seed)
    full = synthetic_space()
    points = rng.permutation(full.enumerate())
    ns = _cost(full, points, rng) * np.exp(noise * rng.standard_normal(len(points)))
    failed = np.flatnonzero(rng.random(len(points)) < failing)
    ns[failed] = math.inf
    failures = {int(row): FailureKind.RUN_TIMEOUT for row in failed}
    space = RestrictedSpace(Space(full.knobs), points)
    origin = Origin("synthetic", {"seed": seed}, "none", 1, "synthetic", "none", "none", 1, _FLOPS)
    return Landscape(f"synthetic-{seed}", origin, space, ns, failures)


def _cost(space: Space, points: IntArray, rng: np.random.Generator) -> npt.NDArray[np.float64]:
    """Nanoseconds, float64 [N]; what is best moves with `rng`."""
    _, mid_w, in_w = space.values(points, "tile_w")
    _, mid_c, in_c = space.values(points, "tile_oc")
    unroll = np.asarray(space.values(points, "unroll"))
    order = points[:, space.column("order")]
    vector = points[:, space.column("annotation")]
    tile, cache, deep = rng.uniform(4.0, 5.5), rng.uniform(2.0, 4.0), rng.uniform(0.5, 2.5)
    shape = rng.uniform(-1.0, 2.0)
    registers = np.abs(np.log2(in_w * in_c) - tile)
    squareness = np.abs(np.log2(in_c / in_w) - shape)
    reuse = np.abs(np.log2(mid_w * mid_c) - cache)
    loop = np.abs(np.log2(unroll) - deep)
    excess = (
        0.35 * registers**1.5
        + 0.12 * squareness
        + 0.18 * reuse * (1.0 + 0.3 * order)
        + 0.15 * loop * np.exp(-0.5 * registers)
        + 1.2 * (1 - vector) * np.exp(-0.3 * squareness)
        + 0.25 * order * (unroll > 2)
    )
    return np.asarray(_PEAK_NS * (1.0 + excess))


def synthetic_features(space: Space, points: IntArray) -> npt.NDArray[np.float32]:
    """Features of the kind a nest gives, float32 [N, F]: logarithms of sizes and their products."""
    logs = [np.log2(size) for name in ("tile_w", "tile_oc") for size in space.values(points, name)]
    tile = logs[2] + logs[5]
    cache = logs[1] + logs[4] + tile
    columns = [*logs, tile, cache, logs[5] - logs[2], *points[:, 2:].T]
    return np.stack(columns, axis=1).astype(np.float32)
