"""What a ticket may say, and what a device makes of it: each bound at both of its sides."""

from __future__ import annotations

import hmac

import msgspec
import pytest
from fleet_links import KEY, a_ticket, sealed

from loopwright.fleet.security.keys import derive
from loopwright.fleet.security.tickets import DeviceState, check_ticket, unseal
from loopwright.fleet.wire.faults import Denied, Fault

DAY_MS = 24 * 60 * 60 * 1000


def raw(body: bytes) -> bytes:
    return body + hmac.digest(derive(KEY, b"loopwright ticket"), body, "sha256")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *(
            (name, "x" * length)
            for name in ("lease", "device", "incarnation")
            for length in (1, 128)
        ),
        *(("tenant", "x" * length) for length in (0, 128)),
        *(("epoch", value) for value in (1, 2**63 - 1)),
        *(("ttl_ms", value) for value in (1, 7 * DAY_MS)),
        *(("caps", value) for value in ((), ("x",), ("x" * 128,) * 10, ("x",) * 16)),
    ],
)
def test_what_is_just_within_a_bound_is_a_ticket(field: str, value: object) -> None:
    assert unseal(sealed(**{field: value})[0], KEY) == a_ticket(**{field: value})


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *(
            (name, "x" * length)
            for name in ("lease", "device", "incarnation")
            for length in (0, 129)
        ),
        ("tenant", "x" * 129),
        *(("epoch", value) for value in (-1, 0, 2**63)),
        *(("ttl_ms", value) for value in (-1, 0, 7 * DAY_MS + 1)),
        *(("caps", value) for value in (("",), ("x" * 129,), ("x",) * 17)),
    ],
)
def test_what_is_just_beyond_a_bound_is_no_ticket(field: str, value: object) -> None:
    with pytest.raises(Denied, match="the ticket has a bad value") as caught:
        unseal(sealed(**{field: value})[0], KEY)
    assert caught.value.fault is Fault.BAD_TICKET


@pytest.mark.parametrize("length", [0, 1, 32, 33, 2049])
def test_bytes_of_no_possible_length_are_not_looked_into(length: int) -> None:
    with pytest.raises(Denied, match=f"{length} bytes cannot be a ticket"):
        unseal(bytes(length), KEY)


@pytest.mark.parametrize("length", [34, 2048])
def test_bytes_of_a_possible_length_are(length: int) -> None:
    with pytest.raises(Denied, match="not made with this agent's key"):
        unseal(bytes(length), KEY)


@pytest.mark.parametrize("version", [0, 2, 255])
def test_another_version_is_named(version: int) -> None:
    with pytest.raises(Denied, match=f"of version {version}, this agent knows 1"):
        unseal(raw(bytes((version,)) + sealed()[0][1:-32]), KEY)


def test_a_ticket_is_a_version_an_array_and_32_bytes() -> None:
    data = sealed()[0]
    assert data[0] == 1
    assert msgspec.msgpack.decode(data[1:-32]) == [
        *("lease-1", "host/cpu0", "boot-1", 5, "lab", [], 30_000)
    ]
    assert raw(data[:-32]) == data


def state(last_epoch: int, lease: str = "", *, expired: bool = False) -> DeviceState:
    return DeviceState("host/cpu0", "boot-1", last_epoch, lease, expired)


@pytest.mark.parametrize(
    ("known", "fault"),
    [
        (state(4), None),
        (state(4, "lease-0"), None),
        (state(4, "lease-1", expired=True), None),  # a higher epoch always opens
        (state(0), None),
        (state(5, "lease-1"), None),
        (state(5, "lease-1", expired=True), Fault.EXPIRED_TICKET),
        (state(5, "lease-0"), Fault.OTHER_LEASE),
        (state(5), Fault.OTHER_LEASE),
        (state(6, "lease-1"), Fault.OLD_EPOCH),
        (state(6), Fault.OLD_EPOCH),
        (DeviceState("host/cpu1", "boot-1", 4), Fault.OTHER_DEVICE),
        (DeviceState("host/cpu0", "boot-2", 4), Fault.OTHER_INCARNATION),
    ],
)
def test_a_device_opens_a_ticket_of_its_epoch_again_and_of_a_higher_one(
    known: DeviceState, fault: Fault | None
) -> None:
    if fault is None:
        check_ticket(a_ticket(), known)
        return
    with pytest.raises(Denied) as caught:
        check_ticket(a_ticket(), known)
    assert caught.value.fault is fault


def test_a_device_knows_of_no_lease_unless_told() -> None:
    assert DeviceState("host/cpu0", "boot-1", 4) == state(4)
