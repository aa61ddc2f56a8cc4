"""Steps as text, one line each, and back.

    Line ::= split STAGE LOOP by SIZE into OUTER INNER
           | fuse STAGE FIRST SECOND into FUSED
           | reorder STAGE LOOP...
           | (serial | parallel | vectorize | unroll) STAGE LOOP
           | compute STAGE at CONSUMER in LOOP
           | inline STAGE
           | root STAGE
           | keep STAGE in SCOPE
           | store TENSOR as (DIM | DIM:BLOCK)...
           | read TENSOR through NAME for READER... in SCOPE
           | write TENSOR through NAME in SCOPE
           | fold TENSOR through NAME by LANES

Words are separated by blanks; a name with blanks or quotes is written as a JSON string. A line
that starts with # is a comment. `parse(show(step))` is the same step; sizes of a batch are shown by
their number only and cannot be read back.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from loopwright.errors import ScheduleError
from loopwright.ir.expr import Scope
from loopwright.ir.stmt import LoopKind
from loopwright.sched.extent import Extent
from loopwright.sched.steps import (
    AnnotateStep,
    CacheReadStep,
    CacheWriteStep,
    ComputeAtStep,
    ComputeInlineStep,
    ComputeRootStep,
    FuseStep,
    ReorderStep,
    SetLayoutStep,
    SetScopeStep,
    SplitReductionStep,
    SplitStep,
    Step,
)

_WORD = re.compile(r'"(?:[^"\\]|\\.)*"|[^\s"]+')
_VERBS = {
    LoopKind.SERIAL: "serial",
    LoopKind.PARALLEL: "parallel",
    LoopKind.VECTORIZED: "vectorize",
    LoopKind.UNROLLED: "unroll",
}


def show(step: Step) -> str:
    """The step on one line; see the grammar at the head of this file."""
    match step:
        case SplitStep(stage, loop, factor, outer, inner):
            made = _names(outer, inner)
            return f"split {_names(stage, loop)} by {_size(factor)} into {made}"
        case FuseStep(stage, first, second, fused):
            return f"fuse {_names(stage, first, second)} into {_names(fused)}"
        case ReorderStep(stage, loops):
            return f"reorder {_names(stage, *loops)}"
        case AnnotateStep(stage, loop, kind):
            return f"{_VERBS[kind]} {_names(stage, loop)}"
        case ComputeAtStep(stage, consumer, loop):
            return f"compute {_names(stage)} at {_names(consumer)} in {_names(loop)}"
        case ComputeInlineStep(stage):
            return f"inline {_names(stage)}"
        case ComputeRootStep(stage):
            return f"root {_names(stage)}"
        case SetScopeStep(stage, scope):
            return f"keep {_names(stage)} in {scope.value}"
        case SetLayoutStep(tensor, order):
            dims = " ".join(
                str(o) if isinstance(o, int) else f"{o[0]}:{_size(o[1])}" for o in order
            )
            return f"store {_names(tensor)} as {dims}".rstrip()
        case CacheReadStep(tensor, readers, name, scope):
            through = _names(name)
            return (
                f"read {_names(tensor)} through {through} for {_names(*readers)} in {scope.value}"
            )
        case CacheWriteStep(tensor, name, scope):
            return f"write {_names(tensor)} through {_names(name)} in {scope.value}"
        case SplitReductionStep(tensor, lanes, name):
            return f"fold {_names(tensor)} through {_names(name)} by {lanes}"


def parse(line: str) -> Step:
    """The step that `line` shows.

    Raises: ScheduleError for any other line.
    """
    try:
        verb, *names = _words(line)
        return _PARSERS[verb](names)
    except (ValueError, KeyError, IndexError) as error:
        raise ScheduleError(
            f"`{line.strip()}` is not a schedule step ({error}); "
            f"a step starts with one of {', '.join(_PARSERS)}"
        ) from error


def parse_all(text: str) -> tuple[Step, ...]:
    """The steps in `text`, one per line. Raises: ScheduleError for the first bad line."""
    lines = (line.strip() for line in text.splitlines())
    return tuple(parse(line) for line in lines if line and not line.startswith("#"))


def _words(line: str) -> list[str]:
    words = _WORD.findall(line)
    if not words or _WORD.sub("", line).strip():
        raise ValueError("unterminated quote" if words else "it is empty")
    return [json.loads(w) if w.startswith('"') else w for w in words]


def _names(*names: str) -> str:
    return " ".join(n if _WORD.fullmatch(n) and n[0] != '"' else json.dumps(n) for n in names)


def _size(size: Extent) -> str:
    return f"<{size.size} sizes>" if isinstance(size, np.ndarray) else str(size)


def _take(words: Sequence[str], pattern: str) -> list[str]:
    """The words where `pattern` has `_`; ValueError where they do not match it."""
    wanted = pattern.split()
    fits = len(words) == len(wanted) and all(
        w in ("_", given) for w, given in zip(wanted, words, strict=True)
    )
    if not fits:
        raise ValueError(f"expected {pattern}")
    return [given for w, given in zip(wanted, words, strict=True) if w == "_"]


def _split(words: Sequence[str]) -> Step:
    stage, loop, factor, outer, inner = _take(words, "_ _ by _ into _ _")
    return SplitStep(stage, loop, int(factor), outer, inner)


def _fuse(words: Sequence[str]) -> Step:
    return FuseStep(*_take(words, "_ _ _ into _"))


def _reorder(words: Sequence[str]) -> Step:
    return ReorderStep(words[0], tuple(words[1:]))


def _annotate(kind: LoopKind) -> Callable[[Sequence[str]], Step]:
    def parse_kind(words: Sequence[str]) -> Step:
        stage, loop = _take(words, "_ _")
        return AnnotateStep(stage, loop, kind)

    return parse_kind


def _compute(words: Sequence[str]) -> Step:
    return ComputeAtStep(*_take(words, "_ at _ in _"))


def _inline(words: Sequence[str]) -> Step:
    return ComputeInlineStep(*_take(words, "_"))


def _root(words: Sequence[str]) -> Step:
    return ComputeRootStep(*_take(words, "_"))


def _keep(words: Sequence[str]) -> Step:
    stage, scope = _take(words, "_ in _")
    return SetScopeStep(stage, Scope(scope))


def _store(words: Sequence[str]) -> Step:
    (tensor,) = _take(words[:2], "_ as")
    order: list[int | tuple[int, Extent]] = []
    for word in words[2:]:
        dim, colon, block = word.partition(":")
        order.append((int(dim), int(block)) if colon else int(dim))
    return SetLayoutStep(tensor, tuple(order))


def _read(words: Sequence[str]) -> Step:
    tensor, name = _take(words[:4], "_ through _ for")
    (scope,) = _take(words[-2:], "in _")
    return CacheReadStep(tensor, tuple(words[4:-2]), name, Scope(scope))


def _write(words: Sequence[str]) -> Step:
    tensor, name, scope = _take(words, "_ through _ in _")
    return CacheWriteStep(tensor, name, Scope(scope))


def _fold(words: Sequence[str]) -> Step:
    tensor, name, lanes = _take(words, "_ through _ by _")
    return SplitReductionStep(tensor, int(lanes), name)


_PARSERS: Mapping[str, Callable[[Sequence[str]], Step]] = {
    "split": _split,
    "fuse": _fuse,
    "reorder": _reorder,
    **{verb: _annotate(kind) for kind, verb in _VERBS.items()},
    "compute": _compute,
    "inline": _inline,
    "root": _root,
    "keep": _keep,
    "store": _store,
    "read": _read,
    "write": _write,
    "fold": _fold,
}
