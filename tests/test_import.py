from __future__ import annotations

import subprocess
import sys

import pytest

import loopwright as lw


def test_importing_the_package_imports_nothing_heavy() -> None:
    code = (
        "import sys, loopwright; heavy = {'numpy', 'llvmlite', 'sqlalchemy', 'typer', 'rich', "
        "'lightgbm', 'onnx', 'matplotlib', 'msgspec'}; print(sorted(heavy & set(sys.modules)))"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "[]"


def test_an_unknown_public_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = lw.nothing  # type: ignore[attr-defined]


def test_the_public_names_are_those_of_the_table() -> None:
    assert lw.__all__ == sorted(lw._LAZY)


def test_every_public_name_can_be_used() -> None:
    missing = [name for name in dir(lw) if not hasattr(lw, name)]
    assert missing == []


def test_lower_is_the_function_after_its_package_was_imported() -> None:
    from loopwright.lower import pipeline

    assert lw.lower is pipeline.lower


def test_a_schedule_is_made_and_lowered_by_the_public_names() -> None:
    a = lw.te.placeholder((8, 32), name="A")
    b = lw.te.compute((8, 32), lambda y, x: a[y, x] + 1.0, name="B")
    s = lw.create_schedule(b)
    _, inner = s[b].split(s[b].loops[1], 8)
    s[b].vectorize(inner)
    text = str(lw.lower(s))
    assert "for B.x.o in 0..4:" in text
    assert "vectorized B.x.i in 0..8:" in text


def test_the_expression_language_is_at_te() -> None:
    k = lw.te.reduce_axis((0, 4), name="k")
    a = lw.te.placeholder((4, 8), name="A")
    b = lw.te.placeholder((4, 6), name="B")
    c = lw.te.compute((8, 6), lambda y, x: lw.te.sum(a[k, y] * b[k, x], axis=k), name="C")
    assert c.shape == (8, 6)


def test_a_template_needs_the_public_names_only() -> None:
    def space(workload: lw.Workload, _target: lw.Target) -> lw.Space:
        columns = workload.outputs[0].shape[1]
        knobs = (
            lw.Split("x", columns, policy="factors"),
            lw.Choice("unroll", (True, False)),
            lw.Reorder("order", ("y", "x")),
            lw.Annotate("how", ("y", "x"), ("none", "unroll")),
        )
        return lw.Space(knobs, (lw.Constraint(("x",), lambda c: c["x"][1] > 1, "too narrow"),))

    def schedule(s: lw.Schedule, config: lw.Configuration) -> None:
        s["B"].split("B.x", config.sizes("x")[1])

    a = lw.te.placeholder((8, 32), name="A")
    b = lw.te.compute((8, 32), lambda y, x: a[y, x] + 1.0, name="B")
    task = lw.task(lw.workload(b), template=lw.Template("t", 1, space, schedule))
    assert task.space.cardinality == 6 * 2 * 2 * 4
