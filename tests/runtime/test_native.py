"""The cache of compiled native code."""

from __future__ import annotations

from pathlib import Path

import pytest

from loopwright.errors import EnvironmentFailure
from loopwright.runtime.cpu import native
from loopwright.runtime.object.link import link

TEXT = "define i64 @seven() {\n  ret i64 7\n}\n"


def test_code_is_compiled_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = native.object_code(TEXT, tmp_path)
    monkeypatch.setattr(native, "compile_ir", fail)

    assert native.object_code(TEXT, tmp_path) == first


def test_other_text_or_features_are_other_code(tmp_path: Path) -> None:
    native.object_code(TEXT, tmp_path)
    native.object_code(TEXT, tmp_path, ("sse4.2",))
    native.object_code(TEXT + "; more\n", tmp_path)

    assert len(list(tmp_path.iterdir())) == 3


@pytest.mark.parametrize("damage", [b"", b"short", None])
def test_a_damaged_file_is_made_again(tmp_path: Path, damage: bytes | None) -> None:
    first = native.object_code(TEXT, tmp_path)
    (path,) = tmp_path.iterdir()
    path.write_bytes(path.read_bytes()[:-1] if damage is None else damage)

    assert native.object_code(TEXT, tmp_path) == first
    link(native.object_code(TEXT, tmp_path), ("seven",))


def test_a_cache_that_cannot_be_written_only_costs_time(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("not a directory")

    assert native.object_code(TEXT, blocked)[:4] == b"\x7fELF"


def test_text_that_llvm_refuses_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(EnvironmentFailure, match="compiling native code failed"):
        native.object_code("define nonsense", tmp_path)

    assert list(tmp_path.iterdir()) == []


def fail(ir: str, features: tuple[str, ...] = ()) -> bytes:
    raise AssertionError(f"compiled again: {ir} {features}")
