from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

import loopwright
from loopwright.cli import main as cli
from loopwright.errors import EnvironmentFailure, InternalError

if TYPE_CHECKING:
    from conftest import Run


def test_the_version_is_the_packages(run: Run) -> None:
    assert run("--version").out == f"loopwright {loopwright.__version__}\n"


def test_every_command_is_in_the_help(run: Run) -> None:
    help_text = run("--help").out
    for command in (
        *("tasks", "tune", "optimize", "run", "profile", "report", "export"),
        *("bench", "plot", "doctor", "records", "tracker", "device", "lease", "top", "audit"),
        *("token", "join", "agent", "ca"),
    ):
        assert f"\n  {command} " in help_text


@pytest.mark.parametrize("flag", ["-h", "--help"])
def test_help_before_a_command_is_of_all(run: Run, flag: str) -> None:
    assert run(flag, "tune").out == run("--help").out


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys; from loopwright.cli.main import main; main(['--help']); heavy = {'numpy', "
        "'llvmlite', 'msgspec', 'sqlalchemy', 'lightgbm', 'onnx', 'matplotlib'}; "
        "print(sorted(heavy & set(sys.modules)))"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout.splitlines()[-1] == "[]"


def test_a_command_imports_no_other() -> None:
    code = (
        "import sys; from loopwright.cli.main import main; main(['lease', '--help']); "
        "print(sorted(name for name in sys.modules if name.startswith('loopwright.cli.')))"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    loaded = result.stdout.splitlines()[-1]
    assert "'loopwright.cli.fleet.lease'" in loaded
    assert "tune" not in loaded
    assert "'loopwright.cli.fleet.tracker'" not in loaded


def test_an_unknown_command_is_exit_code_2(run: Run) -> None:
    assert run("weave").code == 2


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (InternalError("a\nb"), 70),
        (EnvironmentFailure("a b"), 69),
    ],
)
def test_an_error_is_one_line_and_the_code_of_its_class(
    run: Run, monkeypatch: pytest.MonkeyPatch, error: Exception, code: int
) -> None:
    def broken(*_: object) -> None:
        raise error

    monkeypatch.setattr(cli, "application", broken)
    result = run("tasks")
    assert (result.code, result.err) == (code, "loopwright: a b\n")


def test_an_error_that_nobody_expected_is_called_a_bug(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise KeyError("x")

    monkeypatch.setattr(cli, "application", broken)
    result = run("tasks")
    assert result.code == 70
    assert result.err.startswith("loopwright: a bug in Loopwright")
    assert result.err.endswith("KeyError: 'x'\n")


@pytest.mark.parametrize("how", ["option", "variable"])
def test_the_traceback_is_shown_when_asked_for(
    run: Run, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    arguments = ["records", "best"]
    if how == "variable":
        monkeypatch.setenv("LOOPWRIGHT_TRACEBACK", "1")
    else:
        arguments.insert(0, "--traceback")
    result = run(*arguments)
    assert result.code == 2
    assert "Traceback (most recent call last)" in result.err
    assert result.err.splitlines()[-1].startswith("loopwright: records ")


def test_the_package_is_the_command() -> None:
    result = subprocess.run(
        [sys.executable, "-m", "loopwright", "--version"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert result.stdout == f"loopwright {loopwright.__version__}\n"
