from __future__ import annotations

import pickle
from collections.abc import Iterator

import numpy as np
import pytest

from loopwright.build.compile import compile_config
from loopwright.ir import dtype as dt
from loopwright.layout import Array, Layout
from loopwright.runtime.cpu.kernel import CpuDevice, Module, aligned_empty
from loopwright.space.config import Config
from loopwright.target.host import host
from loopwright.templates.cpu import relayout
from loopwright.templates.relayout import copy, merged
from loopwright.templates.task import Task, make

CASES = {
    "channels blocked": ((2, 32, 5, 7), [0, 1, 2, 3, (1, 16)]),
    "channels with padding": ((1, 20, 3, 5), [0, 1, 2, 3, (1, 16)]),
    "fewer channels than a block": ((1, 3, 8, 8), [0, 1, 2, 3, (1, 16)]),
    "a weight": ((40, 24, 3, 3), [0, 1, 2, 3, (1, 8), (0, 32)]),
    "a weight, all padded": ((5, 7, 3, 2), [0, 1, 2, 3, (1, 4), (0, 16)]),
    "panels": ((30, 50), [1, 0, (1, 32)]),
    "panels the other way": ((30, 50), [0, 1, (0, 12)]),
    "channels last": ((2, 6, 4, 5), [0, 2, 3, 1]),
    "blocks of blocks": ((3, 70), [1, 0, (1, 32), (0, 2), (1, 4)]),
    "neighbours two apart": ((32, 2), [0, 1, (0, 16)]),
    "one dimension": ((40,), [0, (0, 16)]),
}


@pytest.fixture(scope="module")
def device() -> Iterator[CpuDevice]:
    with CpuDevice(2) as made:
        yield made


def numbers(shape: tuple[int, ...], dtype: dt.DType) -> Array:
    count = int(np.prod(shape))
    return (np.arange(count) % 100).astype(dtype.numpy).reshape(shape)


def task_of(case: str, *, packs: bool, dtype: dt.DType = dt.F32) -> Task:
    shape, order = CASES[case]
    template = relayout.template(Layout.blocked(len(shape), order), packs=packs)
    return make(copy(shape, dtype), template, host())


def built(device: CpuDevice, task: Task, config: Config | None = None, *, packs: bool) -> Module:
    good = relayout.good_config(task.workload, task.target, packs=packs)
    return device.module(compile_config(task, good if config is None else config))


def check_packing(module: Module) -> None:
    source, target = module.artifact.params
    plain = numbers(source.shape, source.dtype)
    memory = aligned_empty(target.physical_shape, target.dtype.numpy)
    memory.view(np.uint8).fill(0)
    module.call(plain, memory)
    np.testing.assert_array_equal(memory, target.layout.pack(plain))


def check_unpacking(module: Module) -> None:
    source, _ = module.artifact.params
    plain = numbers(source.shape, source.dtype)
    np.testing.assert_array_equal(module(plain), plain)


@pytest.mark.parametrize("case", CASES)
def test_packing_lays_out_as_numpy_does_and_leaves_padding(device: CpuDevice, case: str) -> None:
    check_packing(built(device, task_of(case, packs=True), packs=True))


@pytest.mark.parametrize("case", CASES)
def test_unpacking_reads_what_numpy_laid_out(device: CpuDevice, case: str) -> None:
    check_unpacking(built(device, task_of(case, packs=False), packs=False))


@pytest.mark.parametrize("dtype", [dt.F64, dt.F16, dt.BF16, dt.I8], ids=str)
def test_other_dtypes(device: CpuDevice, dtype: dt.DType) -> None:
    case = "channels with padding"
    check_packing(built(device, task_of(case, packs=True, dtype=dtype), packs=True))
    check_unpacking(built(device, task_of(case, packs=False, dtype=dtype), packs=False))


@pytest.mark.parametrize("packs", [True, False])
def test_every_config_of_the_space_is_right(device: CpuDevice, *, packs: bool) -> None:
    task = task_of("channels with padding", packs=packs)
    points = task.space.sample(np.random.default_rng(0), task.space.cardinality)
    for config in {task.space.decode(row) for row in points}:
        module = built(device, task, config, packs=packs)
        (check_packing if packs else check_unpacking)(module)


def test_the_good_config_is_of_the_space() -> None:
    for packs in (True, False):
        task = task_of("panels", packs=packs)
        config = relayout.good_config(task.workload, task.target, packs=packs)
        assert task.space.decode(task.space.encode(config)) == config


@pytest.mark.parametrize("case", ["channels blocked", "neighbours two apart"])
def test_a_plain_input_may_lie_at_any_element(device: CpuDevice, case: str) -> None:
    module = built(device, task_of(case, packs=True), packs=True)
    source, target = module.artifact.params
    base = aligned_empty((source.nbytes // 4 + 1,), np.float32)
    plain = base[1:].reshape(source.shape)
    plain[...] = numbers(source.shape, source.dtype)
    memory = aligned_empty(target.physical_shape, np.float32)
    module.call(plain, memory)
    np.testing.assert_array_equal(memory, target.layout.pack(plain))
    assert np.shares_memory(module.pack(source, plain), plain)


def test_tasks_of_other_layouts_have_other_keys_and_pickle() -> None:
    tasks = [task_of(case, packs=packs) for case in CASES for packs in (True, False)]
    assert len({task.key for task in tasks}) == len(tasks)
    again = pickle.loads(pickle.dumps(tasks[0]))
    assert again.key == tasks[0].key


@pytest.mark.parametrize("shape", [(), (1,), (1, 1, 1)])
def test_a_single_element_keeps_a_dimension(shape: tuple[int, ...]) -> None:
    assert merged(shape, Layout.plain(len(shape))) == ((1,), Layout.plain(1))
