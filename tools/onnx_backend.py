"""Run ONNX's own node tests through the importer and the passes.

    python tools/onnx_backend.py [--op Conv] [--run reference|compiled] [-o results.json]

Every test of an operator that is imported is run. Inputs that are parameters of an operator (a
shape, a list of axes) are made constants of the model where the importer refuses them. Tests that
it refuses all the same are listed, and counted by the class of the refusal; a test that fails
otherwise makes the exit code 1. The last line is the share of all tests, those of operators that
are not imported included.
"""

from __future__ import annotations

import argparse
import re
import sys
import warnings
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper

from loopwright.deploy.compile import compile as compile_model
from loopwright.errors import LoopwrightError, ModelError, UnsupportedError, UserError
from loopwright.frontends.onnx.importer import RULES, has_body, import_onnx_model
from loopwright.graph.evaluate import evaluate
from loopwright.graph.ir import Array, Graph
from loopwright.graph.passes.pipeline import simplify
from loopwright.jsonio import dumps

Runner = Callable[[Graph, Mapping[str, Array]], Sequence[Array]]

ACCEPTED: tuple[type[UserError], ...] = (UnsupportedError, ModelError)
"""The classes of refusals for which a test may be left out: the importer's own, of what a model
holds. Everything else that is raised is a failure, whatever it says."""
ROUNDING: Mapping[str, float] = {"bfloat16": 0.02, "float16": 0.002}
"""Relative errors that rounding twice makes, for types of few digits."""


@dataclass(frozen=True, slots=True)
class Case:
    """A test of ONNX: a model of one operator, or of its expansion, with inputs and outputs."""

    name: str
    op: str
    model: onnx.ModelProto
    inputs: Sequence[object]
    outputs: Sequence[object]
    rtol: float
    atol: float


@dataclass(frozen=True, slots=True)
class Result:
    """How a test went: `kind` is the class of what was raised, and `reason` what that says.

    Both are empty when it passed; `accepted` says it may stay out.
    """

    name: str
    op: str
    passed: bool
    accepted: bool = False
    kind: str = ""
    reason: str = ""


def collected() -> Iterator[Case]:
    """All node tests that the package onnx generates."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from onnx.backend.test.case.node import collect_testcases

        tests = collect_testcases(None)
    ops = {t.name: t.model.graph.node[0].op_type for t in tests if t.model.graph.node}
    for test in tests:
        base = re.sub(r"_expanded.*$", "", test.name)
        op = ops.get(base, ops.get(test.name, ""))
        for inputs, outputs in test.data_sets:
            yield Case(test.name, op, test.model, inputs, outputs, test.rtol, test.atol)


def by_reference(graph: Graph, inputs: Mapping[str, Array]) -> Sequence[Array]:
    """The outputs as NumPy computes what the nodes mean."""
    return evaluate(graph, inputs)


def by_program(graph: Graph, inputs: Mapping[str, Array]) -> Sequence[Array]:
    """The outputs of the compiled model."""
    found = compile_model(graph).run(inputs)
    return [found[name] for name in graph.outputs]


RUNNERS: Mapping[str, Runner] = {"reference": by_reference, "compiled": by_program}


def run(case: Case, runner: Runner) -> Result:
    """How `case` goes, with as few of its inputs made constants as the importer allows."""
    first: LoopwrightError | None = None
    for constants in _choices(case):
        try:
            _check(case, constants, runner)
        except ACCEPTED as refusal:
            first = refusal if first is None else first
        except Exception as error:  # noqa: BLE001  # the boundary of a test: the others go on
            return _failed(case, error)
        else:
            return Result(case.name, case.op, passed=True)
    return _failed(case, first)


def _failed(case: Case, error: Exception | None) -> Result:
    return Result(
        case.name,
        case.op,
        passed=False,
        accepted=isinstance(error, ACCEPTED),
        kind=type(error).__name__,
        reason=" ".join(str(error).split())[:200],
    )


def _choices(case: Case) -> Iterator[frozenset[str]]:
    """Inputs to make constants of: none, all but the first, all but floats, all."""
    names = [value.name for value in case.model.graph.input]
    floats = {
        value.name
        for value in case.model.graph.input
        if value.type.tensor_type.elem_type == onnx.TensorProto.FLOAT
    }
    tried = [frozenset[str](), frozenset(names[1:]), frozenset(names) - floats, frozenset(names)]
    yield from dict.fromkeys(tried)


def _check(case: Case, constants: frozenset[str], runner: Runner) -> None:
    """Import, simplify, run and compare. Raises: AssertionError when an output is wrong."""
    model = onnx.ModelProto()
    model.CopyFrom(case.model)
    given = dict(zip((v.name for v in model.graph.input), case.inputs, strict=False))
    arrays = {name: a for name, a in _arrays(given).items() if a is not None}
    shapes = {}
    for value in [*model.graph.input]:
        if value.name in constants and value.name in arrays:
            tensor = numpy_helper.from_array(arrays[value.name], value.name)
            model.graph.initializer.append(tensor)
            model.graph.input.remove(value)
        elif value.name in arrays and value.type.HasField("tensor_type"):
            shapes[value.name] = arrays[value.name].shape
    graph = simplify(import_onnx_model(model, shapes))
    found = runner(graph, {name: arrays[name].copy(order="C") for name in graph.inputs})
    expected = _arrays(dict(zip(graph.outputs, case.outputs, strict=False)))
    for name, output in zip(graph.outputs, found, strict=True):
        wanted = expected[name]
        if wanted is None:
            raise AssertionError(f"the output {name} is not a tensor")
        _compare(output, wanted, case)


def _arrays(given: Mapping[str, object]) -> dict[str, Array | None]:
    """The tensors of a test as arrays; None for what is none."""
    found: dict[str, Array | None] = {}
    for name, value in given.items():
        if isinstance(value, onnx.TensorProto):
            found[name] = numpy_helper.to_array(value)
        else:
            is_array = isinstance(value, np.ndarray | np.generic)
            found[name] = np.asarray(value) if is_array else None
    return found


def _compare(found: Array, wanted: Array, case: Case) -> None:
    if found.dtype != wanted.dtype or found.shape != wanted.shape:
        raise AssertionError(f"{found.dtype}{found.shape}, not {wanted.dtype}{wanted.shape}")
    if found.dtype.kind in "bi":
        np.testing.assert_array_equal(found, wanted)
    else:
        room = max(case.rtol, ROUNDING.get(found.dtype.name, 0.0))
        a, b = found.astype(np.float64), wanted.astype(np.float64)
        np.testing.assert_allclose(a, b, rtol=room, atol=case.atol, equal_nan=True)


def report(results: Sequence[Result]) -> None:
    """Print passed / supported / total by operator, then each test that did not pass, and why.

    Supported are those that are not left out for an accepted reason.
    """
    by_op: defaultdict[str, list[Result]] = defaultdict(list)
    for result in results:
        by_op[result.op].append(result)
    print(f"{'operator':26} passed / supported / total")
    for op, found in sorted(by_op.items()):
        passed = sum(r.passed for r in found)
        left = sum(r.accepted for r in found)
        failed = len(found) - passed - left
        print(
            f"{op:26} {passed:6} / {len(found) - left:9} / {len(found):5}"
            + (f"  {failed} FAILED" if failed else "")
        )
    for result in results:
        if not result.passed:
            how = "left out" if result.accepted else "FAILED"
            print(f"{how} {result.name}: {result.kind}: {result.reason}")
    for how, number in Counter(r.kind for r in results if r.accepted).most_common():
        print(f"{number:5} left out: {how}")
    count = Counter(
        "passed" if r.passed else "left out" if r.accepted else "failed" for r in results
    )
    shown = ", ".join(f"{n} {what}" for what, n in sorted(count.items()))
    print(f"{len(by_op)} operators, {len(results)} tests: {shown}")


def share(passed: int, total: int) -> str:
    """What part of all node tests passes, operators without a rule counted."""
    return f"{passed} of all {total} node tests pass: {100 * passed / max(total, 1):.1f} %"


def _is_claimed(op: str) -> bool:
    """Whether the importer has a rule for `op`, or ONNX a definition by other operators."""
    return op in RULES or has_body(op, onnx.defs.onnx_opset_version())


def main(argv: list[str]) -> int:
    """Exit code 1 when a test fails without a reason that is accepted."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--op", help="only the tests of this operator")
    parser.add_argument("--run", choices=sorted(RUNNERS), default="reference")
    parser.add_argument("-o", "--output", type=Path, help="a JSON file for the results")
    args = parser.parse_args(argv)
    every = [c for c in collected() if args.op in (None, c.op)]
    cases = [c for c in every if _is_claimed(c.op)]
    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        results = [run(case, RUNNERS[args.run]) for case in cases]
    report(results)
    print(share(sum(r.passed for r in results), len(every)))
    if args.output is not None:
        args.output.write_text(dumps([asdict(r) for r in results]) + "\n", encoding="utf-8")
    return int(any(not r.passed and not r.accepted for r in results))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
