"""ONNX operators that run graphs: If, Loop, Scan, written out.

Shapes are fixed and constants are folded while a model is read, so that most conditions and counts
are known: a branch takes the place of its If, and the body of a loop is repeated.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from loopwright.frontends.onnx.rules.call import OnnxCall, Rule
from loopwright.ops.move import MAX_PARTS

MAX_STEPS = MAX_PARTS
"""Repetitions of a body that are written out."""


def _truth(call: OnnxCall, value: str, what: str, instead: str) -> bool:
    """The truth value of the constant `value`, which is `what`."""
    found = call.builder.array(value)
    if found is None:
        raise call.refuse(f"{what} ({value!r}) depends on the model's inputs; {instead}")
    if found.size != 1:
        raise call.wrong(f"{what} has {found.size} elements instead of one")
    return bool(found.reshape(-1)[0])


def _if(call: OnnxCall) -> Sequence[str]:
    instead = "export one model for each branch, or give the shapes and weights that decide it"
    taken = _truth(call, call.x(), "the condition", instead)
    return call.body("then_branch" if taken else "else_branch")(())


def _loop(call: OnnxCall) -> Sequence[str]:
    """The body, as often as the count and the conditions say, which both must be constant."""
    body = call.body("body")
    limit = int(call.scalar(0, "the number of steps")) if call.has(0) else None
    instead = "export the model with a loop of a fixed number of steps"
    state = tuple(call.inputs[2:])
    going = _truth(call, call.x(1), "the condition", instead) if call.has(1) else True
    rows: list[tuple[str, ...]] = []
    while going and (limit is None or len(rows) < limit):
        _refuse_long(call, len(rows) + 1 if limit is None else limit)
        step = call.constant(np.asarray(len(rows), np.int64))
        outputs = body((step, call.constant(np.asarray(going)), *state))
        state, scanned = outputs[1 : len(state) + 1], outputs[len(state) + 1 :]
        rows.append(scanned)
        if len(rows) != limit:
            going = _truth(call, outputs[0], f"the condition after step {len(rows) - 1}", instead)
    return (*state, *_stacked(call, rows, len(call.used) - len(state)))


def _refuse_long(call: OnnxCall, steps: int) -> None:
    if steps > MAX_STEPS:
        raise call.refuse(
            f"it has {steps} steps or more, and {MAX_STEPS} can be written out; "
            "split the model into one step and a loop around it"
        )


def _stacked(
    call: OnnxCall, rows: Sequence[Sequence[str]], count: int, axes: Sequence[int] = ()
) -> list[str]:
    """What each step gave, `count` values, along a new dimension: the first, or that of `axes`."""
    if not rows and count:
        raise call.refuse("it takes no step, so that its results have no known shape; drop it")
    return [
        _along(call, [row[place] for row in rows], axes[place] if axes else 0)
        for place in range(count)
    ]


def _along(call: OnnxCall, parts: Sequence[str], axis: int) -> str:
    shape = call.shape_of(parts[0])
    axis = call.normal((axis,), len(shape) + 1)[0]
    spread = [call.reshape(part, (*shape[:axis], 1, *shape[axis:])) for part in parts]
    return spread[0] if len(spread) == 1 else call.emit("concat", *spread, axis=axis)


def _scan(call: OnnxCall) -> Sequence[str]:
    """The body for each entry of what is scanned, whose number is known."""
    if call.opset < 9:
        raise call.refuse("its form before opset 9 is not supported; convert the model to opset 9")
    body, count = call.body("body"), call.integer("num_scan_inputs")
    state, scanned = call.inputs[: -count or None], call.inputs[-count:]
    results = len(call.used) - len(state)
    places = call.integers("scan_input_axes", (0,) * count)
    axes = [
        call.normal((a,), len(call.shape_of(x)))[0] for a, x in zip(places, scanned, strict=True)
    ]
    reverse = call.integers("scan_input_directions", (0,) * count)
    lengths = {call.shape_of(x)[axis] for x, axis in zip(scanned, axes, strict=True)}
    if len(lengths) != 1:
        raise call.wrong(f"what it scans has different lengths {sorted(lengths)}")
    (steps,) = lengths
    _refuse_long(call, steps)
    rows: list[tuple[str, ...]] = []
    for step in range(steps):
        entries = [
            _entry(call, x, axis, steps - 1 - step if back else step)
            for x, axis, back in zip(scanned, axes, reverse, strict=True)
        ]
        outputs = body((*state, *entries))
        state = outputs[: len(state)]
        rows.append(outputs[len(state) :])
    backwards = call.integers("scan_output_directions", (0,) * results)
    ordered = [
        [rows[-1 - n if back else n][place] for place, back in enumerate(backwards)]
        for n in range(steps)
    ]
    return (
        *state,
        *_stacked(call, ordered, results, call.integers("scan_output_axes", (0,) * results)),
    )


def _entry(call: OnnxCall, value: str, axis: int, place: int) -> str:
    shape = call.shape_of(value)
    return call.reshape(call.slice(value, axis, place, 1), (*shape[:axis], *shape[axis + 1 :]))


RULES: Mapping[str, Rule] = {"If": _if, "Loop": _loop, "Scan": _scan}
