"""The order of the packages and the size of files and functions, read from the source text."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
from house import ROWS

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "src" / "loopwright"

LEVEL = {name: level for level, row in enumerate(ROWS) for name in row}
MAX_FILE_LINES = 600
MAX_FUNCTION_LINES = 60


def package_of(path: Path) -> str:
    """The row entry that a file of the package belongs to."""
    relative = path.relative_to(PACKAGE)
    return relative.parts[0] if len(relative.parts) > 1 else relative.stem


def imported_packages(source: str) -> list[tuple[int, str]]:
    """(line, package) of each import of ours in `source`: lazy and TYPE_CHECKING ones too."""
    found: list[tuple[int, str]] = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level:
            found.append((node.lineno, "<relative>"))
            continue
        elif isinstance(node, ast.ImportFrom) and node.module == "loopwright":
            names = [f"loopwright.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module or ""]
        else:
            continue
        for name in names:
            head, _, rest = name.partition(".")
            if head == "loopwright":
                found.append((node.lineno, rest.partition(".")[0] or "<root>"))
    return found


def breaches(package: str, source: str) -> list[str]:
    """What `source`, a file of `package`, imports that it must not."""
    level = LEVEL[package]
    return [
        f"line {line}: {package} imports {other}"
        for line, other in imported_packages(source)
        if other != package and LEVEL.get(other, len(ROWS)) >= level
    ]


def sources() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def all_python() -> list[Path]:
    folders = ("src", "tests", "benchmarks", "examples", "tools")
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))


def test_each_package_imports_lower_rows_only() -> None:
    found = [
        f"{path.relative_to(ROOT)} {breach}"
        for path in sources()
        for breach in breaches(package_of(path), path.read_text())
    ]
    assert not found, "\n".join(found)


def test_each_package_has_a_row() -> None:
    unknown = {package_of(path) for path in sources()} - set(LEVEL)
    assert not unknown


def test_package_init_files_hold_a_docstring_and_nothing_else() -> None:
    inner = [p for p in sources() if p.name == "__init__.py" and p.parent != PACKAGE]
    assert [p for p in inner if len(ast.parse(p.read_text()).body) > 1] == []
    assert [
        p
        for p in inner
        if p.read_text().strip() and not ast.get_docstring(ast.parse(p.read_text()))
    ] == []


@pytest.mark.parametrize(
    "source",
    [
        "import loopwright.search.tuner",
        "from loopwright import search",
        "from loopwright.lower.pipeline import lower",
        "def f():\n    from loopwright.search import tuner",
        "if TYPE_CHECKING:\n    from loopwright.sched.nest import Nest",
        "import loopwright",
        "from . import te",
    ],
)
def test_a_breach_is_found(source: str) -> None:
    assert breaches("ops", source)


def test_lower_rows_and_the_own_package_are_allowed() -> None:
    source = "from loopwright.te import tensor\nfrom loopwright.sched.nest import Nest"
    assert breaches("sched", source) == []


def test_files_are_short() -> None:
    lengths = {path.relative_to(ROOT): len(path.read_text().splitlines()) for path in all_python()}
    assert {str(p): n for p, n in lengths.items() if n > MAX_FILE_LINES} == {}


def test_functions_are_short() -> None:
    long = [
        f"{path.relative_to(ROOT)}:{node.lineno} {node.name}"
        for path in all_python()
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and (node.end_lineno or node.lineno) - node.lineno >= MAX_FUNCTION_LINES
    ]
    assert not long, "\n".join(long)
