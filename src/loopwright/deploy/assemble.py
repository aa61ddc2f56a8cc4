"""From placed kernels to a model: object code, packed constants, the plan, the manifest."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeAlias

import numpy as np

from loopwright.codegen.artifact import Artifact, Param
from loopwright.codegen.llvm.driver import ArgumentAddress, Base, KernelInvocation, driver_text
from loopwright.graph.fuse import Fused
from loopwright.graph.in_place import overwritable
from loopwright.graph.ir import Array, Value
from loopwright.graph.layouts import Chosen, Placed, alignment
from loopwright.graph.plan import PlannedCall, Slot, SlotKind, plan
from loopwright.runtime.cpu.kernel import ALIGNMENT, aligned_empty
from loopwright.runtime.cpu.model import CONSTANTS, DRIVER, RUNTIME
from loopwright.runtime.model_file import Bytes, CallInfo, Manifest, Port
from loopwright.target.cpu import CpuTarget

CompileAll: TypeAlias = Callable[[Sequence[Chosen]], Sequence[Artifact]]
"""Object code for each choice, in order."""
CompileText: TypeAlias = Callable[[str], bytes]
"""Object code for the text of the driver."""


@dataclass(frozen=True, slots=True)
class Assembled:
    """A model as it goes into a file: the manifest, and sections by name.

    `choices` says how each call is computed, by name.
    """

    manifest: Manifest
    sections: Mapping[str, Bytes]
    choices: Mapping[str, Chosen]


def assemble(
    fused: Fused,
    placed: Placed,
    target: CpuTarget,
    threads: int,
    compile_all: CompileAll,
    compile_text: CompileText,
    *,
    runtime: bytes,
    software: str,
    device: str,
) -> Assembled:
    """The model that computes `placed`; `runtime` is the object of the thread pool."""
    planned = plan(placed, alignment(target), functools.cache(overwritable))
    chosen = [_in_place(call) for call in planned.calls]
    artifacts = compile_all(chosen)
    constants = _Constants()
    calls = [
        KernelInvocation(artifact.entry, _addresses(fused, placed, call, artifact, constants))
        for call, artifact in zip(planned.calls, artifacts, strict=True)
    ]
    sections: dict[str, Bytes] = {artifact.entry: artifact.code for artifact in artifacts}
    sections[RUNTIME] = runtime
    sections[DRIVER] = compile_text(driver_text(calls, target.triple))
    sections[CONSTANTS] = constants.blob()
    graph = fused.graph
    infos = [_info(call, artifact) for call, artifact in zip(planned.calls, artifacts, strict=True)]
    manifest = Manifest(
        name=graph.name,
        software=software,
        target=target.key,
        target_name=target.name,
        device=device,
        threads=threads,
        inputs=tuple(_port(name, graph.values[name]) for name in graph.inputs),
        outputs=tuple(_port(name, graph.values[name]) for name in graph.outputs),
        calls=tuple(infos),
        memory=planned.nbytes,
        memory_sum=planned.sum_bytes,
        workspace_shared=_workspace(artifacts)[0],
        workspace_per_thread=_workspace(artifacts)[1],
        notes={},
        requires=tuple(sorted({name for artifact in artifacts for name in artifact.requires})),
    )
    choices = {call.call.name: way for call, way in zip(planned.calls, chosen, strict=True)}
    return Assembled(manifest, sections, choices)


def _in_place(planned: PlannedCall) -> Chosen:
    """How a call is computed, with the input that its output is written over."""
    chosen = planned.call.chosen
    workload = chosen.task.workload
    pairs: tuple[tuple[str, str], ...] = ()
    if planned.over is not None:
        pairs = ((workload.inputs[planned.over].name, workload.outputs[0].name),)
    if pairs == chosen.task.in_place:
        return chosen
    return replace(chosen, task=replace(chosen.task, in_place=pairs))


def _workspace(artifacts: Sequence[Artifact]) -> tuple[int, int]:
    """Bytes that any kernel needs besides its arguments: shared, and for each thread.

    A kernel's part for a thread begins behind its own shared part, so the largest of each do for
    all.
    """
    shared = max((a.workspace_shared for a in artifacts), default=0)
    each = max((a.workspace_per_thread for a in artifacts), default=0)
    return shared, each


def _port(name: str, value: Value) -> Port:
    return Port(name, value.shape, value.dtype.name)


def _info(planned: PlannedCall, artifact: Artifact) -> CallInfo:
    call = planned.call
    chosen = call.chosen
    return CallInfo(
        name=call.name,
        nodes=call.nodes,
        operator=chosen.task.operator,
        task=chosen.task.name,
        template=chosen.task.template.name,
        config=str(chosen.config),
        origin=chosen.origin,
        flops=chosen.task.flops,
        nbytes=sum(param.nbytes for param in artifact.params),
        section=artifact.entry,
        expected_ns=chosen.expected_ns,
        device=chosen.device,
    )


def _addresses(
    fused: Fused, placed: Placed, planned: PlannedCall, artifact: Artifact, constants: _Constants
) -> tuple[ArgumentAddress, ...]:
    call = planned.call
    names = (*call.inputs, *call.outputs)
    found = []
    for name, slot, param in zip(names, planned.arguments, artifact.params, strict=True):
        if slot.kind is SlotKind.CONSTANT:
            found.append(
                ArgumentAddress(Base.CONSTANTS, constants.place(param, fused.constants[name]))
            )
        else:
            found.append(_address(slot, len(placed.inputs)))
    return tuple(found)


def _address(slot: Slot, inputs: int) -> ArgumentAddress:
    match slot.kind:
        case SlotKind.INPUT:
            return ArgumentAddress(Base.IO, slot.offset, slot.index)
        case SlotKind.OUTPUT:
            return ArgumentAddress(Base.IO, slot.offset, inputs + slot.index)
        case _:
            return ArgumentAddress(Base.MEMORY, slot.offset)


@dataclass(slots=True)
class _Constants:
    """The constants of a model, packed as kernels want them, each once."""

    offsets: dict[str, int] = field(default_factory=dict)
    pieces: list[tuple[int, Array]] = field(default_factory=list)
    nbytes: int = 0

    def place(self, param: Param, array: Array) -> int:
        """Bytes into the constants where `array` lies as `param` wants it."""
        packed = param.pack(array)
        memory = packed.reshape(-1).view(np.uint8)
        key = hashlib.sha256(memory.data).hexdigest()
        if key not in self.offsets:
            self.offsets[key] = self.nbytes
            self.pieces.append((self.nbytes, memory))
            self.nbytes += -(-memory.nbytes // ALIGNMENT) * ALIGNMENT
        return self.offsets[key]

    def blob(self) -> memoryview:
        """All of them, at an address that kernels may use."""
        found = aligned_empty((self.nbytes,), np.uint8)
        for offset, memory in self.pieces:
            end = offset + memory.nbytes
            found[offset:end] = memory
            found[end : -(-end // ALIGNMENT) * ALIGNMENT] = 0
        return found.data
