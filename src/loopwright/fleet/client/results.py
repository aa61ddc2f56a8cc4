"""What comes back from a device, as measuring knows it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from loopwright.codegen.artifact import Artifact
from loopwright.errors import FleetError
from loopwright.fleet.client.lease import HeldLease
from loopwright.fleet.wire.messages import Result
from loopwright.fleet.words import KIND_OF, RunStatus
from loopwright.layout import Array
from loopwright.outcome import Failed, FailureStage, Provenance


@dataclass(frozen=True, slots=True)
class RemoteResult:
    """A result as it came, with the bytes of the outputs where they were wanted."""

    result: Result
    output: bytes = b""


def outputs_of(artifact: Artifact, data: bytes) -> tuple[Array, ...]:
    """The outputs in their memory layouts, which lie one after the other in `data`.

    Raises: FleetError when there are fewer bytes than that takes.
    """
    params = artifact.params[len(artifact.params) - artifact.n_outputs :]
    total = sum(param.nbytes for param in params)
    if len(data) != total:
        raise FleetError(f"outputs of {len(data)} bytes came, {total} were expected")
    arrays: list[Array] = []
    at = 0
    for param in params:
        piece = np.frombuffer(data, np.uint8, param.nbytes, at)
        arrays.append(piece.view(param.dtype.numpy).reshape(param.physical_shape))
        at += param.nbytes
    return tuple(arrays)


def provenance(lease: HeldLease, result: Result) -> Provenance:
    """The conditions of a result."""
    return Provenance(
        lease.device.name,
        lease.id,
        lease.grant.epoch,
        result.tier,
        result.temperature_c,
        result.drift,
    )


def failed_of(result: Result, status: RunStatus, where: Provenance | None) -> Failed:
    """The failure that a result of `status` stands for."""
    try:
        stage = FailureStage(result.stage)
    except ValueError:
        stage = FailureStage.RUN
    return Failed(stage, KIND_OF[status], one_line(result.detail) or status.value, where)


def status_of(result: Result) -> RunStatus:
    """The status of a result; INFRA for one that this side does not know."""
    try:
        return RunStatus(result.status)
    except ValueError:
        return RunStatus.INFRA


def one_line(text: str) -> str:
    """`text` with single spaces between its words."""
    return " ".join(text.split())
