"""The oracle gate: checks a kernel's outputs against the tensor expression."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from loopwright.codegen.artifact import Artifact
from loopwright.layout import Array
from loopwright.outcome import Failed, FailureKind, FailureStage
from loopwright.sandbox.inputs import generate
from loopwright.te.reference import compare_scaled
from loopwright.te.workload import Workload

_KEPT_WORKLOADS = 4
_DETAIL = 300

Evaluate: TypeAlias = Callable[[Workload, Sequence[Array]], Sequence[Array]]
"""Plain outputs of a workload for plain inputs."""
Compare: TypeAlias = Callable[[Workload, Array, Array], str | None]
"""What is wrong with an output (actual, expected) and where it is worst; None if it is right."""


@dataclass(frozen=True, slots=True)
class Oracle:
    """How a workload is evaluated, and how outputs are compared."""

    evaluate: Evaluate
    compare: Compare


class Checker:
    """Compares outputs with the oracle, for the inputs that the measuring process makes of `seed`.

    Expected outputs are computed once and kept for the last few workloads. Thread-safe.
    """

    def __init__(self, oracle: Oracle, seed: int = 0) -> None:
        self.seed = seed
        self._oracle = oracle
        self._expected: OrderedDict[str, tuple[Array, ...]] = OrderedDict()
        self._lock = threading.Lock()

    def check(
        self,
        workload: Workload,
        artifact: Artifact,
        outputs: Sequence[Array],
        error: float | None = None,
    ) -> Failed | None:
        """None if `outputs`, in the artifact's layouts, are right; else WRONG_OUTPUT and why.

        Args:
            error: tolerance relative to the largest output, from the template; None: as the oracle
                compares.
        """
        params = artifact.params[len(artifact.params) - artifact.n_outputs :]
        for param, memory, expected in zip(params, outputs, self.expected(workload), strict=True):
            actual = param.layout.unpack(memory, param.shape)
            if error is None:
                reason = self._oracle.compare(workload, actual, expected)
            else:
                reason = compare_scaled(actual, expected, error)
            if reason is not None:
                detail = f"output {param.name}: {reason}"[:_DETAIL]
                return Failed(FailureStage.CHECK, FailureKind.WRONG_OUTPUT, detail)
        return None

    def expected(self, workload: Workload) -> tuple[Array, ...]:
        """The plain outputs expected for the inputs of `seed`."""
        with self._lock:
            found = self._expected.get(workload.key)
            if found is None:
                found = tuple(self._oracle.evaluate(workload, self.inputs(workload)))
                self._expected[workload.key] = found
            self._expected.move_to_end(workload.key)
            while len(self._expected) > _KEPT_WORKLOADS:
                self._expected.popitem(last=False)
            return found

    def inputs(self, workload: Workload) -> tuple[Array, ...]:
        """The plain inputs of `seed`, one per argument."""
        return tuple(
            generate(t.dtype.name, t.shape, self.seed, index).view(t.dtype.numpy)
            for index, t in enumerate(workload.inputs)
        )
