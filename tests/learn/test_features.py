from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from loopwright.learn.features import NAMES, features, features_of, featurize
from loopwright.ops.registry import build
from loopwright.sched.nest import nest
from loopwright.sched.schedule import Schedule, create_schedule
from loopwright.target.parse import parse
from loopwright.te import language as te
from loopwright.te.workload import Workload
from loopwright.templates import derived
from loopwright.templates.registry import template_for
from loopwright.templates.task import Task, make
from operators import CASES, OPERATORS

AVX2 = parse("x86-64-avx2")


def task_for(operator: str, shape: str, *, handcrafted: bool) -> Task:
    workload = build(operator, **OPERATORS[operator][shape])
    template = template_for(operator, workload, AVX2) if handcrafted else derived.TEMPLATE
    return make(workload, template, AVX2, operator=operator, threads=2)


@pytest.mark.parametrize("handcrafted", [True, False])
@pytest.mark.parametrize(("operator", "shape"), CASES)
def test_a_batch_has_the_features_of_its_configs_one_by_one(
    operator: str, shape: str, handcrafted: bool
) -> None:
    task = task_for(operator, shape, handcrafted=handcrafted)
    points = task.space.sample(np.random.default_rng(3), 24)
    together = featurize(task, points)
    alone = np.concatenate([features_of(task, task.space.decode(p)) for p in points])
    assert together.dtype == np.float32
    assert together.shape == (24, len(NAMES))
    assert np.isfinite(together).all()
    np.testing.assert_allclose(together, alone, rtol=1e-6, atol=1e-6)


def test_features_do_not_depend_on_the_company() -> None:
    task = task_for("conv2d", "3x3", handcrafted=True)
    points = task.space.sample(np.random.default_rng(4), 40)
    order = np.random.default_rng(5).permutation(40)
    np.testing.assert_array_equal(featurize(task, points)[order], featurize(task, points[order]))
    np.testing.assert_array_equal(featurize(task, points)[:7], featurize(task, points[:7]))


def test_no_points_have_no_features() -> None:
    task = task_for("matmul", "even", handcrafted=True)
    assert featurize(task, np.zeros((0, len(task.space.knobs)), np.int64)).shape == (0, len(NAMES))


# --- figures that can be counted by hand --------------------------------------------------------


def product() -> Workload:
    a, b = te.placeholder((32, 16), name="A"), te.placeholder((16, 64), name="B")
    k = te.reduce_axis(16, name="k")
    c = te.compute((32, 64), lambda y, x: te.sum(a[y, k] * b[k, x], axis=k), name="C")
    return te.workload(c, name="product")


def tiled(y: int = 4, x: int = 16) -> Schedule:
    s = create_schedule(product())
    yo, xo, yi, xi = s["C"].tile("C.y", "C.x", y, x)
    xv, xl = s["C"].split(xi, 8)
    s["C"].reorder(yo, xo, "k", yi, xv, xl)
    for loop in (yi, xv):
        s["C"].unroll(loop)
    s["C"].vectorize(xl)
    s["C"].parallel(yo)
    return s


def named(schedule: Schedule, threads: int = 1) -> dict[str, float]:
    row = features(nest(schedule), AVX2, threads)[0]
    return dict(zip(NAMES, row.tolist(), strict=True))


def test_names_are_told_apart() -> None:
    assert len(set(NAMES)) == len(NAMES)


def test_the_register_tile_is_described() -> None:
    found = named(tiled())
    assert found["tile_accumulators"] == 4 * 2
    assert found["tile_register_share"] == 8 / AVX2.registers
    assert found["tile_lanes"] == 1
    assert found["tile_vectors"] == 2
    assert found["tile_broadcasts"] == 4
    assert found["tile_spilled"] == 0
    assert named(tiled(16, 16))["tile_spilled"] == 16 * 2 + 2 - AVX2.registers
    assert [found[f"tile_stride_{role}"] for role in ("write", "read0", "read1")] == [1, 0, 1]


def test_work_and_waste_are_counted() -> None:
    found = named(tiled())
    assert found["flops"] == pytest.approx(np.log2(1 + 32 * 64 * 16))
    assert found["iterations"] == found["flops"]
    assert found["waste"] == 1
    assert named(tiled(y=5))["waste"] == pytest.approx(35 / 32)


def test_threads_share_the_parallel_loop() -> None:
    assert named(tiled(), threads=1)["parallel_imbalance"] == 1
    assert named(tiled(), threads=2)["parallel_imbalance"] == 1
    assert named(tiled(), threads=3)["parallel_imbalance"] == pytest.approx(9 / 8)
    assert named(tiled())["parallel_chunks"] == pytest.approx(np.log2(1 + 8))


def test_a_larger_cache_holds_more_work() -> None:
    small = features(nest(tiled()), replace(AVX2, l1=1024))[0]
    large = features(nest(tiled()), AVX2)[0]
    work = NAMES.index("work_l1")
    traffic = NAMES.index("traffic_l1")
    assert small[work] < large[work]
    assert small[traffic] > large[traffic]


def test_what_a_program_without_vectors_lacks_shows() -> None:
    plain = named(create_schedule(product()))
    assert plain["tile_lanes"] == 1 / 8
    assert plain["parallel_chunks"] == 0
    assert plain["tile_accumulators"] == 1
    assert plain["other_iterations"] == -1
