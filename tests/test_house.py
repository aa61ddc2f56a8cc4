"""The structure of the package: no circles, no name twice, no long calls, nothing unused."""

from __future__ import annotations

import house
import pytest
from vulture import Vulture

# Public class names that stand in several packages, each with the reason.
SAME_NAME: dict[str, str] = {}
MAX_POSITIONAL = 6
# Names that nothing here uses, each with what uses it.
USED_ELSEWHERE = {
    "BATCH": "an enum: requests name it by number",
    "BINARY": "an enum: the form of GPUs' machine code",
    "CONSTRUCTOR": "tests, which share the hostile kernels of the benchmark",
    "EVENTS": "an enum: the clock of GPUs",
    "INTERACTIVE": "an enum: requests name it by number",
    "KnownTarget": "readers: the union that a new kind of target joins",
    "Results": "an annotation in a string",
    "SOURCE": "an enum: the form of text that a device compiles",
    "__class__": "Python: the root module's own class",
    "_hold": "memory that must live as long as its owner",
    "burst_gflops": "the benchmark's JSON",
    "enable_profiling": "onnxruntime",
    "runtime_path": "a script of `fleet.agent.describe`, which is text",
    "free_after_crash": "the benchmark: a value of a row, by position",
    "frozen_is_free": "the benchmark: a value of a row, by position",
    "free_within_s": "JSON of the fleet's answers",
    "graph_optimization_level": "onnxruntime",
    "inter_op_num_threads": "onnxruntime",
    "intra_op_num_threads": "onnxruntime",
    "is_write": "readers of a nest",
    "log_severity_level": "onnxruntime",
    "max_wall_ms": "a message: clients of other makes",
    "probe_text": "tests, which share the hostile kernels of the benchmark",
    "profile_file_prefix": "onnxruntime",
    "sent_bytes": "tests: how much an upload sent",
    "serial": "a row of the native runtime's symbols, by position",
    "shared_bytes": "a message: launches on GPUs",
    "units": "facts of a device, for people",
    "__dir__": "Python, on dir(loopwright)",
    "__getattr__": "Python, on the first use of a public name",
    "PlainDriver": "drivers of other packages",
    "_missing_": "enum, for a value of a newer peer",
    "bench": "the table of commands, by name",
    "buffer_updated": "asyncio's BufferedProtocol",
    "cache_write": "schedules of people",
    "caps": "tickets, on the wire",
    "capture_signals": "uvicorn",
    "compute_root": "schedules of people",
    "doctor": "the table of commands, by name",
    "eof_received": "asyncio's BufferedProtocol",
    "get_buffer": "asyncio's BufferedProtocol",
    "pause_writing": "asyncio's BufferedProtocol",
    "resume_writing": "asyncio's BufferedProtocol",
    "should_exit": "uvicorn",
    "sizehint": "asyncio's BufferedProtocol",
}


def test_no_files_import_each_other_in_a_circle() -> None:
    assert house.cycles(house.import_graph()) == []


@pytest.mark.parametrize("folder", house.folders())
def test_no_folder_inside_a_package_imports_back(folder: str) -> None:
    assert house.cycles(house.within(folder)) == []


def test_each_public_class_name_stands_once_or_has_a_reason() -> None:
    twice = {name for name, modules in house.public_classes().items() if len(modules) > 1}
    assert twice - SAME_NAME.keys() == set()
    assert SAME_NAME.keys() - twice == set(), "no longer there twice: take it out of the list"


def test_no_call_passes_many_arguments_by_position() -> None:
    assert list(house.long_calls(MAX_POSITIONAL)) == []


def test_nothing_is_unused() -> None:
    found = Vulture(ignore_decorators=["@*.command", "@*.callback", "@*.get", "@*.post"])
    found.scavenge([str(house.ROOT / name) for name in ("src", "benchmarks", "examples", "tools")])
    unused = {item.name: f"{item.filename}:{item.first_lineno}" for item in found.get_unused_code()}
    assert {name: unused[name] for name in unused.keys() - USED_ELSEWHERE.keys()} == {}
    assert USED_ELSEWHERE.keys() - unused.keys() == set(), "used after all: take it out"


def test_functions_stay_short_as_a_rule() -> None:
    lengths = house.function_lengths()
    assert lengths[len(lengths) // 2] <= 8
    assert lengths[int(len(lengths) * 0.99)] <= 40


def test_a_circle_is_found() -> None:
    graph = {"a": frozenset({"b"}), "b": frozenset({"c"}), "c": frozenset({"a"}), "d": frozenset()}
    assert house.cycles({name: frozenset(v) for name, v in graph.items()}) == [("a", "b", "c")]
