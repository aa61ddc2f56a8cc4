"""How exact kernels are: each by itself, against what its expression means in float64."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from loopwright.build.compile import kernel_name
from loopwright.codegen.artifact import Artifact
from loopwright.deploy.choose import COPY
from loopwright.graph.layouts import Chosen
from loopwright.layout import Array
from loopwright.runtime.cpu.kernel import CpuDevice
from loopwright.sandbox.inputs import generate
from loopwright.te.reference import evaluate, scale_error

_SEED = 0


@dataclass(slots=True)
class Errors:
    """The errors of kernels, each measured once; `built` has their object code by kernel name."""

    built: Mapping[str, Artifact]
    _known: dict[str, float] = field(default_factory=dict)

    def of(self, choices: Mapping[str, Chosen]) -> dict[str, float]:
        """The largest difference of an output from float64, as a share of its scale, by the names
        of `choices`.

        Left out are copies, which are exact, and kernels with inputs or outputs that are not
        floats: seeded indices would not be valid.
        """
        kernels = {
            name: kernel_name(chosen.task, chosen.config)
            for name, chosen in choices.items()
            if _is_inexact(chosen)
        }
        missing = {
            kernel: choices[name]
            for name, kernel in kernels.items()
            if kernel not in self._known and kernel in self.built
        }
        if missing:
            threads = next(iter(missing.values())).task.threads
            with CpuDevice(threads) as device:
                for kernel, chosen in missing.items():
                    self._known[kernel] = _error(device, chosen, self.built[kernel])
        return {n: self._known[kernel] for n, kernel in kernels.items() if kernel in self._known}


def _is_inexact(chosen: Chosen) -> bool:
    return chosen.origin != COPY and all(t.dtype.is_float for t in chosen.task.workload.args)


def _error(device: CpuDevice, chosen: Chosen, artifact: Artifact) -> float:
    """The error of one kernel on seeded inputs."""
    workload = chosen.task.workload
    inputs = [
        generate(tensor.dtype.name, tensor.shape, _SEED, place).view(tensor.dtype.numpy)
        for place, tensor in enumerate(workload.inputs)
    ]
    module = device.module(artifact)
    packed = [module.pack(p, a) for p, a in zip(module.inputs, inputs, strict=True)]
    results = module.empty_outputs()
    places = [param.name for param in artifact.params]
    for source, output in chosen.task.in_place:
        results[places.index(output) - len(packed)][...] = packed[places.index(source)]
    module.call(*packed, *results)
    found = [p.layout.unpack(r, p.shape) for p, r in zip(module.outputs, results, strict=True)]
    expected = evaluate(workload, inputs)
    return max((_off(a, b) for a, b in zip(found, expected, strict=True)), default=0.0)


def _off(found: Array, expected: Array) -> float:
    """As `scale_error`, where both agree on what is not finite: roots of negative numbers."""
    a, b = (x.astype(np.float64) for x in (found, expected))
    finite = np.isfinite(b)
    if not np.array_equal(a[~finite], b[~finite], equal_nan=True):
        return float("inf")
    return scale_error(a[finite], b[finite])
