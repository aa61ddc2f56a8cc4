"""The text of one function while it is being written."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from loopwright.errors import CodegenError

MAX_LINES = 200_000
"""More means that the schedule unrolled too much; it would take a compiler minutes."""


class Body:
    """Lines of one function, in nested scopes; names are unique over all functions of the file.

    What the current scope may reuse is remembered in layers, one per scope.
    """

    def __init__(self, names: Iterator[int]) -> None:
        self._names = names
        self._depth = 1
        self.lines: list[str] = []
        self.layers: list[dict[tuple[object, ...], str]] = [{}]

    def fresh(self, stem: str) -> str:
        """An unused name."""
        return f"{stem}{next(self._names)}"

    def op(self, kind: str, text: str) -> str:
        """The name of a new constant of type `kind`, computed by `text` here."""
        name = f"v{next(self._names)}"
        self.line(f"const {kind} {name} = {text};")
        return name

    def line(self, text: str) -> None:
        """One more statement."""
        self.lines.append("  " * self._depth + text)
        if len(self.lines) > MAX_LINES:
            raise CodegenError(
                f"the kernel unrolls to more than {MAX_LINES} instructions; unroll less"
            )

    def recall(self, key: tuple[object, ...]) -> str | None:
        """What was remembered under `key` where the current scope may use it."""
        for layer in reversed(self.layers):
            found = layer.get(key)
            if found is not None:
                return found
        return None

    def remembered(self, key: tuple[object, ...], kind: str, text: str) -> str:
        """As `op`, but the same key gives the same name wherever it may be reused."""
        found = self.recall(key)
        if found is None:
            found = self.layers[-1][key] = self.op(kind, text)
        return found

    @contextmanager
    def scope(self, head: str = "", *, alone: bool = False) -> Iterator[None]:
        """A block `head { ... }`; `alone`: nothing from before is reused inside or after it."""
        self.line(f"{head} {{".lstrip())
        self._depth += 1
        before = self.layers
        self.layers = [{}] if alone else [*before, {}]
        yield
        if alone:
            before[-1].clear()
        self.layers = before
        self._depth -= 1
        self.line("}")

    @contextmanager
    def aside(self) -> Iterator[list[str]]:
        """Lines of a scope that are collected instead of written."""
        lines, self.lines = self.lines, []
        self._depth += 1
        self.layers = [*self.layers, {}]
        collected = self.lines
        yield collected
        self.layers = self.layers[:-1]
        self._depth -= 1
        self.lines = lines
