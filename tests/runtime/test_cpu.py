"""Calling kernels with NumPy arrays: what is copied, what is refused, from many threads."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from loopwright.codegen.artifact import Artifact
from loopwright.errors import ConfigError, EnvironmentFailure, ShapeError
from loopwright.kernel_call import Form
from loopwright.layout import Array, Layout
from loopwright.runtime.cpu.kernel import CpuDevice, Module, aligned_copy, aligned_empty
from loopwright.runtime.cpu.loader import load, runnable_keys
from loopwright.target.host import host
from loopwright.target.presets import PRESETS

PLAIN = Layout.plain(2)
BLOCKED = Layout.parse("AB4b", "AB")
Make = Callable[[Layout, Layout], Artifact]


@pytest.fixture(scope="module")
def device(cache_dir: Path) -> Iterator[CpuDevice]:
    with CpuDevice(2, cache_dir) as opened:
        yield opened


@pytest.fixture
def plain(device: CpuDevice, scale: Make) -> Module:
    return device.module(scale(PLAIN, PLAIN))


def values(seed: int = 0) -> Array:
    return np.random.default_rng(seed).random((2, 12), np.float32)


def aligned(seed: int = 0) -> Array:
    return aligned_copy(values(seed))


def test_a_plain_call_returns_the_output(plain: Module) -> None:
    np.testing.assert_array_equal(plain(values()), 2 * values())


@pytest.mark.parametrize("x", [PLAIN, BLOCKED])
@pytest.mark.parametrize("y", [PLAIN, BLOCKED])
def test_layouts_are_packed_and_unpacked(
    device: CpuDevice, scale: Make, x: Layout, y: Layout
) -> None:
    module = device.module(scale(x, y))
    memory = x.pack(values()).reshape(-1) * 2  # what the kernel does, element by element of memory

    expected = y.unpack(memory, (2, 12))

    np.testing.assert_array_equal(module(values()), expected)


def test_call_writes_in_place_without_copies(plain: Module) -> None:
    x, y = aligned(), aligned_empty((2, 12), np.float32)
    plain.call(x, y)

    np.testing.assert_array_equal(y, 2 * values())


def test_an_aligned_contiguous_input_is_not_copied(plain: Module) -> None:
    x = aligned()

    assert np.shares_memory(plain.pack(plain.inputs[0], x), x)


def test_a_bound_call_reads_its_arrays_each_time(plain: Module) -> None:
    x, y = aligned(), aligned_empty((2, 12), np.float32)
    bound = plain.bind(x, y)
    x[:] = 3
    bound()

    assert np.all(y == 6)


def test_strided_input_is_copied_and_right(plain: Module) -> None:
    wide = np.random.default_rng(1).random((2, 24), np.float32)[:, ::2]

    np.testing.assert_array_equal(plain(wide), 2 * wide)


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((2, 13), np.float32), r"x float32\[2, 12\] was given float32\[2, 13\]"),
        (np.zeros((2, 12)), r"x float32\[2, 12\] was given float64\[2, 12\]"),
        (np.zeros(24, np.float32), r"x float32\[2, 12\] was given float32\[24\]"),
    ],
)
def test_a_wrong_input_is_refused(plain: Module, array: Array, message: str) -> None:
    with pytest.raises(ShapeError, match=message):
        plain(array)


def test_a_wrong_number_of_inputs_is_refused(plain: Module) -> None:
    with pytest.raises(ShapeError, match=r"got 2 inputs, takes 1: x float32\[2, 12\]"):
        plain(values(), values())


def misaligned() -> Array:
    memory = aligned_empty((25,), np.float32)
    return memory[1:].reshape(2, 12)


def read_only() -> Array:
    array = aligned()
    array.flags.writeable = False
    return array


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        (np.asfortranarray(values()), aligned(), "argument x is not contiguous"),
        (misaligned(), aligned(), "argument x is not aligned to 64 bytes"),
        (aligned(), read_only(), "argument y is an output and read-only"),
        (aligned(), aligned()[:1], r"argument y is float32\[1, 12\], wanted float32\[2, 12\]"),
        ([1.0], aligned(), "argument x is a list"),
    ],
)
def test_call_refuses_what_would_need_a_copy(
    plain: Module, x: Array, y: Array, message: str
) -> None:
    with pytest.raises(ShapeError, match=message):
        plain.call(x, y)


def test_a_read_only_input_is_fine(plain: Module) -> None:
    y = aligned_empty((2, 12), np.float32)
    plain.call(read_only(), y)

    np.testing.assert_array_equal(y, 2 * values())


def test_many_threads_call_one_module(plain: Module) -> None:
    wrong: list[int] = []

    def work(seed: int) -> None:
        x = values(seed)
        wrong.extend(seed for _ in range(50) if not np.array_equal(plain(x), 2 * x))

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert wrong == []


def test_a_module_works_after_its_device_is_closed(cache_dir: Path, scale: Make) -> None:
    with CpuDevice(2, cache_dir) as device:
        module = device.module(scale(PLAIN, PLAIN))

    np.testing.assert_array_equal(module(values()), 2 * values())


def test_the_workspace_of_a_thread_is_reused_and_grows(device: CpuDevice) -> None:
    small = device.workspace(100)

    assert device.workspace(50) == small
    assert device.workspace(1 << 20) % 64 == 0


@given(hnp.array_shapes(min_dims=0, max_dims=4, min_side=0), st.sampled_from(["f4", "i1", "f8"]))
def test_aligned_empty_is_aligned(shape: tuple[int, ...], dtype: str) -> None:
    array = aligned_empty(shape, dtype)

    assert array.shape == shape
    assert array.flags.c_contiguous
    assert array.size == 0 or array.ctypes.data % 64 == 0


def test_a_kernel_for_another_target_is_refused(scale: Make) -> None:
    with pytest.raises(ConfigError, match=r"made for aarch64-neon-12345678, this machine runs"):
        load(replace(scale(PLAIN, PLAIN), target_key="aarch64-neon-12345678"))


def test_a_kernel_that_uses_what_this_machine_lacks_is_refused(scale: Make) -> None:
    wanting = replace(scale(PLAIN, PLAIN), requires=(*host().features, "sse9", "mma"))
    with pytest.raises(ConfigError, match=r"^the kernel uses mma, sse9, which this machine does"):
        load(wanting)


@pytest.mark.parametrize("form", [form for form in Form if form is not Form.OBJECT])
def test_code_that_is_no_object_is_refused(scale: Make, form: Form) -> None:
    with pytest.raises(ConfigError, match=rf"^kernel scale is {form.value} code .* runs object"):
        load(replace(scale(PLAIN, PLAIN), form=form))


def test_a_kernel_for_a_smaller_instruction_set_is_taken() -> None:
    here = host()
    smaller = {
        p.key
        for p in PRESETS.values()
        if p.arch == here.arch and set(p.features) <= set(here.features)
    }

    assert smaller <= runnable_keys()
    assert here.key in runnable_keys()


@pytest.mark.parametrize("broken", [b"", b"garbage", None])
def test_a_broken_kernel_is_an_error_and_no_crash(scale: Make, broken: bytes | None) -> None:
    artifact = scale(PLAIN, PLAIN)
    code = artifact.code[:200] if broken is None else broken

    with pytest.raises(EnvironmentFailure, match="cannot link an object"):
        load(replace(artifact, code=code))


def test_a_missing_entry_is_an_error(scale: Make) -> None:
    with pytest.raises(EnvironmentFailure, match="no_such_entry"):
        load(replace(scale(PLAIN, PLAIN), entry="no_such_entry"))
