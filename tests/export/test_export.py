from __future__ import annotations

import ctypes
import importlib.util
import subprocess
import threading
from pathlib import Path

import numpy as np
import pytest
from c_example import example_input
from graphs import Sketch, example

import loopwright as lw
from loopwright.codegen.clike.compiler import find_compiler
from loopwright.deploy.choose import Chooser, ModelOptions
from loopwright.deploy.make import compile_graph
from loopwright.errors import ConfigError, EnvironmentFailure, ModelError, UnsupportedError
from loopwright.export import c_text
from loopwright.export.library import Exported, export_c, export_sections
from loopwright.graph.ir import Graph
from loopwright.layout import Array
from loopwright.runtime.model_file import Port, read
from loopwright.target.host import host
from loopwright.target.presets import PRESETS

try:
    COMPILER = find_compiler()
except EnvironmentFailure:
    pytest.skip("neither a C compiler nor ziglang is here", allow_module_level=True)


def network() -> Graph:
    """Two inputs, two outputs, one of them of whole numbers; its constants are of two kinds."""
    sketch = Sketch()
    x, y = sketch.input(1, 8, 10, 10), sketch.input(1, 16, 10, 10)
    z = sketch.node("add", sketch.node("relu", sketch.conv(x, 16)), y)
    flat = sketch.node("reduce_mean", z, axes=(2, 3), keepdims=0)
    scores = sketch.node("gemm", flat, sketch.weight(10, 16), trans_b=1)
    return sketch.graph(scores, sketch.node("argmax", z, axis=1, keepdims=0, select_last=0), z)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "net.lw"
    with lw.compile(network(), threads=2) as model:
        model.save(path)
    return path


@pytest.fixture(scope="module")
def exported(saved: Path, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    return export_c(saved, tmp_path_factory.mktemp("c"), name="my_net")


class Library:
    """The library's functions, called with arrays."""

    def __init__(self, made: Exported) -> None:
        self.dll = ctypes.CDLL(str(made.library))
        self.name = made.name

    def create(self, threads: int) -> tuple[int, ctypes.c_void_p]:
        model = ctypes.c_void_p()
        code = self.dll[f"{self.name}_create"](ctypes.c_int(threads), ctypes.byref(model))
        return int(code), model

    def run(self, model: ctypes.c_void_p, *arrays: Array | None) -> int:
        pointers = [ctypes.c_void_p(None if a is None else a.ctypes.data) for a in arrays]
        return int(self.dll[f"{self.name}_run"](model, *pointers))

    def destroy(self, model: ctypes.c_void_p) -> None:
        self.dll[f"{self.name}_destroy"](model)

    def error(self, code: int) -> str:
        function = self.dll[f"{self.name}_error"]
        function.restype = ctypes.c_char_p
        return bytes(function(code)).decode()


def shifted(array: Array, by: int) -> Array:
    """A copy that begins `by` bytes behind a multiple of 64."""
    memory = np.empty(array.nbytes + 128, np.uint8)
    start = -memory.ctypes.data % 64 + by
    made = memory[start : start + array.nbytes].view(array.dtype).reshape(array.shape)
    made[...] = array
    return made


def results(saved: Path, seed: int = 0) -> tuple[list[Array], list[Array]]:
    """Inputs, and what Loopwright computes of them."""
    inputs = example(network(), seed)
    with lw.load(saved) as model:
        outputs = model(*inputs.values())
    return list(inputs.values()), list(outputs)


def test_the_example_prints_what_the_model_computes(saved: Path, exported: Exported) -> None:
    folder = exported.library.parent
    strict = ("-std=c99", "-Wall", "-Wextra", "-Werror", "-pedantic")
    subprocess.run([*exported.command, *strict], cwd=folder, check=True, timeout=60)
    done = subprocess.run(
        ["./example"], cwd=folder, check=True, capture_output=True, text=True, env={}, timeout=60
    )
    with lw.load(saved) as model:
        inputs = [example_input(p.shape, p.dtype) for p in model.inputs]
        expected = [output.reshape(-1)[:10] for output in model(*inputs)]
    printed = [float(line.split("=")[1]) for line in done.stdout.splitlines()]
    np.testing.assert_allclose(printed, np.concatenate(expected), rtol=1e-8)
    assert "out2[9] =" in done.stdout


@pytest.mark.parametrize("threads", [0, 1, 2, 3])
@pytest.mark.parametrize("by", [0, 4])
def test_a_library_computes_what_the_model_does_wherever_arrays_lie(
    saved: Path, exported: Exported, threads: int, by: int
) -> None:
    library = Library(exported)
    inputs, expected = results(saved)
    outputs = [shifted(np.zeros_like(a), by * (a.dtype.itemsize // 4)) for a in expected]
    code, model = library.create(threads)
    assert code == 0
    for _ in range(3):
        assert library.run(model, *(shifted(a, by) for a in inputs), *outputs) == 0
    library.destroy(model)
    for found, right in zip(outputs, expected, strict=True):
        np.testing.assert_array_equal(found, right)


def test_threads_with_a_model_each_get_right_results(saved: Path, exported: Exported) -> None:
    library = Library(exported)
    cases = [results(saved, seed) for seed in range(4)]
    wrong: list[int] = []

    def work(seed: int) -> None:
        inputs, expected = cases[seed]
        outputs = [np.empty_like(a) for a in expected]
        _, model = library.create(2)
        for _ in range(20):
            library.run(model, *inputs, *outputs)
            if any(not np.array_equal(a, b) for a, b in zip(outputs, expected, strict=True)):
                wrong.append(seed)
        library.destroy(model)

    workers = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert wrong == []


def test_what_cannot_be_is_an_error_code(exported: Exported) -> None:
    library = Library(exported)
    code, model = library.create(-1)
    assert "number of threads" in library.error(code)
    assert not model
    assert library.create(100_000)[0] == code
    assert library.run(model, *[None] * 5) == code
    library.destroy(model)
    _, model = library.create(1)
    assert library.run(model, *[None] * 5) == code
    library.destroy(model)
    assert library.error(0) == "no error"
    assert "not an error code" in library.error(99)


def test_a_model_for_another_cpu_is_refused_by_create(tmp_path: Path) -> None:
    if set(PRESETS["x86-64-avx512"].features) <= set(host().features):
        pytest.skip("this machine has AVX-512")
    sketch = Sketch()
    graph = sketch.graph(sketch.node("relu", sketch.input(4, 4)))
    wide = compile_graph(graph, Chooser(ModelOptions(PRESETS["x86-64-avx512"]), use_records=False))
    made = export_sections(wide.assembled.manifest, wide.assembled.sections, tmp_path)
    library = Library(made)
    code, model = library.create(1)
    assert not model
    assert "CPU" in library.error(code)


def test_only_the_headers_functions_are_seen_from_outside(exported: Exported) -> None:
    library = Library(exported)
    for name in ("lw_model", "lw_parallel", "lw_constants", "lw_worker"):
        with pytest.raises(AttributeError):
            getattr(library.dll, name)


def test_two_libraries_in_one_process_do_not_mix(
    saved: Path, exported: Exported, tmp_path: Path
) -> None:
    sketch = Sketch(seed=5)
    graph = sketch.graph(sketch.conv(sketch.input(1, 3, 6, 6), 4))
    inputs = example(graph)
    with lw.compile(graph) as model:
        expected = model(*inputs.values())
        model.save(tmp_path / "other.lw")
    other = Library(export_c(tmp_path / "other.lw", tmp_path))
    first, second = Library(exported), other
    given, right = results(saved)
    outputs = [np.empty_like(a) for a in right]
    found = np.empty_like(expected)
    _, one = first.create(2)
    _, two = second.create(1)
    assert first.run(one, *given, *outputs) == second.run(two, *inputs.values(), found) == 0
    first.destroy(one)
    second.destroy(two)
    np.testing.assert_array_equal(outputs[0], right[0])
    np.testing.assert_array_equal(found, expected)


def test_the_header_says_what_the_model_takes(saved: Path, exported: Exported) -> None:
    text = exported.header.read_text()
    for line in (
        "#define MY_NET_INPUTS 2",
        '#define MY_NET_INPUT_1_NAME "x1"',
        "#define MY_NET_INPUT_1_SHAPE {1, 16, 10, 10}",
        "#define MY_NET_INPUT_1_SIZE 1600",
        '#define MY_NET_OUTPUT_1_DTYPE "int64"',
        "#define MY_NET_THREADS 2",
        "int my_net_run(my_net_model *model, const float *in0, const float *in1, float *out0, "
        "int64_t *out1, float *out2);",
    ):
        assert line in text
    assert sorted(p.name for p in exported.library.parent.iterdir() if p.name != "example") == [
        "example.c",
        "libmy_net.so",
        "my_net.h",
    ]
    manifest, _ = read(saved)
    assert manifest.threads == 2


def test_names_become_c_names_and_c_strings() -> None:
    assert c_text.identifier("resnet-18.v1") == "resnet_18_v1"
    assert c_text.identifier("7b") == "model_7b"
    assert c_text.identifier("") == "model_"
    assert c_text.constants("a.bin").count("a.bin") == 1
    ports = (Port('a"b\\c\nd', (2,), "float16"),)
    manifest = read_like(ports)
    assert '#define M_INPUT_0_NAME "a\\042b\\134c\\012d"' in c_text.header("m", manifest)
    assert "const uint16_t *in0" in c_text.header("m", manifest)


def read_like(ports: tuple[Port, ...]) -> c_text.Manifest:
    return c_text.Manifest("m */ x", "", "", "x86-64-avx2", "", 1, ports, ports, (), 0, 0, 0, 0, {})


@pytest.mark.parametrize("preset", sorted(PRESETS))
def test_every_targets_features_can_be_checked(preset: str) -> None:
    text = c_text.source("m", read_like(()), PRESETS[preset])
    assert ("cpuid.h" in text) == preset.startswith("x86")
    assert ("xgetbv" in text) == preset.startswith("x86")


def test_errors_are_one_clear_line(saved: Path, tmp_path: Path) -> None:
    with pytest.raises(EnvironmentFailure, match="no C compiler 'nothing-of-the-kind'"):
        export_c(saved, tmp_path, compiler="nothing-of-the-kind")
    with pytest.raises(EnvironmentFailure, match="false failed"):
        export_c(saved, tmp_path, compiler="false")
    with pytest.raises(ConfigError, match="not one for C"):
        export_c(saved, tmp_path, name="my net")
    file = tmp_path / "file"
    file.write_text("")
    with pytest.raises(ModelError, match="cannot be written"):
        export_c(saved, file)
    with pytest.raises(ModelError, match="not a tuned model"):
        export_c(file, tmp_path)
    assert sorted(tmp_path.iterdir()) == [file]


def test_a_model_of_an_unknown_target_is_refused(tmp_path: Path) -> None:
    manifest = read_like(())
    with pytest.raises(UnsupportedError, match="optimize it again"):
        export_sections(manifest, {}, tmp_path)


def test_without_a_compiler_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(EnvironmentFailure, match=r"pip install 'loopwright\[export\]'"):
        find_compiler()
