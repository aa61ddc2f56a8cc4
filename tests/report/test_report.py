from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import msgspec
import pytest
from graphs import Sketch
from hypothesis import example, given, settings
from hypothesis import strategies as st

import loopwright as lw
from loopwright.outcome import Failed, FailureKind, FailureStage, Outcome, Timed
from loopwright.records.record import Record, TaskKey
from loopwright.records.store import SqlStore
from loopwright.report import svg
from loopwright.report.drawn import CurveLine, short
from loopwright.report.page import page
from loopwright.report.report import Report, gather
from loopwright.space.config import Config

FLOPS = 41_472


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two convolutions, the second with relu, and a mean."""
    sketch = Sketch()
    x = sketch.node("relu", sketch.conv(sketch.input(1, 8, 6, 6), 8))
    y = sketch.node("relu", sketch.conv(x, 16))
    file = tmp_path_factory.mktemp("model") / "net.lw"
    with lw.compile(sketch.graph(sketch.node("reduce_mean", y, axes=(2, 3), keepdims=0))) as model:
        notes = {"tuned_ns": "100", "default_ns": "150"}
        model.manifest = msgspec.structs.replace(model.manifest, notes=notes)
        model.save(file)
    return file


def record(task: Report, trial: int, outcome: Outcome, policy: str = "model") -> Record:
    """A trial of the model's first convolution."""
    (call, *_) = (c for c in task.manifest.calls if c.task.startswith("conv2d data=1x8x6x6"))
    assert call.flops > 0
    words = [word.partition("=") for word in call.task.split()[1:]]
    attrs = tuple((name, value) for name, _, value in words)
    manifest = task.manifest
    key = TaskKey("w", call.template, 1, manifest.target, "here", manifest.threads)
    return Record(
        key, "conv2d", attrs, FLOPS, Config.of({"t": trial}), outcome, policy, 0, trial, 1e9, "x"
    )


@pytest.fixture(scope="module")
def plain(path: Path) -> Report:
    return gather(path, runs=3)


@pytest.fixture(scope="module")
def full(path: Path, plain: Report) -> Report:
    crash = Failed(FailureStage.RUN, FailureKind.CRASH, "signal 11")
    wrong = Failed(FailureStage.CHECK, FailureKind.WRONG_OUTPUT, "off")
    outcomes: list[Outcome] = [Timed((900.0,), 900.0, checked=True), crash, crash, wrong]
    outcomes += [Timed((400.0,), 400.0, checked=True), Timed((700.0,), 700.0, checked=True)]
    found = [record(plain, trial, outcome) for trial, outcome in enumerate(outcomes)]
    found += [record(plain, 0, Timed((500.0,), 500.0), "random")]
    other = replace(found[0], operator="dense", attrs=(("data", (1, 2)),))
    elsewhere = replace(found[0], key=replace(found[0].key, target="x86-64-sse4-0"))
    with SqlStore("sqlite://") as store:
        store.append([*found, other, elsewhere])
        return gather(path, runs=3, records=store, others={"loopwright": 2.0, "onnx<runtime>": 2.5})


def text_of(html: str) -> str:
    """The text of a page, which must be well-formed XML."""
    head, _, rest = html.partition("\n")
    assert head == "<!DOCTYPE html>"
    root = ElementTree.fromstring(rest)
    assert root.tag == "html"
    return " ".join(" ".join(root.itertext()).split())


def test_a_page_has_the_figures_of_the_model(full: Report) -> None:
    html = page(full)
    text = text_of(html)
    manifest = full.manifest
    for words in (
        manifest.name,
        manifest.target_name,
        manifest.software,
        manifest.device,
        "x0 float32[1x8x6x6]",
        "GFLOP/s",
        "of the FMA limit",
        "% of the limit",
        "0.1 us",
        "onnx<runtime>",
        "2.00 ms",
        "3.00 ms (1.50x)",
        "2.50 ms (1.25x)",
        "crash",
        "2 (28.6%)",
        "wrong-output",
        "3 of 7 trials failed",
        "103.7 GFLOP/s",
        *(call.config for call in manifest.calls),
        *(short(call.task) for call in manifest.calls),
        *(call.origin for call in manifest.calls),
    ):
        assert words in text
    headings = re.findall("<h2>([^<]*)</h2>", html)
    assert headings == [
        "Compared",
        "Time by kernel",
        "Time by operator",
        "Kernels",
        "Tuning",
        "Failures by kind",
        "About",
    ]
    rows = html[html.index("<tbody>") : html.index("</tbody>")].count("<tr>")
    assert rows == len(manifest.calls)


def test_a_page_needs_nothing_else(full: Report) -> None:
    html = page(full)
    assert not re.search(r"https?:|//[a-z]|<script|<link|@import|url\(|src=|href=", html)
    assert "prefers-color-scheme: dark" in html


def test_a_page_of_a_model_alone_leaves_out_what_is_not_there(plain: Report) -> None:
    alone = replace(plain, manifest=msgspec.structs.replace(plain.manifest, notes={}), peak=None)
    assert alone.speedup is None
    html = page(alone)
    text = text_of(html)
    for words in ("Compared", "Tuning", "Failures"):
        assert f"<h2>{words}" not in html
    for words in ("of the FMA limit", "as fast as untuned"):
        assert words not in text
    assert "more threads than cores" in text
    assert "nan" not in text.lower().split()


def test_only_records_of_the_models_tasks_count(full: Report) -> None:
    assert full.trials == 7
    assert dict(full.failures) == {"crash": 2, "wrong-output": 1}
    (tuning,) = full.tunings
    assert [curve.policy for curve in tuning.curves] == ["model", "random"]
    assert tuning.curves[0].gflops.tolist()[0][-1] == pytest.approx(FLOPS / 400)
    assert tuning.ours


def test_times_are_measured_and_kernels_are_all_there(plain: Report) -> None:
    assert [k.info for k in plain.kernels] == list(plain.manifest.calls)
    assert len(plain.call_ns) == 3
    assert plain.ms == pytest.approx(sorted(plain.call_ns)[1] / 1e6)
    assert plain.speedup == pytest.approx(1.5)
    assert plain.peak
    assert plain.peak > 1


def test_more_threads_than_cores_have_no_limit(path: Path) -> None:
    found = gather(path, runs=1, threads=64)
    assert found.peak is None
    assert found.threads == 64


def test_names_of_tasks_are_shortened() -> None:
    task = (
        "conv2d data=1x3x9x9 weight=8x3x3x3 strides=2x2 padding=1x1x1x1 dilation=1x1 groups=1 "
        "bias=True epilogue=clip(0.0,6.0)"
    )
    assert short(task) == "conv2d 1x3x9x9 w 8x3x3x3 s2 p1 bias + clip(0.0,6.0)"
    assert short("fused ops=reduce_mean") == "fused reduce_mean"
    task = "separable_conv2d data=1x3x9x9 depthwise=3x1x3x3 depthwise_bias=True weight=8x3x1x1"
    assert short(task) == "separable_conv2d 1x3x9x9 d 3x1x3x3 depthwise bias w 8x3x1x1"
    assert short("conv2d data=1x3 padding=0x1x0x1 relu=False") == "conv2d 1x3 p0x1x0x1"


@given(st.lists(st.tuples(st.text(max_size=90), st.floats(0, 1e12)), max_size=12))
@settings(max_examples=60, deadline=None)
def test_bars_stay_inside_of_the_chart_and_text_is_escaped(rows: list[tuple[str, float]]) -> None:
    printable = [("".join(c for c in label if c.isprintable()), value) for label, value in rows]
    chart = svg.bars([svg.Bar(label, value, "9 <us>") for label, value in printable], "a & b")
    root = ElementTree.fromstring(chart)
    assert root.get("aria-label") == "a & b"
    width, height = float(root.attrib["width"]), float(root.attrib["height"])
    found = root.findall(".//rect")
    assert len(found) == len(rows)
    for rect in found:
        assert float(rect.attrib["x"]) + float(rect.attrib["width"]) <= width - 100
        assert float(rect.attrib["y"]) + float(rect.attrib["height"]) <= height


@given(
    st.lists(st.lists(st.floats(0, 1e4), min_size=1, max_size=30), min_size=1, max_size=3),
    st.none() | st.floats(0, 1e4),
)
@settings(max_examples=60, deadline=None)
@example([[5e-324]], None)
def test_curves_stay_inside_of_the_chart(runs: list[list[float]], level: float | None) -> None:
    lines = [
        CurveLine(f"l{n}", tuple(y), tuple(v / 2 for v in y), tuple(y)) for n, y in enumerate(runs)
    ]
    root = ElementTree.fromstring(svg.curves(lines, "t", level=level))
    width, height = float(root.attrib["width"]), float(root.attrib["height"])
    for shape in (*root.findall(".//polyline"), *root.findall(".//polygon")):
        for point in shape.attrib["points"].split():
            x, y = map(float, point.split(","))
            assert 0 <= x <= width
            assert 0 <= y <= height
