from __future__ import annotations

import pytest

from loopwright.errors import ShapeError, UnsupportedError
from loopwright.ops.opdef import OpKind
from loopwright.ops.registry import OPS, define, op_def
from loopwright.te.tensor import placeholder


def test_an_unknown_operator_is_named() -> None:
    with pytest.raises(UnsupportedError, match="'transmogrify' is not supported"):
        op_def("transmogrify")


def test_unknown_attributes_are_refused_with_those_there_are() -> None:
    with pytest.raises(ShapeError, match="unknown attribute 'beta'; it takes alpha"):
        define("elu", {"alpha": 1.0, "beta": 2.0}, [placeholder((3,))], "out")


@pytest.mark.parametrize("count", [0, 2])
def test_another_number_of_inputs_is_refused(count: int) -> None:
    with pytest.raises(ShapeError, match=f"relu takes 1 inputs, got {count}"):
        define("relu", {}, [placeholder((3,))] * count, "out")


def test_an_input_that_must_be_there_cannot_be_left_out() -> None:
    with pytest.raises(ShapeError, match="first 2 inputs is left out"):
        define("add", {}, [placeholder((3,)), None], "out")


def test_refusals_name_operator_and_inputs() -> None:
    inputs = [placeholder((3,), name="a"), placeholder((4,), "int64", name="b")]
    with pytest.raises(ShapeError, match=r"mul of float32\[3\], int64\[4\]"):
        define("mul", {}, inputs, "out")


def test_stages_are_named_after_the_prefix() -> None:
    (out,) = define("softmax", {"axis": 1}, [placeholder((2, 3))], "t7")
    names = [out.name]
    pending = [out]
    while pending:
        for tensor in pending.pop().inputs:
            names.append(tensor.name)
            pending.append(tensor)
    assert set(names) == {"t7", "t7.exp", "t7.sum", "t7.max", "input"}


@pytest.mark.parametrize(
    ("op", "kind"),
    [
        ("add", OpKind.ELEMENTWISE),
        ("batch_norm", OpKind.ELEMENTWISE),
        ("transpose", OpKind.MOVE),
        ("softmax", OpKind.REDUCTION),
        ("conv", OpKind.CONTRACTION),
    ],
)
def test_operators_have_a_kind(op: str, kind: OpKind) -> None:
    assert OPS[op].kind is kind
