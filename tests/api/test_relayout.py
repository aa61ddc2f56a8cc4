from __future__ import annotations

import threading

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import loopwright as lw
from loopwright.api.program import Program, build, example_inputs
from loopwright.errors import ShapeError
from loopwright.layout import Layout
from loopwright.space.config import Config
from loopwright.space.knobs import ChoiceKnob
from loopwright.templates.relayout import merged

Order = list[int | tuple[int, int]]


@st.composite
def layouts(draw: st.DrawFn) -> tuple[tuple[int, ...], Layout]:
    """A shape and a layout of it: any order, any blocks behind it."""
    shape = tuple(draw(st.lists(st.integers(1, 7), min_size=1, max_size=4)))
    order: Order = [*draw(st.permutations(range(len(shape))))]
    for dim in draw(st.lists(st.integers(0, len(shape) - 1), max_size=3)):
        order.append((dim, draw(st.integers(1, 4))))
    return shape, Layout.blocked(len(shape), order)


def numbers(shape: tuple[int, ...]) -> np.ndarray[tuple[int, ...], np.dtype[np.int64]]:
    return np.arange(1, 1 + int(np.prod(shape))).reshape(shape)


@given(layouts())
def test_merged_dimensions_lay_out_the_same_memory(case: tuple[tuple[int, ...], Layout]) -> None:
    shape, layout = case
    fewer, short = merged(shape, layout)
    memory = layout.pack(numbers(shape))
    np.testing.assert_array_equal(short.pack(numbers(fewer)).ravel(), memory.ravel())
    np.testing.assert_array_equal(
        short.unpack(memory.reshape(short.physical_shape(fewer)), fewer).ravel(),
        numbers(shape).ravel(),
    )


@given(layouts())
def test_what_is_called_row_major_is_the_same_memory(
    case: tuple[tuple[int, ...], Layout],
) -> None:
    shape, layout = merged(*case)
    if layout.is_row_major(shape):
        np.testing.assert_array_equal(layout.pack(numbers(shape)).ravel(), numbers(shape).ravel())


@pytest.mark.parametrize(
    ("shape", "order", "fewer"),
    [
        ((1, 32, 5, 7), [0, 1, 2, 3, (1, 16)], (32, 35)),
        ((3, 32, 5, 7), [0, 1, 2, 3, (1, 16)], (3, 32, 35)),
        ((8, 16, 3, 3), [0, 1, 2, 3, (0, 8)], (8, 144)),
        ((2, 3, 4), [0, 1, 2], (24,)),
        ((1, 6, 4, 5), [0, 2, 3, 1], (6, 20)),
    ],
)
def test_dimensions_that_stay_neighbours_are_merged(
    shape: tuple[int, ...], order: Order, fewer: tuple[int, ...]
) -> None:
    assert merged(shape, Layout.blocked(len(shape), order))[0] == fewer


@pytest.mark.parametrize(
    ("shape", "order", "same"),
    [
        ((1, 32, 1, 1), [0, 1, 2, 3, (1, 16)], True),
        ((1, 20, 1, 1), [0, 1, 2, 3, (1, 16)], False),
        ((1, 32, 2, 1), [0, 1, 2, 3, (1, 16)], False),
        ((1, 1, 1), [2, 1, 0], True),
    ],
)
def test_a_vector_in_blocks_needs_no_copy(
    shape: tuple[int, ...], order: Order, *, same: bool
) -> None:
    extents, layout = merged(shape, Layout.blocked(len(shape), order))
    assert layout.is_row_major(extents) is same


def one_choice(_workload: lw.Workload, _target: lw.Target) -> lw.Space:
    return lw.Space((ChoiceKnob("block", (4, 16)),))


def blocked(s: lw.Schedule, config: object) -> None:
    """Everything blocked by channels; the last block has padding."""
    assert isinstance(config, Config)
    for name in ("x", "y", "sum"):
        s.set_layout(name, [0, 1, 2, (1, config.integer("block"))])


TEMPLATE = lw.Template("blocked", 1, one_choice, blocked)


def total(block: int = 16) -> Program:
    """x + y over [2, 21, 9]."""
    x, y = (lw.te.placeholder((2, 21, 9), name=name) for name in ("x", "y"))
    out = lw.te.compute((2, 21, 9), lambda n, c, w: x[n, c, w] + y[n, c, w], name="sum")
    task = lw.task(lw.workload(out, [x, y, out], constants=["y"]), template=TEMPLATE)
    return build(task, config=Config.of({"block": block}))


@pytest.mark.parametrize("block", [4, 16])
def test_a_program_in_blocked_layouts_takes_and_gives_plain_arrays(block: int) -> None:
    program = total(block)
    x, y = example_inputs(program.task)
    bound = program.bind(y=y)
    np.testing.assert_array_equal(program(x, y), x + y)
    np.testing.assert_array_equal(bound(x), x + y)
    np.testing.assert_array_equal(bound(y), y + y)
    bound.timed_call(x)()


def test_arrays_that_are_not_contiguous_are_taken() -> None:
    program = total()
    x, y = example_inputs(program.task)
    turned = np.ascontiguousarray(x.T).T
    np.testing.assert_array_equal(program(turned, y), x + y)


def test_outputs_of_calls_do_not_share_memory() -> None:
    program = total()
    x, y = example_inputs(program.task)
    first, second = program(x, y), program(y, y)
    assert not np.shares_memory(first, second)
    np.testing.assert_array_equal(first, x + y)


def test_threads_may_call_one_program() -> None:
    program = total()
    x, y = example_inputs(program.task)
    right: list[bool] = []

    def work(factor: int) -> None:
        scaled = x * np.float32(factor)
        right.extend(np.array_equal(program(scaled, y), scaled + y) for _ in range(50))

    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert right == [True] * 200


def test_several_outputs_are_a_tuple() -> None:
    x = lw.te.placeholder((8, 8), name="x")
    twice = lw.te.compute((8, 8), lambda i, j: x[i, j] * 2.0, name="twice")
    more = lw.te.compute((8, 8), lambda i, j: twice[i, j] + 1.0, name="more")
    task = lw.task(lw.workload((twice, more), [x, twice, more]))
    row = task.space.sample(np.random.default_rng(0), 1)[0]
    program = build(task, config=task.space.decode(row))
    (array,) = example_inputs(task)
    first, second = program.outputs(array)
    np.testing.assert_array_equal(first, array * 2)
    np.testing.assert_array_equal(second, array * 2 + 1)
    with pytest.raises(ShapeError, match=r"has the outputs twice, more; call \.outputs"):
        program(array)
