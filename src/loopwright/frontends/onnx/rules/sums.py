"""ONNX operators that are sums, or sums of products: Einsum, CumSum."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from loopwright.frontends.onnx.rules.call import OnnxCall, Rule


@dataclass(frozen=True, slots=True)
class _Term:
    """A value with a letter for each of its dimensions."""

    value: str
    letters: str


def _einsum(call: OnnxCall) -> tuple[str]:
    """Operands are multiplied two at a time; letters that nothing needs any more are summed."""
    left, wanted = _letters(call)
    terms = [
        _diagonal(call, _Term(value, letters))
        for value, letters in zip(call.inputs, left, strict=True)
    ]
    total, *others = terms
    for place, term in enumerate(others):
        later = "".join(t.letters for t in others[place + 1 :])
        total = _times(call, total, term, set(wanted + later))
    total = _summed(call, total, set(wanted))
    return (call.transpose(total.value, [total.letters.index(c) for c in wanted]),)


def _letters(call: OnnxCall) -> tuple[list[str], str]:
    """The letters of each operand and of the result, those of an ellipsis written out."""
    left, arrow, right = call.text("equation").replace(" ", "").partition("->")
    parts = left.split(",")
    if len(parts) != len(call.inputs):
        raise call.wrong(f"the equation has {len(parts)} operands, the node {len(call.inputs)}")
    spare = [c for c in "ZYXWVUTSRQPO" if c not in left + right]
    filled, longest = [], ""
    for place, part in enumerate(parts):
        missing = call.rank(place) - len(part.replace("...", ""))
        dots = "".join(spare[:missing][::-1]) if "..." in part else ""
        longest = max(longest, dots, key=len)
        filled.append(part.replace("...", dots))
    if not arrow:
        every = "".join(parts).replace("...", "")
        right = "..." * ("..." in left) + "".join(
            c for c in sorted(set(every)) if every.count(c) == 1
        )
    return filled, right.replace("...", longest)


def _diagonal(call: OnnxCall, term: _Term) -> _Term:
    """`term` with each letter once: of a letter that it has twice, the elements on the diagonal."""
    for place, letter in enumerate(term.letters):
        first = term.letters.index(letter)
        if first != place:
            shape = call.shape_of(term.value)
            extents = [n if d in (first, place) else 1 for d, n in enumerate(shape)]
            mask = call.constant(np.eye(shape[place], dtype=np.bool_).reshape(extents))
            zero = call.constant(0, call.dtype_of(term.value))
            value = call.emit("where", mask, term.value, zero)
            value = call.emit("reduce_sum", value, axes=(place,), keepdims=0)
            rest = term.letters[:place] + term.letters[place + 1 :]
            return _diagonal(call, _Term(value, rest))
    return term


def _summed(call: OnnxCall, term: _Term, kept: set[str]) -> _Term:
    axes = tuple(d for d, c in enumerate(term.letters) if c not in kept)
    if not axes:
        return term
    value = call.emit("reduce_sum", term.value, axes=axes, keepdims=0)
    return _Term(value, "".join(c for c in term.letters if c in kept))


def _times(call: OnnxCall, a: _Term, b: _Term, kept: set[str]) -> _Term:
    """The product of two terms as one of matrices, with the letters that are `kept`."""
    a = _summed(call, a, kept | set(b.letters))
    b = _summed(call, b, kept | set(a.letters))
    both = [c for c in a.letters if c in b.letters]
    batch = [c for c in both if c in kept]
    summed = [c for c in both if c not in kept]
    rows = [c for c in a.letters if c not in b.letters]
    columns = [c for c in b.letters if c not in a.letters]
    extents = _extents(call, a) | {c: n for c, n in _extents(call, b).items() if n > 1}
    left = _grouped(call, a, batch, rows, summed)
    right = _grouped(call, b, batch, summed, columns)
    product = call.emit("matmul", left, right)
    letters = [*batch, *rows, *columns]
    return _Term(call.reshape(product, [extents.get(c, 1) for c in letters]), "".join(letters))


def _extents(call: OnnxCall, term: _Term) -> dict[str, int]:
    return dict(zip(term.letters, call.shape_of(term.value), strict=True))


def _grouped(
    call: OnnxCall, term: _Term, batch: Sequence[str], rows: Sequence[str], columns: Sequence[str]
) -> str:
    """`term` as matrices of rows and columns, one for each element of the batch's dimensions."""
    order = [*batch, *rows, *columns]
    extents = _extents(call, term)
    turned = call.transpose(term.value, [term.letters.index(c) for c in order])
    sides = [math.prod(extents[c] for c in group) for group in (rows, columns)]
    return call.reshape(turned, [*(extents[c] for c in batch), *sides])


def _cumsum(call: OnnxCall) -> tuple[str]:
    (axis,) = call.normal(call.known(1, "the axis"), call.rank())
    flags = {name: call.integer(name, 0) for name in ("exclusive", "reverse")}
    return (call.emit("cumsum", call.x(), axis=axis, **flags),)


def _dft(call: OnnxCall) -> tuple[str]:
    """A product with the matrix of sines and cosines, for lengths that are known.

    The last dimension holds real parts, or real and imaginary ones.
    """
    shape, rank = call.shape(), call.rank()
    (axis,) = call.normal(_dft_axis(call), rank)
    if axis == rank - 1 or shape[-1] not in (1, 2):
        raise call.wrong(f"the shape {list(shape)} has no real or complex numbers along {axis}")
    length = call.known(1, "the length")[0] if call.has(1) else shape[axis]
    inverse, half = call.integer("inverse", 0), call.integer("onesided", 0)
    if inverse and half:
        raise call.refuse("an inverse that is one-sided is not supported; give both sides")
    given = min(length, shape[axis])
    count = length // 2 + 1 if half else length
    angle = 2 * np.pi * (np.outer(np.arange(given), np.arange(count)) % length) / length
    scale = 1 / length if inverse else 1.0
    cosine, sine = np.cos(angle) * scale, np.sin(angle) * scale * (1 if inverse else -1)
    parts = [[cosine, sine], [-sine, cosine]][: shape[-1]]
    matrix = np.stack([np.stack(row, axis=-1) for row in parts], axis=1)
    weights = call.constant(matrix.reshape(given * shape[-1], count * 2).astype(call.dtype().numpy))
    others = [d for d in range(rank - 1) if d != axis]
    perm = [*others, axis, rank - 1]
    lines = call.transpose(call.slice(call.x(), axis, 0, given), perm)
    outer = [shape[d] for d in others]
    rows = call.reshape(lines, (math.prod(outer), given * shape[-1]))
    found = call.reshape(call.emit("matmul", rows, weights), (*outer, count, 2))
    return (call.transpose(found, [perm.index(d) for d in range(rank)]),)


def _dft_axis(call: OnnxCall) -> tuple[int]:
    """Before opset 20 an attribute, then an input."""
    if call.opset < 20:
        return (call.integer("axis", 1),)
    return (call.known(2, "the axis")[0] if call.has(2) else -2,)


RULES: Mapping[str, Rule] = {"CumSum": _cumsum, "DFT": _dft, "Einsum": _einsum}
