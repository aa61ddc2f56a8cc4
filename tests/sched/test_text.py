from __future__ import annotations

import pickle

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from schedules import Case, cases

from loopwright.errors import ScheduleError
from loopwright.ir.expr import Scope
from loopwright.ir.stmt import LoopKind
from loopwright.lower.pipeline import lower
from loopwright.sched.schedule import create_schedule, load, replay
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
from loopwright.sched.text import parse, parse_all, show
from loopwright.te import language as te

SHOWN: list[tuple[Step, str]] = [
    (SplitStep("C", "C.y", 8, "yo", "yi"), "split C C.y by 8 into yo yi"),
    (FuseStep("C", "a", "b", "a+b"), "fuse C a b into a+b"),
    (ReorderStep("C", ("b", "a")), "reorder C b a"),
    (AnnotateStep("C", "x", LoopKind.VECTORIZED), "vectorize C x"),
    (AnnotateStep("C", "x", LoopKind.UNROLLED), "unroll C x"),
    (AnnotateStep("C", "x", LoopKind.PARALLEL), "parallel C x"),
    (AnnotateStep("C", "x", LoopKind.SERIAL), "serial C x"),
    (ComputeAtStep("P", "C", "C.x.o"), "compute P at C in C.x.o"),
    (ComputeInlineStep("P"), "inline P"),
    (ComputeRootStep("P"), "root P"),
    (SetScopeStep("P", Scope.REGISTER), "keep P in register"),
    (SetLayoutStep("A", (0, 1, (1, 16))), "store A as 0 1 1:16"),
    (SetLayoutStep("S", ()), "store S as"),
    (
        CacheReadStep("A", ("C", "D"), "A.local", Scope.LOCAL),
        "read A through A.local for C D in local",
    ),
    (CacheWriteStep("C", "C.global", Scope.GLOBAL), "write C through C.global in global"),
    (SplitReductionStep("C", 8, "C.parts"), "fold C through C.parts by 8"),
    (ComputeAtStep("at", "in", "in"), "compute at at in in in"),
    (CacheReadStep("A", ("in", "for"), "in", Scope.LOCAL), "read A through in for in for in local"),
    (ComputeInlineStep("my stage"), 'inline "my stage"'),
    (ComputeInlineStep('a"b\\'), 'inline "a\\"b\\\\"'),
    (ComputeInlineStep('"'), 'inline "\\""'),
    (ComputeInlineStep(""), 'inline ""'),
    (ComputeInlineStep("größe\n"), 'inline "gr\\u00f6\\u00dfe\\n"'),
    (ComputeInlineStep("#1"), "inline #1"),
]


def fields(step: Step) -> tuple[object, ...]:
    return type(step), *(getattr(step, name) for name in type(step).__slots__)


@pytest.mark.parametrize(("step", "text"), SHOWN, ids=[t for _, t in SHOWN])
def test_a_step_is_one_line_that_reads_back(step: Step, text: str) -> None:
    assert show(step) == text
    assert fields(parse(text)) == fields(step)


def test_the_sizes_of_a_batch_are_shown_by_their_number() -> None:
    sizes = np.array([2, 4, 8])
    assert show(SplitStep("C", "x", sizes, "o", "i")) == "split C x by <3 sizes> into o i"
    assert show(SetLayoutStep("C", (0, (0, sizes)))) == "store C as 0 0:<3 sizes>"
    with pytest.raises(ScheduleError):
        parse(show(SplitStep("C", "x", sizes, "o", "i")))


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("twist C x", "a step starts with one of split, fuse"),
        ("split C x 8 into o i", "expected _ _ by _ into _ _"),
        ("split C x by many into o i", "invalid literal"),
        ("split C x by 8 onto o i", "expected"),
        ("inline", "expected _"),
        ("inline A B", "expected _"),
        ("keep C in attic", "'attic' is not a valid Scope"),
        ("store C as 0 1:x", "invalid literal"),
        ("read A through n for C D local", "expected in _"),
        ("reorder", "is not a schedule step"),
        ('inline "A', "unterminated quote"),
        ('inline "\\x"', "is not a schedule step"),
        ("", "it is empty"),
    ],
)
def test_a_line_that_is_no_step_is_refused_in_one_line(line: str, reason: str) -> None:
    with pytest.raises(ScheduleError, match=reason) as caught:
        parse(line)
    assert "\n" not in str(caught.value)


def test_blank_lines_and_comments_say_nothing() -> None:
    assert [show(s) for s in parse_all("# a schedule\n\n  inline A  \n\n#\nroot B\n")] == [
        "inline A",
        "root B",
    ]


def test_a_schedule_without_steps_reads_back() -> None:
    a = te.placeholder((3,), name="A")
    workload = te.workload(te.compute((3,), lambda i: a[i] + 1.0, name="B"))
    text = str(create_schedule(workload))
    assert text == "# no steps"
    assert load(workload, text).steps == ()


def test_loading_names_the_illegal_step() -> None:
    a = te.placeholder((3,), name="A")
    workload = te.workload(te.compute((3,), lambda i: a[i] + 1.0, name="B"), name="small")
    with pytest.raises(ScheduleError, match=r"small: cannot `unroll B B.j`: B has no loop B.j"):
        load(workload, "unroll B B.i\nunroll B B.j")


@settings(max_examples=60, deadline=None, suppress_health_check=[*HealthCheck])
@given(cases())
def test_steps_replay_pickle_and_read_back_to_the_same_program(case: Case) -> None:
    schedule = case.schedule
    workload = schedule.workload
    program = str(lower(schedule))
    steps = pickle.loads(pickle.dumps(schedule.steps))
    text = str(schedule)
    for again in (replay(workload, schedule.steps), replay(workload, steps), load(workload, text)):
        assert str(again) == text
        assert str(lower(again)) == program
        assert [loop for name in again.state.stages for loop in again[name].loops] == [
            loop for name in schedule.state.stages for loop in schedule[name].loops
        ]
    assert str(lower(replay(pickle.loads(pickle.dumps(workload)), steps))) == program
