from __future__ import annotations

import onnx
import pytest

from loopwright.errors import ShapeError, UnsupportedError
from loopwright.frontends.onnx.importer import RULES
from loopwright.frontends.torch.rules import folds, layers, moves, pointwise, scattering
from loopwright.ops.epilogue import parse, step, text_of
from loopwright.ops.opdef import EpilogueForm, OpKind, StepOperand
from loopwright.ops.registry import FORMS, OPS, define, op_def
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


@pytest.mark.parametrize("name", OPS)
def test_no_row_has_an_empty_cell(name: str) -> None:
    row = OPS[name]
    assert row.name == name
    assert 1 <= row.least <= row.most
    assert (row.element is not None) == (row.kind is OpKind.ELEMENTWISE and name != "batch_norm")
    assert not row.epilogues or row.element is not None, "a step of an epilogue is elementwise"
    assert not row.forms or row.kind is OpKind.CONTRACTION


NOT_IN_ONNX = {"expm1", "log1p"}


@pytest.mark.parametrize("name", OPS)
def test_an_operator_is_called_in_onnx_as_its_row_says(name: str) -> None:
    if name in NOT_IN_ONNX:
        assert OPS[name].onnx == ""
        return
    assert onnx.defs.has(OPS[name].onnx)
    assert OPS[name].onnx in RULES


NOT_IN_TORCH = {
    *("softsign", "lrn", "reduce_l1", "reduce_sum_square", "reduce_log_sum", "weighted_resize"),
}


@pytest.mark.parametrize("name", OPS)
def test_an_operator_is_called_in_torch_as_its_row_says(name: str) -> None:
    families = (folds, layers, moves, pointwise, scattering)
    translated = {n.split(".")[1] for family in families for n in family.TABLE}
    torch = OPS[name].torch
    assert torch in translated if torch else name in NOT_IN_TORCH


STEPS = [(name, form) for name, row in OPS.items() for form in row.epilogues]


@pytest.mark.parametrize(("name", "form"), STEPS)
def test_a_step_of_an_epilogue_is_read_as_it_is_written(name: str, form: EpilogueForm) -> None:
    attrs = {**dict(form.fixed), **{n: 0.5 + k for k, (n, _) in enumerate(form.numbers)}}
    made = step(name, attrs, form.operand)
    assert made is not None
    assert parse(text_of([made, made])) == (made, made)
    assert text_of([made]).partition("(")[0] == form.text
    assert bool(form.input) == (form.operand in (StepOperand.TENSOR, StepOperand.CHANNELS))


def test_no_two_steps_are_written_alike() -> None:
    assert len({form.text for _, form in STEPS}) == len(STEPS)


def test_forms_are_called_what_no_operator_but_their_own_is() -> None:
    assert sum(len(row.forms) for row in OPS.values()) == len(FORMS)
    assert {name for name in FORMS if name in OPS and FORMS[name] not in OPS[name].forms} == set()
