from __future__ import annotations

import subprocess
import sys

import pytest

import loopwright as lw


def test_importing_the_package_imports_nothing_heavy() -> None:
    code = (
        "import sys, loopwright; heavy = {'numpy', 'llvmlite', 'sqlalchemy', 'typer', 'rich', "
        "'lightgbm', 'onnx', 'matplotlib', 'msgspec'}; print(sorted(heavy & set(sys.modules)))"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "[]"


def test_an_unknown_public_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = lw.nothing  # type: ignore[attr-defined]
