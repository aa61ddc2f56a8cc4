from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from loopwright.trace import PassRun, Tracer, open_tracer


def ticking() -> Callable[[], int]:
    ticks = iter(range(0, 1000, 10))
    return lambda: next(ticks)


def test_an_event_is_one_json_line() -> None:
    sink = io.StringIO()
    Tracer(sink, ticking()).event("pass", name="unroll", changed=True)
    assert json.loads(sink.getvalue()) == {
        "event": "pass",
        "at_ns": 0,
        "name": "unroll",
        "changed": True,
    }


def test_a_span_tells_how_long_its_block_took_even_when_it_raises() -> None:
    sink = io.StringIO()
    tracer = Tracer(sink, ticking())
    with pytest.raises(KeyError), tracer.span("trial", task="a"):
        raise KeyError("a")
    assert json.loads(sink.getvalue())["ns"] == 10


def test_a_tracer_without_a_sink_writes_nothing_and_reads_no_clock() -> None:
    def clock() -> int:
        raise AssertionError("read")

    tracer = Tracer(None, clock)
    tracer.event("pass")
    with tracer.span("pass"):
        pass
    assert not tracer.enabled


def test_a_folder_gets_a_file_that_is_appended_to(tmp_path: Path) -> None:
    for name in ("one", "two"):
        tracer = open_tracer(tmp_path / "deep")
        tracer.event(name)
        tracer.close()
    lines = (tmp_path / "deep" / "trace.jsonl").read_text().splitlines()
    assert [json.loads(line)["event"] for line in lines] == ["one", "two"]


def test_the_text_of_a_kernel_is_kept_after_each_pass_that_changed_it(tmp_path: Path) -> None:
    tracer = open_tracer(tmp_path)
    tracer.ran(PassRun("k", 0, "lower", "", "two loops", 0))
    tracer.ran(PassRun("k", 1, "cut", "two loops", "two loops", 7))
    tracer.ran(PassRun("k", 2, "flatten", "two loops", "one loop", 9))
    tracer.close()
    texts = {path.name: path.read_text() for path in (tmp_path / "kernels").iterdir()}
    assert texts == {"k.0.lower.txt": "two loops", "k.2.flatten.txt": "one loop"}
    lines = [json.loads(line) for line in (tmp_path / "trace.jsonl").read_text().splitlines()]
    assert [(line["name"], line["changed"], line["text"], line["ns"]) for line in lines] == [
        ("lower", True, "k.0.lower.txt", 0),
        ("cut", False, None, 7),
        ("flatten", True, "k.2.flatten.txt", 9),
    ]
