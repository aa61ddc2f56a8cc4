from __future__ import annotations

import json

import pytest
from rich.console import Console

from loopwright import jsonio
from loopwright.cli.comparison import Row, as_json, as_table
from loopwright.deploy.model import ModelTask
from loopwright.peers.compare import KERNEL, PLAIN, Comparison
from loopwright.peers.interleave import ContenderTiming
from loopwright.target.presets import PRESETS
from loopwright.te import language as te
from loopwright.templates import derived
from loopwright.templates.task import make


def row(count: int, kernel_us: float, **peers_us: float) -> Row:
    a = te.placeholder((8, 8), name="A")
    b = te.compute((8, 8), lambda y, x: a[y, x] * 2.0, name="B")
    attrs = (("data", (8, 8)), ("relu", True))
    task = make(
        te.workload(b), derived.TEMPLATE, PRESETS["x86-64-avx2"], operator="twice", attrs=attrs
    )
    ours = {
        KERNEL: ContenderTiming((kernel_us * 1e3,)),
        PLAIN: ContenderTiming((2 * kernel_us * 1e3,)),
    }
    peers = {name: ContenderTiming((us * 1e3,)) for name, us in peers_us.items()}
    return Row(ModelTask(task, count, ("n",)), "x=1", Comparison(10_000, ours, peers, {}, {}))


def rendered(*rows: Row) -> list[str]:
    console = Console(width=200, no_color=True)
    with console.capture() as captured:
        console.print(as_table("net.onnx", 1, rows))
    return [line for line in captured.get().splitlines() if line.strip()]


def test_a_line_has_our_time_the_peers_and_the_ratio() -> None:
    (line,) = [text for text in rendered(row(2, 10.0, onnxruntime=12.0)) if "twice" in text]
    assert "2 x" in line
    assert "twice 8x8 relu" in line
    cells = line.split("  ")
    assert [c.strip() for c in cells if c.strip()][-6:] == [
        "10 us", "1.0", "20 us", "12 us", "0.8", "1.20",
    ]  # fmt: skip


def test_the_last_line_sums_as_often_as_computed_and_means_the_ratios() -> None:
    last = rendered(row(2, 10.0, onnxruntime=20.0), row(1, 10.0, onnxruntime=5.0))[-1]
    assert "30 us" in last
    assert "60 us" in last
    assert "45 us" in last
    assert last.rstrip().endswith("1.00")


def test_a_peer_that_cannot_run_an_operator_leaves_a_gap_and_no_sum() -> None:
    lines = rendered(row(1, 10.0, torch=20.0), row(1, 10.0))
    assert lines[-1].split()[-2:] == ["-", "2.00"]


def test_json_holds_the_same_figures() -> None:
    rows = [row(2, 10.0, onnxruntime=20.0), row(1, 10.0)]
    found = json.loads(jsonio.pretty(as_json("net.onnx", 1, rows, ["one is not tuned"])))
    assert found["total_ns"] == {"kernel": 30_000.0, "plain": 60_000.0, "onnxruntime": None}
    assert found["geometric_mean_ratio"] == {"onnxruntime": pytest.approx(2.0)}
    assert found["ops"][0]["attrs"] == {"data": [8, 8], "relu": True}
    assert found["ops"][0]["ratio"] == {"onnxruntime": 2.0}
    assert found["missing"] == ["one is not tuned"]
