"""The commands on whole models: optimize, run, profile, export, report."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import numpy as np
import pytest
from graphs import Sketch

import loopwright as lw
from loopwright.cli.model_summary import lines
from loopwright.deploy import optimize as optimizing
from loopwright.errors import ModelError
from loopwright.runtime import model_file
from loopwright.target.host import host

if TYPE_CHECKING:
    from conftest import Run


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A tuned model of one convolution."""
    sketch = Sketch()
    x = sketch.input(1, 8, 6, 6)
    path = tmp_path_factory.mktemp("model") / "net.lw"
    with lw.compile(sketch.graph(sketch.node("relu", sketch.conv(x, 8)))) as model:
        model.save(path)
    return path.read_bytes()


@pytest.fixture
def model(run: Run, tmp_path: Path, built: bytes) -> Path:
    """The model in the folder that commands run in."""
    del run
    path = tmp_path / "net.lw"
    path.write_bytes(built)
    (tmp_path / "text.lw").write_text("no model at all, but as long as the head of one would be ..")
    (tmp_path / "cut.lw").write_bytes(built[:5000])
    code = built.index(b"\x7fELF")
    (tmp_path / "altered.lw").write_bytes(built[:code] + b"\x7eELF" + built[code + 4 :])
    (tmp_path / "newer.lw").write_bytes(built[:8] + b"\x63\0\0\0" + built[12:])
    manifest, sections = model_file.read(path)
    elsewhere = msgspec.structs.replace(manifest, target="x86-64-avx9-00000000")
    model_file.write(tmp_path / "elsewhere.lw", elsewhere, list(sections.items()))
    (tmp_path / "text.npy").write_text("no array")
    (tmp_path / "empty.npy").touch()
    np.save(tmp_path / "input.npy", np.zeros((1, 8, 6, 6), np.float32))
    np.save(tmp_path / "small.npy", np.zeros((1, 2), np.float32))
    np.save(tmp_path / "objects.npy", np.array([None, "x"], object), allow_pickle=True)
    (tmp_path / "folder").mkdir()
    return path


ELSEWHERE = "x86-64-avx2" if host().arch == "aarch64" else "aarch64-neon"
BAD_FILES = [
    ("none.lw", "none.lw cannot be read: No such file"),
    ("text.lw", "not a tuned model"),
    ("cut.lw", "truncated"),
    ("altered.lw", "was altered: section"),
    ("newer.lw", "has format 99"),
    ("folder", "Is a directory"),
]
BAD_INPUTS = [
    ("x0", "is not NAME=file.npy; the inputs are x0"),
    ("z=small.npy", "no input 'z'; it has x0"),
    ("x0=none.npy", "none.npy is not a .npy file that can be read"),
    ("x0=text.npy", "text.npy is not a .npy file"),
    ("x0=empty.npy", "empty.npy is not a .npy file"),
    ("x0=objects.npy", "objects.npy is not a .npy file"),
    ("x0=folder", "folder is not a .npy file"),
    ("x0=small.npy", "input 'x0' is float32[1, 2], wanted float32[1, 8, 6, 6]"),
]


def refused(run: Run, words: str, *arguments: str) -> None:
    """One line on standard error that says `words`, and exit code 2."""
    result = run(*arguments)
    assert words in result.err
    assert (result.code, result.out) == (2, "")
    assert result.err.startswith("loopwright: ")
    assert result.err.count("\n") == 1


@pytest.mark.usefixtures("model")
@pytest.mark.parametrize("command", ["run", "profile", "export --c", "report"])
@pytest.mark.parametrize(("file", "words"), BAD_FILES)
def test_a_file_that_cannot_be_used_is_exit_code_2(
    run: Run, command: str, file: str, words: str
) -> None:
    name, *options = command.split()
    refused(run, words, name, file, *options)


@pytest.mark.usefixtures("model")
@pytest.mark.parametrize("command", ["run", "profile", "report"])
def test_a_model_for_another_machine_is_exit_code_2(run: Run, command: str) -> None:
    words = "elsewhere.lw: the kernel is made for x86-64-avx9-00000000"
    refused(run, words, command, "elsewhere.lw")


@pytest.mark.usefixtures("model")
@pytest.mark.parametrize(
    ("file", "words"), [*BAD_FILES[2:5], ("elsewhere.lw", "made for x86-64-avx9-00000000")]
)
def test_a_tuned_model_that_cannot_be_used_is_not_timed(run: Run, file: str, words: str) -> None:
    refused(run, f"loopwright: {file}", "bench", file)
    refused(run, words, "bench", file)


@pytest.mark.usefixtures("model")
@pytest.mark.parametrize("command", ["run", "profile", "export --c", "report"])
@pytest.mark.parametrize("name", ["dqn", "dqn.onnx"])
def test_a_model_that_is_not_tuned_yet_is_told_how_to_be(run: Run, command: str, name: str) -> None:
    words = f"{name} is not a tuned model; make one: loopwright optimize dqn -o dqn.lw"
    command, *options = command.split()
    refused(run, words, command, name, *options)


@pytest.mark.usefixtures("model")
@pytest.mark.parametrize(("command", "more"), [("tasks", ()), ("bench", ("--ops",))])
def test_a_tuned_model_is_no_onnx_file(run: Run, command: str, more: tuple[str, ...]) -> None:
    words = "net.lw is tuned already; give the ONNX file it was made of"
    refused(run, words, command, "net.lw", *more)


@pytest.mark.usefixtures("model")
def test_an_input_given_twice_is_refused(run: Run) -> None:
    both = ("-i", "x0=input.npy", "-i", "x0=input.npy")
    refused(run, "--input 'x0=input.npy': 'x0' is given twice", "run", "net.lw", *both)


@pytest.mark.usefixtures("model")
@pytest.mark.parametrize("command", ["run", "profile"])
@pytest.mark.parametrize(("given", "words"), BAD_INPUTS)
def test_an_input_that_cannot_be_used_is_exit_code_2(
    run: Run, command: str, given: str, words: str
) -> None:
    refused(run, words, command, "net.lw", "-i", given)


@pytest.mark.usefixtures("model")
@pytest.mark.parametrize(
    "arguments",
    [
        ("run", "net.lw", "--threads", "0"),
        ("run", "net.lw", "--runs", "0"),
        ("run",),
        ("profile", "net.lw", "--threads", "few"),
        ("optimize",),
        ("optimize", "dqn", "--trials", "0"),
        ("export",),
        ("report", "net.lw", "--runs", "0"),
    ],
)
def test_an_option_that_cannot_be_is_exit_code_2(run: Run, arguments: tuple[str, ...]) -> None:
    result = run(*arguments)
    assert (result.code, result.out) == (2, "")
    assert result.err


@pytest.mark.usefixtures("model")
def test_files_that_cannot_be_written_are_exit_code_2(run: Run) -> None:
    refused(run, "cannot be written", "run", "net.lw", "--save", "no/out.npz")
    refused(run, "cannot be written", "profile", "net.lw", "--trace", "no/trace.json")
    refused(run, "cannot be written", "export", "net.lw", "--c", "-o", "text.lw")
    refused(run, "folder cannot be written", "report", "net.lw", "-o", "folder")
    refused(run, "cannot be written", "report", "net.lw", "-o", "no/report.html")
    refused(run, "not one for C", "export", "net.lw", "--c", "--name", "a b")
    refused(run, "--c for a C library, or --source", "export", "net.lw")
    refused(run, "--c for a C library, or --source", "export", "net.lw", "--c", "--source")


@pytest.mark.usefixtures("model")
def test_the_kernels_of_a_model_are_written_as_source(run: Run, tmp_path: Path) -> None:
    result = run("export", "dqn", "--source", "-o", str(tmp_path / "made"))
    files = sorted((tmp_path / "made").iterdir())
    assert result.code == 0
    assert len(files) == len(result.out.splitlines()) == 5
    assert all("not tuned" in line for line in result.out.splitlines())
    for file in files:
        assert file.suffix == ".c"
        assert f"void lw_{file.stem}(void *const *args" in file.read_text()


@pytest.mark.usefixtures("model")
def test_sources_that_cannot_be_written_are_exit_code_2(run: Run) -> None:
    refused(run, "text.lw cannot be written", "export", "dqn", "--source", "-o", "text.lw")
    refused(run, "in 'ptx' for cpu targets", "export", "dqn", "--source", "--language", "ptx")
    refused(run, "net.lw is tuned already", "export", "net.lw", "--source")


@pytest.mark.usefixtures("model")
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("nothing.onnx",), "nothing.onnx"),
        (("text.lw",), "text.lw"),
        (("net.lw",), "net.lw is tuned already; give the ONNX file it was made of"),
        (("dqn", "--tolerance", "0"), "tolerance 0 is no share of an output's scale"),
        (("dqn", "--threads", "9999", "--time-budget", "0"), "9999 threads cannot be measured on"),
        (("dqn", "--target", ELSEWHERE), f"a model for {ELSEWHERE} cannot be timed on this"),
        (("dqn", "-o", "folder"), "folder is a folder"),
        (("dqn", "-o", "no/x.lw"), "no is not a folder"),
        (("dqn", "--time-budget", "soon"), "'soon' is not a duration"),
        (("dqn", "--target", "abacus"), "unknown target 'abacus'"),
        (("dqn", "--input-shape", "x"), "is not NAME:1x3x224x224"),
        (("dqn", "--input-shape", "z=1x2", "--time-budget", "0"), "z"),
        (("dqn", "--policy", "luck", "--trials", "1", "--records", "sqlite:///r.db"), "luck"),
        (("dqn", "--records", "what:///r.db", "--time-budget", "0"), "what:///r.db"),
    ],
)
def test_optimize_refuses_what_cannot_be(
    run: Run, tmp_path: Path, arguments: tuple[str, ...], words: str
) -> None:
    result = run("optimize", *arguments)
    last = result.err.splitlines()[-1]
    assert result.code == 2
    assert last.startswith("loopwright: ")
    assert words in last
    assert "Traceback" not in result.err
    assert not (tmp_path / "dqn.lw").exists()


@pytest.mark.parametrize(
    ("options", "exact"),
    [((), False), (("--exact",), True), (("--no-winograd",), True), (("--winograd",), False)],
)
def test_optimize_is_asked_for_exact_kernels_by_either_name(
    monkeypatch: pytest.MonkeyPatch, run: Run, options: tuple[str, ...], *, exact: bool
) -> None:
    asked: list[object] = []

    def optimize(*_: object, **keywords: object) -> None:
        asked.append(keywords["exact"])
        raise ModelError("far enough")

    monkeypatch.setattr(optimizing, "optimize", optimize)
    refused(run, "far enough", "optimize", "dqn", *options)
    assert asked == [exact]


@pytest.mark.usefixtures("model")
def test_run_times_a_model_and_keeps_its_outputs(run: Run, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    x = rng.uniform(-1, 1, (1, 8, 6, 6)).astype(np.float32)
    np.save(tmp_path / "x.npy", x)
    result = run("run", "net.lw", "-i", "x0=x.npy", "--save", "y.npz", "-o", "json", "--runs", "3")
    assert (result.code, result.err) == (0, "")
    told = json.loads(result.out)
    assert told["outputs"] == {"relu1.y": [1, 8, 6, 6]}
    assert 0 < told["min_ns"] <= told["median_ns"]
    assert sum(told["kernels"].values()) == told["kernels"]["default"] + told["kernels"]["copy"] > 1
    assert told["memory_bytes"] <= told["memory_unshared_bytes"]
    with lw.load("net.lw") as loaded, np.load("y.npz") as saved:
        np.testing.assert_array_equal(saved["relu1.y"], loaded(x))


@pytest.mark.usefixtures("model")
def test_run_says_how_kernels_came_about_and_what_memory_they_take(run: Run) -> None:
    result = run("run", "net.lw", "--runs", "1")
    assert result.code == 0
    assert re.search(r"kernels   \d+: 1 default|\d default", result.out)
    assert re.search(r"memory    [\d.]+ kB at the peak between kernels, [\d.]+ kB if", result.out)
    assert "of another machine" not in result.out


def test_records_of_another_machine_are_named(built: bytes, tmp_path: Path) -> None:
    (tmp_path / "net.lw").write_bytes(built)
    manifest = model_file.read_manifest(tmp_path / "net.lw")
    call = msgspec.structs.replace(manifest.calls[0], origin="transferred", device="some-cpu-8c")
    told = list(lines(msgspec.structs.replace(manifest, calls=(call, *manifest.calls[1:]))))
    assert "1 transferred" in told[0]
    assert "1 of these is by records of another machine, some-cpu-8c" in told[1]


@pytest.mark.usefixtures("model")
def test_profile_shows_every_kernel_and_writes_a_trace(run: Run) -> None:
    result = run("profile", "net.lw", "--trace", "t.json", "--runs", "3", "-o", "json")
    assert (result.code, result.err) == (0, "")
    kernels = json.loads(result.out)["kernels"]
    with lw.load("net.lw") as loaded:
        assert [k["name"] for k in kernels] == [c.name for c in loaded.manifest.calls]
    events = json.loads(Path("t.json").read_text())["traceEvents"]
    assert len(events) == 3 * len(kernels)
    assert "conv2d" in run("profile", "net.lw", "--runs", "1").out


@pytest.mark.usefixtures("model")
def test_report_writes_a_page(run: Run) -> None:
    result = run("report", "net.lw", "-o", "net.html", "--runs", "2", "--threads", "1")
    assert (result.code, result.err) == (0, "")
    assert "net.html: sketch" in result.out
    html = Path("net.html").read_text()
    assert html.startswith("<!DOCTYPE html>")
    assert "<h1>sketch</h1>" in html


@pytest.mark.usefixtures("model")
def test_report_refuses_what_it_cannot_read_or_compare_with(run: Run) -> None:
    refused(run, "none.db", "report", "net.lw", "--records", "sqlite:///none.db")
    refused(run, "'abacus'", "report", "net.lw", "--compare", "abacus")
    refused(run, "sketch", "report", "net.lw", "--compare", "onnxruntime")
    assert not Path("report.html").exists()
