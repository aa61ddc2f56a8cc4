"""How a kernel travels: what older and newer sides make of each other's calls."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from fleet_samples import ITEM

from loopwright.errors import ConfigError
from loopwright.fleet.words import KIND_OF, STATUS_OF, RunStatus
from loopwright.kernel_call import CPU, Form, KernelCall, Launch
from loopwright.outcome import FailureKind

OLD_FIELDS = KernelCall.__struct_fields__[:16]  # those of protocol 1
OldCall: Any = msgspec.defstruct("OldCall", OLD_FIELDS, array_like=True, frozen=True)
BUILDING = {
    *(FailureKind.ILLEGAL_SCHEDULE, FailureKind.TEMPLATE_ERROR, FailureKind.COMPILE_ERROR),
    *(FailureKind.COMPILER_CRASH, FailureKind.BUILD_TIMEOUT, FailureKind.BUILD_MEMORY),
}
GRID = msgspec.structs.replace(
    ITEM,
    kind="cuda",
    form=Form.BINARY.value,
    launches=(Launch("k", (4, 2, 1), (256, 1, 1), 49_152), Launch("k2", (1, 1, 1), (32, 1, 1))),
)


def test_a_call_of_an_older_side_is_object_code_for_a_cpu() -> None:
    fields = [getattr(ITEM, name) for name in OLD_FIELDS]
    call = msgspec.msgpack.decode(msgspec.msgpack.encode(fields), type=KernelCall)

    assert call == ITEM
    assert (call.kind, call.form, call.launches) == (CPU, "object", ())


def test_an_older_side_reads_what_it_knows_of_a_call() -> None:
    call = msgspec.msgpack.decode(msgspec.msgpack.encode(ITEM), type=OldCall)

    assert (call.id, call.entry, call.run_memory) == (ITEM.id, ITEM.entry, ITEM.run_memory)


def test_launches_travel() -> None:
    call = msgspec.msgpack.decode(msgspec.msgpack.encode(GRID), type=KernelCall)

    assert call == GRID
    assert call.loadable(b"cubin").launches == GRID.launches
    assert call.loadable(b"cubin").form is Form.BINARY


def test_a_form_that_is_not_known_is_one_line() -> None:
    newer = msgspec.structs.replace(ITEM, form="hologram")

    with pytest.raises(ConfigError, match=r"^code of form 'hologram' is not one of object, source"):
        newer.loadable(b"")


def test_each_failure_of_a_run_has_a_status_of_its_own() -> None:
    assert STATUS_OF.keys() == set(FailureKind) - BUILDING
    assert KIND_OF.keys() == set(RunStatus) - {RunStatus.OK}
    assert all(KIND_OF[status] is kind for kind, status in STATUS_OF.items())
