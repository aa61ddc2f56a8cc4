from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

from loopwright import jsonio
from loopwright.errors import UnsupportedError, UserError
from loopwright.frontends.onnx.bundled import bundled
from loopwright.peers.compare import KERNEL, PLAIN, Comparison
from loopwright.peers.interleave import ContenderTiming

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture
def modules(monkeypatch: pytest.MonkeyPatch) -> dict[str, ModuleType]:
    """The benchmarks' modules, imported as their scripts import them."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    loaded = {}
    for name in ("harness", "resnet18", "operators", "models", "fleet_part", "readme_table"):
        spec = importlib.util.spec_from_file_location(name, BENCHMARKS / f"{name}.py")
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, name, module)
        spec.loader.exec_module(module)
        loaded[name] = module
    return loaded


@pytest.fixture
def machine(modules: dict[str, ModuleType]) -> object:
    return modules["harness"].Machine(
        model="Test CPU",
        cores=2,
        device="test",
        target="t",
        fma_gflops=100.0,
        noise=0.01,
        load=0.1,
        software={"python": "3"},
    )


def a_report(modules: dict[str, ModuleType], machine: object) -> object:
    operators, harness = modules["operators"], modules["harness"]
    peer = operators.PeerTime("onnxruntime", "onnxruntime 1", 2.5e6, 0.02, 2.0e6)
    row = operators.OperatorRow(
        name="C2",
        shape="56x56 64>64 3x3",
        flops=200_000_000,
        trials=128,
        config="tile_w=4x14",
        ns=1.9e6,
        spread=0.01,
        figures=21,
        gflops=105.3,
        peak_gflops=110.0,
        share=0.957,
        fed_gflops=120.0,
        fed_share=0.97,
        burst_gflops=130.0,
        plain_ns=2.4e6,
        peers=(peer,),
        best_peer="onnxruntime",
        ratio=1.0526,
        plain_ratio=1.04,
    )
    figure = harness.figure("C2, share of the FMA peak", 0.957, at_least=0.9)
    command = "python benchmarks/conv.py"
    return harness.Report("conv-1", command, "2026-01-02T03", machine, (figure,), (row,))


def test_a_report_survives_json_and_is_shown_as_a_table(
    modules: dict[str, ModuleType], machine: object
) -> None:
    table = modules["readme_table"]
    text = jsonio.pretty(a_report(modules, machine)).encode()
    shown = table.render([table.read(text, "conv-1.json")])
    assert "`python benchmarks/conv.py` on Test CPU" in shown
    operator = "| C2 | 56x56 64>64 3x3 | 1.900 | 105 | 96% | 97% "
    expected = operator + "| 2.400 | 2.500 (2.000) | **1.05** |"
    assert expected in shown.splitlines()
    assert "- C2, share of the FMA peak: 0.957  (goal >= 0.9, met)" in shown


def model_row(modules: dict[str, ModuleType], name: str, **changes: object) -> object:
    """A model beside two peers, in milliseconds, megabytes and seconds."""
    fields: dict[str, object] = {
        "threads": 2,
        "ns": {"loopwright": 2e6, "onnxruntime": 3.2e6, "openvino": 3e6},
        "spread": 0.01,
        "ratio": 1.5,
        "error": 2e-6,
        "kernels": {"default": 3},
        "peak_bytes": {"loopwright": 80_000_000, "onnxruntime": 100_000_000},
        "load_s": {"loopwright": 0.05, "onnxruntime": 0.2},
        "speedup": 1.0,
    }
    return modules["models"].ModelRow(name=name, **{**fields, **changes})


def test_whole_models_have_a_table_with_memory_and_loading(
    modules: dict[str, ModuleType], machine: object
) -> None:
    harness, table, models = modules["harness"], modules["readme_table"], modules["models"]
    rows = [model_row(modules, "resnet18")]
    figures = models.figures(rows)
    found = harness.Report("models-2", "python m.py", "2026-01-02", machine, tuple(figures), rows)
    shown = table.render([table.read(jsonio.pretty(found).encode(), "models-2.json")]).splitlines()
    expected = "| 2.00 | 3.20 | 3.00 | **1.50** | 1.5 | 2e-06 | 80 / 100 | 50 / 200 |"
    assert f"| resnet18 | 2 {expected}" in shown
    assert "Memory at its peak and the time to load: loopwright / onnxruntime." in shown
    assert "- largest error: 2e-06 of scale (goal <= 0.0001, met)" in shown
    assert not [line for line in shown if line.startswith("- resnet18, against")]


def test_a_model_misses_its_goal_by_ratio_error_or_memory(modules: dict[str, ModuleType]) -> None:
    models = modules["models"]
    rows = [
        model_row(modules, "vgg19", ratio=1.99),
        model_row(modules, "dqn", ratio=0.95, error=2e-4),
        model_row(modules, "dcgan", peak_bytes={"loopwright": 2, "onnxruntime": 1}),
    ]
    met = {figure.name: figure.met for figure in models.figures(rows)}
    assert met == {
        "vgg19, against the faster peer": False,
        "dqn, against the faster peer": True,
        "dcgan, against the faster peer": True,
        "largest error": False,
        "peak memory against onnxruntime, largest": False,
    }


def test_every_bundled_model_has_a_goal(modules: dict[str, ModuleType]) -> None:
    assert set(modules["models"].GOALS) == set(bundled())


def test_a_peer_that_is_not_installed_is_left_out_with_a_word(
    modules: dict[str, ModuleType],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    harness = modules["harness"]
    monkeypatch.setattr(harness, "missing", lambda name: (name,) if name == "openvino" else ())
    kept = harness.installed("onnxruntime,openvino", ("onnxruntime", "openvino"))
    assert kept == ("onnxruntime",)
    assert capsys.readouterr().err == "without openvino: openvino is not installed\n"
    with pytest.raises(UnsupportedError, match="unknown peer 'tvm'; use one of torch"):
        harness.installed("tvm", ("torch",))


def test_figures_of_other_benchmarks_share_a_table(
    modules: dict[str, ModuleType], machine: object
) -> None:
    harness, table = modules["harness"], modules["readme_table"]
    figures = (harness.figure("trials", 7.0, "trials/s", at_least=8.0),)
    found = harness.Report("throughput", "python t.py", "2026", machine, figures, (1, 2))
    shown = table.render([table.read(jsonio.pretty(found).encode(), "t.json")])
    assert "| trials | 7 trials/s | (goal >= 8, missed) | `python t.py` |" in shown


def test_the_fleet_has_a_table_with_its_rival_beside(
    modules: dict[str, ModuleType], machine: object
) -> None:
    harness, table = modules["harness"], modules["readme_table"]
    opened = harness.figure("session open", 9.5, "ms", at_most=10.0)
    row = modules["fleet_part"].Beside("session", opened, "98.7 ms")
    report = harness.report("fleet", machine, [opened], [row])
    text = table.render([table.read(jsonio.dumps(report), "fleet.json")])
    assert "| session open | 9.5 ms | (goal <= 10, met) | 98.7 ms |" in text


def test_a_file_that_is_no_report_is_named(modules: dict[str, ModuleType]) -> None:
    with pytest.raises(UserError, match=r"results/x\.json is no report"):
        modules["readme_table"].read(b"{}", "results/x.json")


def test_only_what_is_between_the_markers_is_replaced(modules: dict[str, ModuleType]) -> None:
    table = modules["readme_table"]
    readme = f"head\n{table.BEGIN}\nold\n{table.END}\ntail\n"
    once = table.replaced(readme, "new")
    assert once == f"head\n{table.BEGIN}\nnew\n{table.END}\ntail\n"
    assert table.replaced(once, "new") == once


def test_a_readme_without_markers_is_refused(modules: dict[str, ModuleType]) -> None:
    with pytest.raises(UserError, match="markers"):
        modules["readme_table"].replaced("nothing", "new")


def test_the_readme_has_the_markers(modules: dict[str, ModuleType]) -> None:
    readme = (BENCHMARKS.parent / "README.md").read_text()
    assert modules["readme_table"].replaced(readme, "x") != readme


@pytest.mark.parametrize(
    ("bounds", "value", "met"),
    [
        ({"at_least": 0.9}, 0.9, True),
        ({"at_least": 0.9}, 0.89, False),
        ({"at_most": 80.0}, 80.0, True),
        ({"at_most": 80.0}, 80.1, False),
        ({}, 1.0, None),
    ],
)
def test_a_figure_is_compared_with_its_goal(
    modules: dict[str, ModuleType], bounds: dict[str, float], value: float, met: bool | None
) -> None:
    assert modules["harness"].figure("f", value, **bounds).met is met


def test_the_layers_are_the_twelve_of_resnet18(modules: dict[str, ModuleType]) -> None:
    layers = modules["resnet18"].LAYERS
    assert [layer.name for layer in layers] == [f"C{n}" for n in range(1, 13)]
    flops = {layer.name: layer.task().flops for layer in layers}
    assert flops["C2"] == 2 * 56 * 56 * 64 * 64 * 9
    assert flops["C12"] == 2 * 7 * 7 * 512 * 512 * 9


def test_a_command_is_told_without_where_its_output_goes(
    modules: dict[str, ModuleType], monkeypatch: pytest.MonkeyPatch
) -> None:
    argv = ["/somewhere/benchmarks/conv.py", "--threads", "2", "-o", "json"]
    monkeypatch.setattr(sys, "argv", argv)
    assert modules["harness"].command() == "python benchmarks/conv.py --threads 2"


def test_the_best_peer_is_the_one_with_the_smallest_figure(modules: dict[str, ModuleType]) -> None:
    found = Comparison(
        flops=100_000_000,
        ours={KERNEL: ContenderTiming((1e6, 1e6)), PLAIN: ContenderTiming((4e6, 4e6))},
        peers={"a": ContenderTiming((3e6, 3e6)), "b": ContenderTiming((2e6, 2e6))},
        peer_kernels={"a": ContenderTiming((1.5e6, 1.5e6))},
        forms={"a": "a 1", "b": "b 1"},
    )
    case = SimpleNamespace(name="C0", shape="1x1")
    program = SimpleNamespace(config="tile=1")
    row = modules["operators"]._row(case, program, 8, found, (125.0, 130.0, None))
    assert (row.best_peer, row.ratio, row.plain_ratio) == ("a", 1.5, 0.5)
    assert (row.gflops, row.share, row.figures) == (100.0, 0.8, 2)
