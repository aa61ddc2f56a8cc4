"""Linking: what runs afterwards, and what is refused."""

from __future__ import annotations

import contextlib
import ctypes
import struct
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loopwright.errors import EnvironmentFailure
from loopwright.runtime.cpu import native
from loopwright.runtime.object import elf
from loopwright.runtime.object.link import link, link_all
from loopwright.runtime.object.relocate import rule

TEXT = """
@table = internal constant [4 x i64] [i64 3, i64 5, i64 7, i64 11]
@counter = global i64 40
declare double @cos(double)
declare i64 @elsewhere(i64)
define i64 @pick(i64 %i) {
  %p = getelementptr [4 x i64], ptr @table, i64 0, i64 %i
  %v = load i64, ptr %p
  ret i64 %v
}
define i64 @count() {
  %v = load i64, ptr @counter
  %n = add i64 %v, 1
  store i64 %n, ptr @counter
  ret i64 %n
}
define double @cosine(double %x) {
  %v = call double @cos(double %x)
  ret double %v
}
"""
CALLER = "declare i64 @pick(i64)\ndefine i64 @twice(i64 %i) {\n  %v = call i64 @pick(i64 %i)\n"
CALLER += "  %w = add i64 %v, %v\n  ret i64 %w\n}\n"


@pytest.fixture(scope="module")
def code() -> bytes:
    return native.compile_ir(TEXT)


def call(address: int, *arguments: int) -> int:
    kinds = [ctypes.c_int64] * len(arguments)
    result: int = ctypes.CFUNCTYPE(ctypes.c_int64, *kinds)(address)(*arguments)
    return result


def test_constants_data_and_the_c_library_are_reached(code: bytes) -> None:
    linked = link(code, ("pick", "count", "cosine"))

    assert [call(linked["pick"], i) for i in range(4)] == [3, 5, 7, 11]
    assert [call(linked["count"]) for _ in range(2)] == [41, 42]
    cosine = ctypes.CFUNCTYPE(ctypes.c_double, ctypes.c_double)(linked["cosine"])
    assert cosine(0.0) == 1.0


def test_each_link_has_data_of_its_own(code: bytes) -> None:
    first, second = link(code, ("count",)), link(code, ("count",))

    assert call(first["count"]) == call(second["count"]) == 41


def test_objects_see_each_other(code: bytes) -> None:
    linked = link_all([native.compile_ir(CALLER), code], ("twice",))

    assert call(linked["twice"], 3) == 22


def test_a_name_that_two_objects_define_is_refused(code: bytes) -> None:
    with pytest.raises(EnvironmentFailure, match="two objects define pick"):
        link_all([code, code], ("count",))


def test_a_symbol_that_is_not_there_is_named(code: bytes) -> None:
    with pytest.raises(EnvironmentFailure, match="it has no symbol nothing"):
        link(code, ("nothing",))


def test_a_symbol_that_the_object_needs_is_named() -> None:
    text = "declare i64 @no_such_thing()\ndefine i64 @f() {\n"
    text += "  %v = call i64 @no_such_thing()\n  ret i64 %v\n}\n"
    with pytest.raises(EnvironmentFailure, match="needs the symbol no_such_thing"):
        link(native.compile_ir(text), ("f",))


def test_an_object_that_runs_code_when_loaded_is_refused() -> None:
    text = "@llvm.global_ctors = appending global [1 x { i32, ptr, ptr }] "
    text += "[{ i32, ptr, ptr } { i32 1, ptr @f, ptr null }]\ndefine void @f() {\n  ret void\n}\n"
    with pytest.raises(EnvironmentFailure, match="run code while it is loaded"):
        link(native.compile_ir(text), ("f",))


@pytest.mark.parametrize("bad", [b"", b"\x7fELF", b"not an object" * 20])
def test_bytes_that_are_no_object_are_refused(bad: bytes) -> None:
    with pytest.raises(EnvironmentFailure, match="the object code is broken"):
        link(bad, ("f",))


def test_an_object_of_another_machine_is_refused(code: bytes) -> None:
    other = bytearray(code)
    struct.pack_into("<H", other, 18, 40)
    with pytest.raises(EnvironmentFailure, match="for machine 40"):
        link(bytes(other), ("count",))


def test_an_object_cut_short_anywhere_is_refused(code: bytes) -> None:
    for length in range(0, len(code), 7):
        with pytest.raises(EnvironmentFailure):
            link(code[:length], ("count",))


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_an_altered_object_never_breaks_the_process(code: bytes, data: st.DataObject) -> None:
    altered = bytearray(code)
    for _ in range(data.draw(st.integers(1, 8))):
        altered[data.draw(st.integers(0, len(code) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(EnvironmentFailure):
        link(bytes(altered), ("count",))


def test_a_relocation_that_is_not_known_is_named() -> None:
    with pytest.raises(EnvironmentFailure, match="relocation of type 250"):
        rule(elf.X86_64, 250)


@pytest.mark.parametrize(
    ("kind", "word", "place", "target", "patched"),
    [
        (283, 0x94000000, 0x1000, 0x2000, 0x94000400),  # bl +0x1000
        (283, 0x94000000, 0x2000, 0x1000, 0x97FFFC00),  # bl -0x1000
        (275, 0x90000000, 0x1000, 0x5123, 0x90000020),  # adrp x0, +4 pages
        (277, 0x91000000, 0x1000, 0x5123, 0x91048C00),  # add x0, x0, #0x123
        (286, 0xF9400000, 0x1000, 0x5128, 0xF9409400),  # ldr x0, [x0, #0x128]
        (299, 0x3DC00000, 0x1000, 0x5120, 0x3DC04800),  # ldr q0, [x0, #0x120]
    ],
)
def test_instructions_of_aarch64_are_patched(
    kind: int, word: int, place: int, target: int, patched: int
) -> None:
    memory = bytearray(word.to_bytes(4, "little"))

    rule(elf.AARCH64, kind)[1](memoryview(memory), place, target)

    assert hex(int.from_bytes(memory, "little")) == hex(patched)


def test_a_branch_that_is_too_far_is_refused() -> None:
    memory = bytearray(4)
    with pytest.raises(EnvironmentFailure, match="reaches"):
        rule(elf.AARCH64, 283)[1](memoryview(memory), 0, 1 << 28)


def test_running_a_model_needs_no_compiler(tmp_path: Path) -> None:
    script = tmp_path / "imports.py"
    script.write_text(
        "import sys\nimport loopwright.runtime.cpu.model\n"
        "print([m for m in ('llvmlite', 'sqlalchemy', 'onnx', 'lightgbm') if m in sys.modules])\n"
    )
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, check=True)

    assert done.stdout.strip() == "[]"
