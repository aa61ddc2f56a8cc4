"""The page on new kinds of devices, followed: a stack machine, here and through an agent."""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from device_contract import DeviceCase, DeviceContract
from fleet_processes import Processes

import loopwright as lw
from loopwright.build.compile import compile_config
from loopwright.errors import ConfigError
from loopwright.plugins import plugin
from loopwright.runtime.devices import open_device
from loopwright.search.result import TuneResult
from loopwright.templates.apply import good_config

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "new_device.md"
SUPPORT = ROOT / "tests" / "support"
BLOCKS = re.findall(r"```\w+\n# (\S+)\n(.*?)```", PAGE.read_text(), re.DOTALL)


@pytest.fixture(autouse=True)
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder in which the package is installed, by the entry points that the page shows."""
    (path, points), *_ = [block for block in BLOCKS if block[0].endswith("entry_points.txt")]
    folder = tmp_path / Path(path).parent
    folder.mkdir()
    (folder / "entry_points.txt").write_text(points)
    (folder / "METADATA").write_text("Name: stack_machine\nVersion: 1.0\n")
    monkeypatch.syspath_prepend(tmp_path)
    plugin.cache_clear()
    return tmp_path


def make_task() -> lw.Task:
    return lw.task("matmul", a=(4, 8), b=(8, 4), target="stack")


def check(task: lw.Task, result: TuneResult) -> None:
    """The best program, run on the machine as it is, is a matrix product."""
    assert result.best is not None
    rng = np.random.default_rng(0)
    a, b = (rng.standard_normal(shape).astype(np.float32) for shape in ((4, 8), (8, 4)))
    c = np.empty((4, 4), np.float32)
    device = open_device("stack")
    kernel = device.load(compile_config(task, result.best.config).loadable())
    buffers = [device.alloc(array.nbytes) for array in (a, b, c)]
    for buffer, array in zip(buffers, (a, b), strict=False):
        device.copy_in(buffer, array.reshape(-1).view(np.uint8))
    timing = kernel.time(buffers, 1)
    device.copy_out(buffers[2], c.reshape(-1).view(np.uint8))
    np.testing.assert_allclose(c, a @ b, rtol=1e-5, atol=1e-6)
    assert timing.ns == result.best.ns, "the machine counts, so that it takes the same here"


def test_the_page_is_short() -> None:
    assert len(PAGE.read_text().splitlines()) <= 150


@pytest.mark.parametrize(
    ("file", "text"), [block for block in BLOCKS if block[0].startswith("stack_machine/")]
)
def test_the_page_shows_the_files_as_they_are(file: str, text: str) -> None:
    assert text in (SUPPORT / file).read_text()


def test_a_matrix_product_is_tuned_on_it(tmp_path: Path) -> None:
    task, records = make_task(), f"sqlite:///{tmp_path}/r.db"
    result = lw.tune(task, trials=12, records=records, seed=0)
    assert result.trials == 12
    assert not result.failures
    check(task, result)


def test_it_counts_instructions_so_that_unrolled_loops_are_faster(tmp_path: Path) -> None:
    records = f"sqlite:///{tmp_path}/r.db"
    found = lw.tune(make_task(), trials=16, policy="grid", records=records, seed=0)
    assert found.best is not None
    assert found.best.config["unrolled"] is True


def test_a_matrix_product_is_tuned_through_an_agent_of_a_fleet(site: Path, tmp_path: Path) -> None:
    records = f"sqlite:///{tmp_path}/r.db"
    with Processes(tmp_path, tmp_path / "cache", path=(site, SUPPORT)) as processes:
        processes.start_device("host", "stack0=stack", "board=toy")
        with processes.fleet() as fleet:
            result = lw.tune(make_task(), trials=8, records=records, seed=0, fleet=fleet)
    assert result.trials == 8
    assert not result.failures
    check(make_task(), result)


class TestContract(DeviceContract):
    @pytest.fixture
    def case(self) -> DeviceCase:
        task = make_task()
        kernel = compile_config(task, good_config(task)).loadable()
        a, b = (np.ones(32, np.float32).tobytes() for _ in "ab")
        before, after = (a, b, bytes(64)), (a, b, np.full(16, 8, np.float32).tobytes())
        return DeviceCase(partial(open_device, "stack"), kernel, before, after)


def test_what_is_for_cpus_says_so() -> None:
    task = make_task()
    with pytest.raises(ConfigError, match=r"is for CPUs; the target stack is of kind 'stack'"):
        lw.build(task, config=good_config(task))
    with pytest.raises(ConfigError, match=r"no code generation in 'c' for stack targets"):
        compile_config(task, good_config(task), "c")


def test_a_kind_that_nobody_brings_is_one_line_that_names_those_there_are() -> None:
    with pytest.raises(ConfigError, match=r"unknown target 'heap'; use one of cpu, .*stack"):
        lw.task("matmul", a=(4, 8), b=(8, 4), target="heap")
