"""Direct convolutions that skip padding: right for any attributes, nothing multiplied in vain."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from machines import presets_to_run
from running import check_interpreted, compiled, differences, random_inputs

from loopwright.learn.features import features_of, featurize
from loopwright.ops.registry import build
from loopwright.runtime.cpu.kernel import CpuDevice
from loopwright.runtime.cpu.loader import runnable_keys
from loopwright.space.config import Config
from loopwright.space.knobs import ChoiceKnob
from loopwright.space.space import Space
from loopwright.target.host import host
from loopwright.target.parse import parse
from loopwright.target.presets import PRESETS
from loopwright.te.reference import evaluate
from loopwright.templates.apply import scheduled
from loopwright.templates.cpu import conv2d_direct
from loopwright.templates.task import Task, make
from operators import CONV2D, Attrs

QUICK = settings(deadline=None, suppress_health_check=[*HealthCheck])
SHAPES: Mapping[str, Attrs] = {
    **{name: attrs for name, attrs in CONV2D.items() if "padding" in attrs},
    "7x7": {"data": (1, 32, 7, 7), "weight": (48, 32, 3, 3), "padding": (1, 1, 1, 1)},
    "dilated": {
        "data": (1, 16, 12, 13),
        "weight": (16, 16, 3, 3),
        "padding": (2, 3, 2, 3),
        "dilation": (2, 3),
    },
    "more padding than kernel": {
        "data": (1, 8, 4, 5),
        "weight": (16, 8, 2, 2),
        "padding": (3, 4, 2, 3),
        "strides": (2, 1),
    },
    "sums of blocks": {
        "data": (1, 64, 6, 7),
        "weight": (32, 64, 3, 3),
        "padding": (1, 1, 1, 1),
        "bias": True,
        "epilogue": "add",
        "relu": True,
    },
    "half": {"data": (1, 16, 6, 6), "weight": (16, 16, 3, 3), "padding": (1, 1, 1, 1)}
    | {"dtype": "float16"},
}


def task(attrs: Attrs, target: str = "x86-64-avx2") -> Task:
    """The task of a convolution in the space of configs that skip padding."""
    made = make(build("conv2d", **attrs), conv2d_direct.TEMPLATE, parse(target), operator="conv2d")
    knobs = [ChoiceKnob("pad", ("skip",)) if k.name == "pad" else k for k in made.space.knobs]
    return dataclasses.replace(made, space=Space(knobs, made.space.constraints))


def configs(of: Task, n: int, seed: int = 0) -> Iterator[Config]:
    for point in of.space.sample(np.random.default_rng(seed), n):
        yield of.space.decode(point)


def check(of: Task, cpu: CpuDevice, n: int, seed: int) -> None:
    inputs = random_inputs(of.workload)
    expected = evaluate(of.workload, inputs)
    for config in configs(of, n, seed):
        actual = compiled(scheduled(of, config), inputs, cpu, of.target)
        assert differences(of.workload, actual, expected) == [], f"{of.name}\n{config}"


@pytest.mark.parametrize("target", presets_to_run("x86-64-avx512", "x86-64-avx2", "x86-64-sse4"))
@pytest.mark.parametrize("shape", SHAPES)
def test_any_config_computes_the_convolution(shape: str, target: str, cpu: CpuDevice) -> None:
    of = task(SHAPES[shape], target)
    if of.target.key not in runnable_keys():
        pytest.skip(f"this machine does not run {target}")
    check(of, cpu, 3, seed=len(shape))


def test_threads_share_the_rows_and_channels() -> None:
    with CpuDevice(2) as device:
        for shape in ("7x7", "sums of blocks", "groups", "strided epilogue"):
            check(task(SHAPES[shape]), device, 3, seed=7)


@pytest.mark.parametrize("shape", ["3x3", "more padding than kernel", "sums of blocks"])
def test_nothing_outside_of_the_data_is_read(shape: str) -> None:
    attrs = {**SHAPES[shape], "weight": (8, *SHAPES[shape]["weight"][1:])}  # type: ignore[index]
    of = task(attrs, "x86-64-sse4")
    for config in configs(of, 2):
        check_interpreted(scheduled(of, config), flat=True)


@settings(QUICK, max_examples=25)
@given(
    size=st.tuples(st.integers(1, 9), st.integers(1, 17)),
    kernel=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    stride=st.tuples(st.integers(1, 3), st.integers(1, 2)),
    dilation=st.tuples(st.integers(1, 2), st.integers(1, 2)),
    padding=st.tuples(*[st.integers(0, 3)] * 4),
    channels=st.sampled_from([(8, 8, 1), (3, 9, 1), (16, 24, 2), (64, 16, 1)]),
    relu=st.booleans(),
    seed=st.integers(0, 3),
)
def test_any_convolution_is_right_at_its_borders(
    cpu: CpuDevice,
    size: tuple[int, int],
    kernel: tuple[int, int],
    stride: tuple[int, int],
    dilation: tuple[int, int],
    padding: tuple[int, int, int, int],
    channels: tuple[int, int, int],
    relu: bool,
    seed: int,
) -> None:
    inputs, outputs, groups = channels
    spans = [d * (k - 1) + 1 for k, d in zip(kernel, dilation, strict=True)]
    top, left, bottom, right = padding
    assume(any(padding))
    assume(size[0] + top + bottom >= spans[0] and size[1] + left + right >= spans[1])
    attrs = {
        "data": (1, inputs, *size),
        "weight": (outputs, inputs // groups, *kernel),
        "strides": stride,
        "dilation": dilation,
        "padding": padding,
        "groups": groups,
        "relu": relu,
    }
    check(task(attrs), cpu, 1, seed)


@pytest.mark.parametrize("blocks", [1, 2])
def test_a_weight_on_padding_has_no_effect_even_if_it_is_not_a_number(
    cpu: CpuDevice, blocks: int
) -> None:
    """A NaN in the first tap reaches all outputs but those of the first row and column."""
    of = task({**SHAPES["sums of blocks"], "epilogue": "", "relu": False}, host().name)
    chosen = next(c for c in configs(of, 200, 3) if c["ic_blocks"] == blocks)
    arrays = [np.abs(a) + 0.5 for a in random_inputs(of.workload)]
    arrays[1][:, :, 0, 0] = np.nan
    (out,) = compiled(scheduled(of, chosen), arrays, cpu)
    assert np.isnan(out[:, :, 1:, 1:]).all()
    assert np.isfinite(out[:, :, 0]).all()
    assert np.isfinite(out[:, :, :, 0]).all()


def test_a_cost_model_tells_apart_where_padding_is_made() -> None:
    made = make(build("conv2d", **SHAPES["3x3"]), conv2d_direct.TEMPLATE, parse("x86-64-avx2"))
    point = made.space.sample(np.random.default_rng(1), 1)[0]
    config = made.space.decode(point)
    rows = [
        features_of(made, Config.of({**{k: config[k] for k in config.names()}, "pad": pad}))[0]
        for pad in ("root", "rows", "skip")
    ]
    assert len({row.tobytes() for row in rows}) == 3


def test_a_batch_has_the_features_of_its_configs() -> None:
    of = task(SHAPES["sums of blocks"])
    points = of.space.sample(np.random.default_rng(2), 16)
    alone = np.concatenate([features_of(of, of.space.decode(p)) for p in points])
    np.testing.assert_allclose(featurize(of, points), alone, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("preset", sorted(PRESETS))
def test_a_good_config_skips_padding_where_there_is_room_for_tests(preset: str) -> None:
    workload = build("conv2d", **SHAPES["7x7"])
    config = conv2d_direct.default(workload, PRESETS[preset])
    assert (config["pad"] == "skip") is (preset != "x86-64-sse4")
