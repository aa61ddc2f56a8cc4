"""The C back end computes what the LLVM back end computes, bit for bit."""

from __future__ import annotations

import importlib.util
import shutil
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import random_kernels
from c_kernels import compiled, needs_c_compiler
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from random_kernels import nests, tiles
from schedules import cases

import loopwright as lw
from loopwright.api.program import example_inputs
from loopwright.build.compile import compile_config, source_text
from loopwright.codegen.artifact import Artifact, Param
from loopwright.codegen.clike.compiler import compile_c
from loopwright.codegen.clike.dialects import C11
from loopwright.codegen.clike.emit import emit
from loopwright.errors import CodegenError, ConfigError, EnvironmentFailure
from loopwright.ir import dtype as dt
from loopwright.ir.expr import Binary, Buffer, Call, Const, Expr, Fn, Load, Op, Scope, Var
from loopwright.ir.kernel import Kernel
from loopwright.ir.stmt import Alloc, For, LoopKind, Store, block
from loopwright.layout import Layout
from loopwright.lower.pipeline import apply_passes, lower
from loopwright.runtime.cpu.kernel import CpuDevice, aligned_copy
from loopwright.target.host import host
from loopwright.target.presets import PRESETS
from loopwright.templates.apply import good_config, scheduled
from loopwright.templates.task import Task
from operators import CASES, OPERATORS

pytestmark = needs_c_compiler
Compile = Callable[..., Artifact]
Devices = dict[int, CpuDevice]
FIXTURES = (HealthCheck.function_scoped_fixture, HealthCheck.too_slow)
CONFIGS = 50
TUNED: dict[str, dict[str, object]] = {
    "conv2d": {"data": (1, 5, 6, 6), "weight": (3, 5, 2, 2), "padding": (1, 0, 0, 1)},
    "depthwise_conv2d": {"data": (1, 5, 5, 6), "weight": (5, 1, 2, 3), "padding": (0, 1, 1, 0)},
    "separable_conv2d": dict(OPERATORS["separable_conv2d"]["one channel"]),
    "dense": {"data": (5, 9), "weight": (11, 9), "bias": True, "relu": True},
    "matmul": {"a": (7, 9), "b": (9, 19)},
    "batch_matmul": {"a": (2, 5, 6), "b": (2, 6, 11)},
}
"""Small, with tails, padding and epilogues."""


def kernels_of(task: Task, count: int, seed: int = 0) -> list[tuple[Kernel, tuple[Param, ...]]]:
    """The kernels of the default config and of `count` random ones, each once."""
    points = task.space.sample(np.random.default_rng(seed), count) if count else ()
    configs = dict.fromkeys([good_config(task), *(task.space.decode(point) for point in points)])
    found = []
    for number, config in enumerate(configs):
        schedule = scheduled(task, config)
        kernel = apply_passes(lower(schedule, f"{task.name}_{number}"), task.target.kind)
        layouts = {t.name: schedule.layout(t.name) for t in schedule.workload.args}
        params = tuple(
            Param(t.name, t.dtype, t.shape, layouts[t.name]) for t in schedule.workload.args
        )
        found.append((kernel, params))
    return found


def outputs(device: CpuDevice, artifact: Artifact, seed: int = 1) -> list[np.ndarray]:
    """What a kernel makes of random arrays with some zeros."""
    rng = np.random.default_rng(seed)
    arrays = []
    for param in artifact.params:
        values = rng.standard_normal(param.physical_shape) * 3
        values[rng.random(param.physical_shape) < 0.05] = 0
        arrays.append(aligned_copy(values.astype(param.dtype.numpy)))
    device.module(artifact).call(*arrays)
    return arrays[len(arrays) - artifact.n_outputs :]


def agree(
    device: CpuDevice,
    compile_kernel: Compile,
    kernels: list[tuple[Kernel, tuple[Param, ...]]],
    *flags: str,
) -> None:
    """Assert that both back ends give the same bits."""
    by_c = compiled(kernels, host(), flags or ("-O0",))
    for (kernel, params), artifact in zip(kernels, by_c, strict=True):
        reference = replace(compile_kernel(kernel), params=params)
        want, got = outputs(device, reference), outputs(device, artifact)
        for a, b in zip(want, got, strict=True):
            assert a.tobytes() == b.tobytes(), str(kernel)


@pytest.mark.parametrize("name", TUNED)
def test_every_templates_configs_give_the_bits_that_llvm_gives(
    devices: Devices, compile_kernel: Compile, name: str
) -> None:
    task = lw.task(name, **TUNED[name])
    agree(devices[2], compile_kernel, kernels_of(task, CONFIGS))


@pytest.mark.parametrize("name", OPERATORS)
def test_the_default_of_every_shape_gives_the_bits_that_llvm_gives(
    devices: Devices, compile_kernel: Compile, name: str
) -> None:
    kernels = [
        (replace(kernel, name=f"shape{number}"), params)
        for number, (operator, shape) in enumerate(CASES)
        if operator == name
        for kernel, params in kernels_of(lw.task(name, **OPERATORS[name][shape]), 0)
    ]
    agree(devices[1], compile_kernel, kernels)


def test_the_optimizer_changes_no_bits(devices: Devices, compile_kernel: Compile) -> None:
    task = lw.task("dense", **OPERATORS["dense"]["epilogue"])
    agree(devices[1], compile_kernel, kernels_of(task, 1), "-O2")


@settings(max_examples=4, deadline=None, suppress_health_check=FIXTURES)
@given(kernels=st.lists(st.one_of(nests(), tiles()), min_size=25, max_size=25))
def test_any_loop_nest_computes_what_it_says(devices: Devices, kernels: list[Kernel]) -> None:
    named = [replace(kernel, name=f"k{number}") for number, kernel in enumerate(kernels)]
    made = compiled([(kernel, plain(kernel)) for kernel in named], host())
    for kernel, artifact in zip(named, made, strict=True):
        a, out = (aligned_copy(array) for array in random_kernels.arguments(kernel))
        devices[2].module(artifact).call(a, out)
        assert out.tolist() == random_kernels.expected(kernel).tolist(), str(kernel)


@settings(max_examples=4, deadline=None, suppress_health_check=FIXTURES)
@given(drawn=st.lists(cases(), min_size=12, max_size=12))
def test_any_schedule_gives_what_llvm_gives(
    devices: Devices, compile_kernel: Compile, drawn: list[object]
) -> None:
    kernels = []
    for number, case in enumerate(drawn):
        kernel = apply_passes(lower(case.schedule, f"s{number}"), "cpu")
        kernels.append((kernel, plain(kernel)))
    made = compiled(kernels, host())
    for (kernel, _), artifact in zip(kernels, made, strict=True):
        want = outputs(devices[1], compile_kernel(kernel))
        for a, b in zip(want, outputs(devices[1], artifact), strict=True):
            np.testing.assert_array_equal(a, b, err_msg=str(kernel))


def plain(kernel: Kernel) -> tuple[Param, ...]:
    return tuple(Param(b.name, b.dtype, b.shape, Layout.plain(1)) for b in kernel.params)


def tile() -> Kernel:
    """c[8 lanes] = sum over k of a[k] * b[k, 8 lanes]."""
    a, b, c = Buffer("a", dt.F32, (5,)), Buffer("b", dt.F32, (40,)), Buffer("c", dt.F32, (8,))
    acc = Buffer("acc", dt.F32, (8,), Scope.REGISTER)
    k, lane = Var("k"), Var("lane")

    def lanes(value: Expr, into: Buffer) -> For:
        return For(lane, 8, LoopKind.VECTORIZED, Store(into, (lane,), value))

    product = Load(a, (k,)) * Load(b, (k * 8 + lane,))
    add = For(k, 5, LoopKind.SERIAL, lanes(Load(acc, (lane,)) + product, acc))
    body = Alloc(acc, block(lanes(Const(0.0, dt.F32), acc), add, lanes(Load(acc, (lane,)), c)))
    return Kernel("tile", (a, b, c), 1, body)


def test_a_register_tile_is_one_variable_in_plain_loops() -> None:
    kernel = tile()
    text = emit(kernel, plain(kernel), PRESETS["x86-64-avx2"], C11).functions
    assert text.startswith(
        "static __attribute__((noinline)) void lw_tile_main(const float *restrict p0_a, "
        "const float *restrict p1_b, float *restrict p2_c, char *shared, "
        "lw_parallel_for parallel, void *pool) {\n"
        "  {\n"
        "    f32x8 r0;\n"
        "    const f32x8 v1 = splat_f32x8(0x0.0p+0f);\n".replace("0x0.0p+0f", "0.0f")
    )
    assert "for (int64_t k_2 = 0; k_2 < 5; ++k_2) {\n      const float" in text
    assert "lw_fma_f32x8(" in text
    assert "*(f32x8_at *)(p2_c + 0) = r0;" in text


def test_no_fused_operation_is_written_for_a_target_without_one() -> None:
    kernel = tile()
    source = emit(kernel, plain(kernel), PRESETS["x86-64-sse4"], C11)
    assert "fma" not in source.text
    assert "f32x4" in source.functions
    assert "f32x8" not in source.text


def test_a_config_is_built_and_written_in_c() -> None:
    task = lw.task("matmul", a=(9, 16), b=(16, 24))
    config = good_config(task)
    artifact = compile_config(task, config, "c")
    assert artifact.target_key == task.target.key
    text = source_text(task, config, "c")
    assert f"void {artifact.entry}(void *const *args" in text
    assert "args[0]  float32 A[9][16]\n" in text
    assert "args[2]  float32 product[9][24]   written\n" in text
    assert "Compile with: cc -std=gnu11" in text
    assert source_text(task, config).startswith("target triple")


def test_a_program_by_way_of_c_computes_the_product() -> None:
    task = lw.task("matmul", a=(9, 16), b=(16, 24))
    a, b = example_inputs(task)
    program = lw.build(task, config=good_config(task), language="c")
    np.testing.assert_allclose(program(a, b), a @ b, rtol=1e-5, atol=1e-5)


def test_a_language_that_cpus_have_not_is_refused() -> None:
    task = lw.task("matmul", a=(9, 16), b=(16, 24))
    with pytest.raises(ConfigError, match=r"in 'ptx' for cpu targets.*llvm, c"):
        compile_config(task, good_config(task), "ptx")
    with pytest.raises(ConfigError, match=r"in 'ptx' for cpu targets.*llvm, c"):
        lw.build(task, config=good_config(task), language="ptx")


def test_what_the_compiler_refuses_is_told_in_one_line() -> None:
    with pytest.raises(CodegenError, match=r"failed \(1\).*error") as caught:
        compile_c("int f(void) { return nothing; }\n", host())
    assert "\n" not in str(caught.value)


def test_without_a_c_compiler_one_line_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(shutil, "which", lambda _: None)
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(EnvironmentFailure, match=r"pip install 'loopwright\[export\]'"):
        compile_c("", host())
    task = lw.task("matmul", a=(9, 16), b=(16, 24))
    with pytest.raises(EnvironmentFailure, match=r"pip install 'loopwright\[export\]'"):
        lw.build(task, config=good_config(task), language="c")


def test_a_store_of_all_lanes_to_one_register_is_refused() -> None:
    acc, out = Buffer("acc", dt.F32, (1,), Scope.REGISTER), Buffer("out", dt.F32, (8,))
    lane, zero = Var("lane"), Const(0, dt.I64)
    value = Call(Fn.NEG, (Load(out, (lane,)),))
    store = For(lane, 8, LoopKind.VECTORIZED, Store(acc, (zero,), value))
    last = Store(out, (zero,), Binary(Op.ADD, Load(acc, (zero,)), Load(acc, (zero,))))
    kernel = Kernel("bad", (out,), 1, Alloc(acc, block(store, last)))
    with pytest.raises(CodegenError, match="lanes stored to one element"):
        emit(kernel, plain(kernel), PRESETS["x86-64-avx2"], C11)
