"""The package read as source text: files, imports, classes and calls."""

from __future__ import annotations

import ast
import functools
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "src" / "loopwright"

# Lowest first. A package imports rows below its own, and nothing beside it in its row.
ROWS: tuple[tuple[str, ...], ...] = (
    ("errors", "version", "fields"),
    ("settings", "jsonio", "layout", "weights", "outcome", "plugins", "kernel_call"),
    ("trace",),
    ("ir",),
    ("target",),
    ("te",),
    ("ops", "sched"),
    ("space",),
    ("templates",),
    ("lower",),
    ("codegen", "learn"),
    ("runtime",),
    ("sandbox", "records"),
    ("build",),
    ("measure", "serving"),
    ("fleet",),
    ("search",),
    ("graph",),
    ("frontends",),
    ("peers",),
    ("api",),
    ("deploy",),
    ("export",),
    ("report",),
    ("cli",),
    ("__init__", "__main__"),
)


@functools.cache
def sources() -> dict[str, ast.Module]:
    """Each module of the package by its dotted name below `loopwright`, parsed."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        found[name or "__init__"] = ast.parse(path.read_text())
    return found


def imported(tree: ast.Module, modules: frozenset[str]) -> set[str]:
    """Those of `modules` that `tree` imports: lazy and TYPE_CHECKING imports too."""
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
            names.update(f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
    return {name.removeprefix("loopwright.") for name in names} & modules


@functools.cache
def import_graph() -> dict[str, frozenset[str]]:
    """What each module of the package imports of it; packages themselves left out."""
    trees = sources()
    folders = {name.rpartition(".")[0] for name in trees}
    modules = frozenset(trees) - folders
    return {name: frozenset(imported(trees[name], modules) - {name}) for name in sorted(modules)}


def cycles(graph: dict[str, frozenset[str]]) -> list[tuple[str, ...]]:
    """The strongly connected components of more than one node (Tarjan, without recursion)."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found = []
    for root in graph:
        if root in index:
            continue
        work = [(root, iter(sorted(graph[root])))]
        index[root] = low[root] = len(index)
        stack.append(root)
        while work:
            node, rest = work[-1]
            for other in rest:
                if other not in index:
                    index[other] = low[other] = len(index)
                    stack.append(other)
                    work.append((other, iter(sorted(graph[other]))))
                    break
                if other in stack:
                    low[node] = min(low[node], index[other])
            else:
                work.pop()
                if work:
                    low[work[-1][0]] = min(low[work[-1][0]], low[node])
                if low[node] == index[node]:
                    at = stack.index(node)
                    component = tuple(sorted(stack[at:]))
                    del stack[at:]
                    if len(component) > 1:
                        found.append(component)
    return found


def within(folder: str) -> dict[str, frozenset[str]]:
    """The import graph of one folder: its files, and each folder in it as one node."""

    def node(module: str) -> str | None:
        if folder and not module.startswith(f"{folder}."):
            return None
        return module.removeprefix(f"{folder}.").split(".")[0]

    arrows: dict[str, set[str]] = {}
    for module, others in import_graph().items():
        here = node(module)
        if here is not None:
            targets = {there for there in map(node, others) if there is not None}
            arrows.setdefault(here, set()).update(targets - {here})
    return {name: frozenset(targets & arrows.keys()) for name, targets in arrows.items()}


def folders() -> list[str]:
    """Every package below `loopwright` that holds another package or several files."""
    return sorted({name.rpartition(".")[0] for name in import_graph()} - {""})


def public_classes() -> dict[str, list[str]]:
    """The modules that define a public class of each name."""
    found: dict[str, list[str]] = {}
    for module, tree in sources().items():
        for node in tree.body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                found.setdefault(node.name, []).append(module)
    return found


def long_calls(most: int) -> Iterator[str]:
    """Each call that passes more than `most` positional arguments, as `module:line`."""
    for module, tree in sources().items():
        for node in ast.walk(tree):
            if (
                isinstance(node, ast.Call)
                and len(node.args) > most
                and not any(isinstance(argument, ast.Starred) for argument in node.args)
            ):
                yield f"{module}:{node.lineno}"


def function_lengths() -> list[int]:
    """Lines of each function of the package, the shortest first."""
    return sorted(
        (node.end_lineno or node.lineno) - node.lineno + 1
        for tree in sources().values()
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    )


def purpose(name: str) -> str:
    """The first sentence of the docstring of a package or module: what it is for."""
    text = " ".join((ast.get_docstring(sources()[name]) or "").split("\n\n")[0].split())
    return text.partition(". ")[0].rstrip(".")


def packages_table() -> str:
    """Every row of the package, lowest first, as a table in Markdown."""
    lines = ["| row | package | what it is for |", "| ---: | --- | --- |"]
    for level, row in enumerate(ROWS, start=1):
        for name in row:
            shown = f"`{name}/`" if (PACKAGE / name).is_dir() else f"`{name}.py`"
            lines.append(f"| {level} | {shown} | {purpose(name)} |")
    return "\n".join(lines)
