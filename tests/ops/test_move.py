from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from node_cases import agree, compiled, floats, meaning, reference, workload_of

from loopwright.errors import ShapeError, UnsupportedError
from loopwright.ir import walk
from loopwright.ir.expr import Op
from loopwright.ops.attributes import NodeAttr


@pytest.mark.parametrize("perm", list(itertools.permutations(range(3))))
def test_transposes_permute_dimensions(perm: tuple[int, ...]) -> None:
    x = floats(3, 4, 17)
    agree("transpose", meaning("transpose", [x], perm=perm), x.transpose(perm))
    compiled("transpose", [x], perm=perm)


RESHAPES = [
    ((3, 4, 5), (12, 5)),
    ((12, 5), (3, 4, 5)),
    ((3, 4, 5), (2, 6, 1, 5)),
    ((6, 4), (4, 6)),
    ((1, 8, 1, 3), (8, 3)),
    ((8, 3), (1, 8, 1, 1, 3)),
    ((2, 3, 4), (24,)),
    ((1, 1), ()),
    ((), (1,)),
]


@pytest.mark.parametrize(("shape", "wanted"), RESHAPES, ids=str)
def test_reshapes_keep_the_order_of_elements(
    shape: tuple[int, ...], wanted: tuple[int, ...]
) -> None:
    x = np.asarray(floats(*shape))
    agree("reshape", meaning("reshape", [x], shape=wanted), x.reshape(wanted))
    compiled("reshape", [x], shape=wanted)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.sampled_from([1, 2, 3, 4, 6]), max_size=5), st.randoms(use_true_random=False))
def test_any_reshape_keeps_the_order_of_elements(factors: list[int], rng: object) -> None:
    def shape() -> tuple[int, ...]:
        primes = [p for f in factors for p in ((2, 3) if f == 6 else (2, 2) if f == 4 else (f,))]
        rng.shuffle(primes)  # type: ignore[attr-defined]  # hypothesis gives a Random
        made = [1]
        for prime in primes:
            if rng.random() < 0.5:  # type: ignore[attr-defined]
                made.append(prime)
            else:
                made[-1] *= prime
        return tuple(made)

    first, second = shape(), shape()
    x = floats(*first)
    agree("reshape", meaning("reshape", [x], shape=second), x.reshape(second))


def test_dimensions_that_stay_are_read_as_they_are() -> None:
    made = workload_of("reshape", [floats(1, 8, 12, 3)], shape=(8, 1, 3, 4, 3))
    divided = [
        node
        for node in walk.visit(made.stages[0].op.body)  # type: ignore[union-attr]  # it computes
        if getattr(node, "op", None) in (Op.FLOORDIV, Op.FLOORMOD)
    ]
    assert not divided


@pytest.mark.parametrize("shape", [(4, 3, 5), (3, 1), (1, 2, 1, 1, 5), (1,)], ids=str)
def test_expansion_broadcasts_both_ways(shape: tuple[int, ...]) -> None:
    x = floats(3, 5)[:, :1] if shape[-1] == 5 else floats(3, 5)
    expected = x * np.ones(shape, np.float32)
    agree("expand", meaning("expand", [x], shape=shape), expected)
    compiled("expand", [x], shape=shape)


def test_tiles_repeat_elements() -> None:
    x = floats(3, 1, 4)
    agree("tile", meaning("tile", [x], repeats=(2, 5, 3)), np.tile(x, (2, 5, 3)))
    compiled("tile", [x], repeats=(2, 5, 3))


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_slices_are_those_of_numpy(data: st.DataObject) -> None:
    shape = data.draw(st.lists(st.integers(1, 7), min_size=1, max_size=3))
    x = floats(*shape)
    parts = [
        data.draw(st.slices(n).filter(lambda s, n=n: len(range(*s.indices(n))))) for n in shape
    ]
    ranges = [range(*s.indices(n)) for s, n in zip(parts, shape, strict=True)]
    attrs = {
        "starts": tuple(r[0] for r in ranges),
        "steps": tuple(r.step for r in ranges),
        "sizes": tuple(map(len, ranges)),
    }
    agree("slice", meaning("slice", [x], **attrs), x[tuple(parts)])


def test_kernels_slice() -> None:
    compiled("slice", [floats(9, 40)], starts=(8, 1), steps=(-2, 3), sizes=(4, 12))
    compiled("slice", [floats(9, 40)], starts=(0, 39), steps=(1, -1), sizes=(9, 40))


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("extents", [(4,), (4, 1, 6), (1, 1), (9, 16, 3, 2)], ids=str)
def test_concatenations_join_along_an_axis(extents: tuple[int, ...], axis: int) -> None:
    shapes = [[*[2, 3, 5][:axis], n, *[2, 3, 5][axis + 1 :]] for n in extents]
    parts = [floats(*shape, seed=n) for n, shape in enumerate(shapes)]
    agree("concat", meaning("concat", parts, axis=axis), np.concatenate(parts, axis))
    compiled("concat", parts, axis=axis)


@pytest.mark.parametrize("mode", ["constant", "reflect", "edge", "wrap"])
@pytest.mark.parametrize("pads", [(1, 2, 0, 3), (0, 4, 0, 5), (3, 0, 3, 0), (0, 0, 0, 0)], ids=str)
def test_pads_are_those_of_onnx(pads: tuple[int, ...], mode: str) -> None:
    x = floats(4, 6)
    value = np.array(1.5, np.float32)
    operands = [x, np.array(pads), value] if mode == "constant" else [x, np.array(pads)]
    expected = reference("Pad", operands, opset=19, mode=mode)
    attrs: dict[str, NodeAttr] = {"pads": pads, "mode": mode}
    if mode == "constant":
        attrs["value"] = 1.5
    agree("pad", meaning("pad", [x], **attrs), expected)
    compiled("pad", [x], **attrs)


@pytest.mark.parametrize("dtype", ["int64", "bool", "float16"])
def test_other_dtypes_are_padded(dtype: str) -> None:
    x = (3 * floats(4, 6)).astype(dtype)
    expected = np.pad(x, ((1, 0), (0, 2)), constant_values=1)
    agree("pad", meaning("pad", [x], pads=(1, 0, 0, 2), value=1.0), expected)
    compiled("pad", [x], pads=(1, 0, 0, 2), value=1.0)


def test_negative_pads_cut_off() -> None:
    x = floats(5, 9)
    expected = np.pad(x[:-1, 2:], ((1, 0), (0, 3)))
    agree("pad", meaning("pad", [x], pads=(1, -2, -1, 3)), expected)
    compiled("pad", [x], pads=(1, -2, -1, 3))


def test_reflections_may_go_back_and_forth() -> None:
    x = floats(1, 3)
    expected = np.pad(x, ((0, 0), (7, 9)), mode="reflect")
    agree("pad", meaning("pad", [x], pads=(0, 7, 0, 9), mode="reflect"), expected)


@pytest.mark.parametrize(
    ("op", "shapes", "attrs", "message"),
    [
        ("transpose", [(3, 4)], {"perm": (0, 0)}, "is not a permutation"),
        ("reshape", [(3, 4)], {"shape": (5, 2)}, "another number of elements"),
        ("expand", [(3, 4)], {"shape": (5, 4)}, "do not broadcast"),
        ("tile", [(3, 4)], {"repeats": (2,)}, "needs 2 numbers"),
        ("slice", [(3,)], {"starts": (1,), "sizes": (3,)}, "3 elements from 1"),
        ("slice", [(3, 4)], {"starts": (1,), "sizes": (2,)}, "2 numbers each"),
        ("concat", [(3, 4), (3, 5)], {"axis": 0}, "differ in more than dimension 0"),
        ("pad", [(3, 4)], {"pads": (1, 1)}, "needs 4 numbers"),
        ("pad", [(3,)], {"pads": (-2, -1)}, r"leave the shape \[0\]"),
    ],
)
def test_moves_that_do_not_fit_are_refused(
    op: str, shapes: list[tuple[int, ...]], attrs: dict[str, NodeAttr], message: str
) -> None:
    with pytest.raises(ShapeError, match=message):
        meaning(op, [floats(*shape) for shape in shapes], **attrs)


def test_an_unknown_way_to_pad_is_refused() -> None:
    with pytest.raises(UnsupportedError, match="pad mode 'mirror'"):
        meaning("pad", [floats(3)], pads=(1, 1), mode="mirror")
