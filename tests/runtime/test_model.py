from __future__ import annotations

import gc
import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from graphs import Sketch, example

import loopwright as lw
from loopwright.deploy.finish import difference
from loopwright.errors import ConfigError, ModelError, ShapeError
from loopwright.graph.evaluate import evaluate
from loopwright.graph.ir import Graph
from loopwright.layout import Array
from loopwright.runtime import model_file
from loopwright.runtime.cpu.model import RUNTIME, Model

THREADS = 2


def network() -> Graph:
    """Two inputs and two outputs; parallel convolutions with workspaces between them."""
    sketch = Sketch()
    x, y = sketch.input(1, 8, 12, 12), sketch.input(1, 16, 12, 12)
    z = sketch.node("add", sketch.conv(sketch.node("relu", sketch.conv(x, 16)), 16), y)
    flat = sketch.node("reduce_mean", z, axes=(2, 3), keepdims=0)
    return sketch.graph(sketch.node("softmax", flat, axis=1), z)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("model") / "net.lw"
    with lw.compile(network(), threads=THREADS) as model:
        model.save(file)
    return file


def expected(inputs: dict[str, Array]) -> dict[str, Array]:
    graph = network()
    return dict(zip(graph.outputs, evaluate(graph, inputs), strict=True))


@pytest.mark.parametrize("threads", [None, 1, 2, 3])
def test_a_loaded_model_is_right_on_any_number_of_threads(path: Path, threads: int | None) -> None:
    inputs = example(network(), 3)
    with lw.load(path, threads) as model:
        assert model.threads == (threads or THREADS)
        for _ in range(2):
            assert difference(model.run(inputs), expected(inputs)) < 1e-5


def test_calls_at_the_same_time_do_not_disturb_each_other(path: Path) -> None:
    cases = [example(network(), seed) for seed in range(6)]
    wrong: list[int] = []
    together = threading.Barrier(len(cases))
    with lw.load(path) as model:
        right = [model.run(inputs) for inputs in cases]

        def work(seed: int) -> None:
            together.wait()
            for _ in range(30):
                found = model.run(cases[seed])
                if any(not np.array_equal(found[name], a) for name, a in right[seed].items()):
                    wrong.append(seed)

        workers = [threading.Thread(target=work, args=(seed,)) for seed in range(len(cases))]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
    assert wrong == []
    assert difference(right[0], expected(cases[0])) < 1e-5


def test_results_are_the_callers_to_keep(path: Path) -> None:
    first, second = example(network(), 1), example(network(), 2)
    with lw.load(path) as model:
        kept = model.run(first)
        copies = {name: array.copy() for name, array in kept.items()}
        model.run(second)
    for name, array in copies.items():
        np.testing.assert_array_equal(kept[name], array)


def test_inputs_may_be_given_in_any_way(path: Path) -> None:
    graph = network()
    inputs = example(graph)
    x, y = inputs.values()
    names = graph.inputs
    with lw.load(path) as model:
        right = model(x, y)
        assert isinstance(right, tuple)
        for found in (
            model(x, **{names[1]: y}),
            model(**{names[1]: y, names[0]: x}),
            model(np.asfortranarray(x), y[::-1]),
            model(np.repeat(x, 2, axis=3)[..., ::2], y.view()),
            model(memoryview(np.ascontiguousarray(x)), y),  # type: ignore[arg-type]
        ):
            for one, other in zip(found, right, strict=True):
                np.testing.assert_array_equal(one, other)
        before = x.copy(), y.copy()
        model(x, y)
    np.testing.assert_array_equal(before[0], x)
    np.testing.assert_array_equal(before[1], y)


def test_wrong_inputs_are_refused_with_what_is_wanted(path: Path) -> None:
    x, y = example(network()).values()
    with lw.load(path) as model:
        for given, named, words in (
            ((), {}, "'x0' is missing; it takes x0 float32"),
            ((x,), {}, "'x1' is missing"),
            ((x, y, y), {}, "got 3 inputs, takes 2"),
            ((x, y), {"x0": x}, "'x0' is given twice"),
            ((x,), {"z": y}, "no input 'z'; its inputs are x0"),
            ((x[0], y), {}, r"'x0' is float32\[8, 12, 12\], wanted float32\[1, 8, 12, 12\]"),
            ((y, x), {}, "'x0' is float32"),
            ((x.astype(np.float64), y), {}, "'x0' is float64"),
            ((x.astype(">f4"), y), {}, "'x0' is >f4"),
            ((x.tolist(), y), {}, "'x0' is float64"),
            ((None, y), {}, "'x0' is object"),
        ):
            with pytest.raises(ShapeError, match=words) as caught:
                model(*given, **named)
            assert "\n" not in str(caught.value)
            assert str(caught.value).startswith(model.name)


def test_a_profile_has_a_time_for_every_kernel_and_run(path: Path) -> None:
    with lw.load(path) as model:
        found = model.profile(example(network()), runs=4)
        assert [k.info for k in found] == list(model.manifest.calls)
        with pytest.raises(ConfigError, match="runs=0"):
            model.profile(example(network()), runs=0)
    for kernel in found:
        assert len(kernel.ns) == 4
        assert min(kernel.ns) > 0
        assert min(kernel.ns) <= kernel.median_ns <= max(kernel.ns)


@pytest.mark.parametrize("threads", [0, -1, 100_000])
def test_a_number_of_threads_that_cannot_be_is_refused(path: Path, threads: int) -> None:
    with pytest.raises(ConfigError, match=f"{threads}"):
        lw.load(path, threads)


def test_a_closed_model_still_runs_on_the_calling_thread(path: Path) -> None:
    inputs = example(network())
    model = lw.load(path)
    model.close()
    model.close()
    assert difference(model.run(inputs), expected(inputs)) < 1e-5


@pytest.mark.filterwarnings("ignore:.*fork")
def test_a_forked_child_can_run_the_model(path: Path) -> None:
    inputs = example(network())
    with lw.load(path) as model:
        right = model.run(inputs)
        child = os.fork()
        if child == 0:
            found = model.run(inputs)
            os._exit(int(any(not np.array_equal(found[n], a) for n, a in right.items())))
        _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0


def test_models_end_their_threads(path: Path) -> None:
    def running() -> set[str]:
        return {task.name for task in Path("/proc/self/task").iterdir()}

    lw.load(path, 1).close()
    before = running()
    models = [lw.load(path, 3) for _ in range(3)]

    def left(count: int) -> bool:
        """Whether so many threads of the models are there; one that ended may be seen a while."""
        return any(len(running() - before) == count for _ in range(2000))

    assert left(6)
    models[0].close()
    assert left(4)
    del models
    gc.collect()
    assert left(0)


LOAD = """
import sys
import numpy as np
import loopwright as lw
with lw.load(sys.argv[1]) as model:
    model.run(dict(np.load(sys.argv[2])))
print(*sys.modules)
"""
NEEDED = {
    "errors", "fields", "jsonio", "kernel_call", "layout", "outcome", "plugins", "settings",
    "target", "version", "weights", "ir", "runtime", "codegen.artifact", "codegen.llvm",
    "codegen.llvm.driver",
}  # fmt: skip


def test_loading_and_running_imports_no_compiler_and_compiles_nothing(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    np.savez(tmp_path / "inputs.npz", **example(network()))  # type: ignore[arg-type]  # by name
    monkeypatch.setenv("LOOPWRIGHT_CACHE_DIR", str(tmp_path / "cache"))
    done = subprocess.run(
        [sys.executable, "-c", LOAD, str(path), str(tmp_path / "inputs.npz")],
        capture_output=True,
        text=True,
        check=True,
    )
    modules = done.stdout.split()
    ours = {name.partition(".")[2] for name in modules if name.startswith("loopwright.")}
    extra = {name for name in ours if not {name, name.split(".")[0]} & NEEDED}
    assert extra == {"codegen"}
    assert set(modules).isdisjoint({"llvmlite", "sqlalchemy", "onnx", "rich", "typer"})
    assert not (tmp_path / "cache").exists()


def test_a_file_without_a_runtime_of_its_own_uses_that_of_the_process(
    path: Path, tmp_path: Path
) -> None:
    manifest, sections = model_file.read(path)
    others = [(name, data) for name, data in sections.items() if name != RUNTIME]
    assert len(others) == len(sections) - 1
    model_file.write(tmp_path / "old.lw", manifest, others)
    inputs = example(network())
    with lw.load(tmp_path / "old.lw") as model:
        assert difference(model.run(inputs), expected(inputs)) < 1e-5


def test_saving_again_gives_the_same_file(path: Path, tmp_path: Path) -> None:
    with lw.load(path) as model:
        model.save(tmp_path / "again.lw")
        model.save(path)
    assert (tmp_path / "again.lw").read_bytes() == path.read_bytes()
    with lw.load(path, 1) as model, pytest.raises(ModelError, match="cannot be written"):
        model.save(tmp_path / "no" / "m.lw")


def test_a_model_of_every_dtype_copies_its_bits() -> None:
    names = ("float16", "float64", "int8", "int16", "int32", "int64", "uint8", "bool", "bfloat16")
    sketch = Sketch()
    values = [sketch.input(3, 5, dtype=name) for name in names]
    graph = sketch.graph(*(sketch.node("transpose", value, perm=(1, 0)) for value in values))
    rng = np.random.default_rng(0)
    inputs = {
        name: rng.integers(0, 2, (3, 5)).astype(graph.values[name].dtype.numpy)
        for name in graph.inputs
    }
    with lw.compile(graph) as model:
        assert isinstance(model, Model)
        found = model(*inputs.values())
    for array, given in zip(found, inputs.values(), strict=True):
        assert array.dtype == given.dtype
        np.testing.assert_array_equal(array, given.T)
