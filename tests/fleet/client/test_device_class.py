"""Which devices a selector means, seen by a client: also just after the tracker was started."""

from __future__ import annotations

import pytest
from fleet_lab import Lab, well

from loopwright.errors import NoDeviceError
from loopwright.fleet.client.runner import device_class


def test_devices_that_a_tracker_had_before_it_was_started_are_waited_for(lab: Lab) -> None:
    lab.agent("h0", well, devices=2)
    fleet = lab.client()
    lab.run(lab.leave("h0"))
    lab.run(lab.end())
    lab.run(lab.begin())
    waits: list[float] = []

    def comes_back(left_s: float) -> None:
        waits.append(left_s)
        lab.agent("h0", well, devices=2)

    found = device_class(fleet, "board=sim", on_wait=comes_back)
    assert found.names == ("h0/0", "h0/1")
    assert len(waits) == 1
    assert 0.0 < waits[0] <= 15.0


def test_nobody_is_waited_for_where_all_are_there(lab: Lab) -> None:
    lab.agent("h0", well)
    fleet = lab.client()

    def waits(left_s: float) -> None:
        pytest.fail(f"waits {left_s} s")

    assert device_class(fleet, "board=sim", on_wait=waits).names == ("h0/0",)
    with pytest.raises(NoDeviceError, match="kind is simulated"):
        device_class(fleet, "kind=cpu", on_wait=waits)
