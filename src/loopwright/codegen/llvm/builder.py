"""The text of one LLVM function while it is being written.

Lines go to the end of the open block, or into the head of an open frame (a loop or the function)
when they compute a loop invariant. `memo` layers remember what the current
block may reuse: one layer per branch, so that nothing is used where it was not computed.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from loopwright.codegen.affine import LoopFrame, Scalar
from loopwright.errors import CodegenError

MAX_LINES = 200_000
"""More means that the schedule unrolled too much; it would take LLVM minutes."""


class FunctionText:
    """Lines of one function; names of values are unique over all functions of the module."""

    def __init__(self, names: Iterator[int]) -> None:
        self._names = names
        self._parts: list[list[str]] = []
        self.lines: list[str] = []
        self.block = "entry"
        self.frames: list[LoopFrame] = []
        self.layers: list[dict[tuple[object, ...], str]] = [{}]
        self.open_frame()

    def name(self) -> str:
        """A new SSA name."""
        return f"%v{next(self._names)}"

    def op(self, text: str) -> str:
        """The name of a new value, computed by `text` at the end of the current block."""
        name = f"%v{next(self._names)}"
        self.lines.append(f"  {name} = {text}")
        return name

    def hoisted(self, key: tuple[object, ...], frame: LoopFrame | None, text: str) -> str:
        """The name of the value that `text` computes in the head of `frame` (None: right here).

        The same key gives the same name wherever it may be reused.
        """
        if frame is None:
            found = self.recall(key)
            if found is None:
                found = self.layers[-1][key] = self.op(text)
            return found
        found = frame.memo.get(key)
        if found is None:
            found = frame.memo[key] = self.name()
            frame.head.append(f"  {found} = {text}")
        return found

    def recall(self, key: tuple[object, ...]) -> str | None:
        """What was remembered under `key` where the current block may use it."""
        for layer in reversed(self.layers):
            found = layer.get(key)
            if found is not None:
                return found
        return None

    def label(self, name: str) -> None:
        """Open the block `name`; the last one must have ended with a branch."""
        self.lines.append(f"{name}:")
        self.block = name

    def fresh_label(self, hint: str) -> str:
        """An unused block name."""
        return f"{hint}{next(self._names)}"

    def open_frame(self) -> LoopFrame:
        """A new innermost frame, with its head here."""
        frame = LoopFrame(len(self.frames))
        self.frames.append(frame)
        self._parts += [self.lines, frame.head]
        self.lines = []
        if sum(map(len, self._parts)) > MAX_LINES:
            raise CodegenError(
                f"the kernel unrolls to more than {MAX_LINES} instructions; unroll less"
            )
        return frame

    def open_part(self) -> list[str]:
        """A placeholder for lines to be filled in here later; what follows goes after it."""
        part: list[str] = []
        self._parts += [self.lines, part]
        self.lines = []
        return part

    def close_frame(self) -> None:
        """Leave the innermost frame."""
        self.frames.pop()

    @contextmanager
    def layer(self, *, alone: bool = False) -> Iterator[None]:
        """A scope: what is remembered inside is forgotten afterwards.

        `alone`: nothing from before is reused inside, nor after it (it would stay alive all the
        while).
        """
        before = self.layers
        self.layers = [{}] if alone else [*before, {}]
        yield
        if alone:
            before[-1].clear()
        self.layers = before

    def text(self) -> Iterator[str]:
        """All lines in order."""
        return itertools.chain(*self._parts, self.lines)

    def innermost(self, scalars: Iterable[Scalar]) -> LoopFrame | None:
        """The innermost frame that any of `scalars` changes with; None when one is not hoisted."""
        best = self.frames[0]
        for scalar in scalars:
            if scalar.frame is None:
                return None
            if scalar.frame.depth > best.depth:
                best = scalar.frame
        return best
