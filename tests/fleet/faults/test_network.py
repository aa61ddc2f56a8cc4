"""Links that are cut, in both directions or one, in a network namespace; machines without power."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from fault_process import QUICK_TIMEOUT_MS
from fault_tuner import Book, Tuning, devices_of, leases_of
from fleet_faults import Network, Site, port_of, until

from loopwright.fleet.client.api import Fleet
from loopwright.fleet.wire import peer

TRIALS = 8
TTL_S = 2.0
SILENT_S = 1.2


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Peers that are gone are noticed as soon here as in the fleet's processes."""
    monkeypatch.setattr(peer, "USER_TIMEOUT_MS", QUICK_TIMEOUT_MS)


def moved(records: Book, name: str) -> bool:
    """Whether the newest record came about on the device of another agent."""
    return devices_of(records.read()[-1:]) != [f"{name}/cpu0"]


def port_at(site: Site, name: str) -> int:
    """Where sessions with a device are opened."""
    return port_of(site.device(name).addresses[0])


@contextmanager
def works_on_and_expires(
    site: Site, network: Network, records: Book, cut_off: str
) -> Iterator[Fleet]:
    """A tuner whose lease expires as one side hears nothing of the tracker; its client.

    It works on until then. The block has the link still cut; then another lease does the rest.
    """
    with site.client() as fleet:
        with Tuning(fleet, "board=one", records, TRIALS, TTL_S) as tuning:
            tuning.wait()
            with network.cut(port_of(site.doors[cut_off])):
                tuning.work()
                lease = leases_of(records.read())[-1]
                assert site.ended([lease]) == ["expired"]
                yield fleet
        leases = leases_of(records.check(TRIALS))
        assert leases[-2] == lease
        assert site.ended(leases[-2:]) == ["expired", "released"]


@contextmanager
def one_lease(site: Site, records: Book) -> Iterator[tuple[Fleet, Tuning]]:
    """A client, and its tuner, which waits; both last, whatever the block does to their links."""
    with site.client() as fleet:
        with Tuning(fleet, "board=one", records, TRIALS) as tuning:
            tuning.wait()
            yield fleet, tuning
        leases = leases_of(records.check(TRIALS))
    assert len(leases) == 1
    assert site.ended(leases) == ["released"]


@contextmanager
def goes_elsewhere(site: Site, records: Book) -> Iterator[tuple[str, Tuning]]:
    """An agent and the tuner that waits on its device, which the block makes unreachable.

    The block lets it go on, and ends when it has got another device.
    """
    with site.client(silent_s=SILENT_S) as fleet:
        with Tuning(fleet, "kind=cpu", records, TRIALS) as tuning:
            yield devices_of(tuning.wait())[-1].partition("/")[0], tuning
        leases = leases_of(records.check(TRIALS))
        assert site.ended(leases[-2:]) == ["device-lost", "released"]


def test_a_client_that_is_cut_off_from_the_tracker_works_until_its_ttl_and_keeps_its_results(
    site: Site, network: Network, records: Book
) -> None:
    with works_on_and_expires(site, network, records, "client") as fleet:
        until(lambda: not fleet.aio._held, "its holder gives it up")


def test_a_lease_that_is_revoked_while_its_holder_is_cut_off_was_revoked_to_both(
    site: Site, network: Network
) -> None:
    with site.client() as fleet:
        with fleet.lease("board=one") as opened, fleet.lease("board=two") as unopened:
            session = opened.session()
            with network.cut(port_of(site.doors["client"])), site.owner() as owner:
                for lease in (opened, unopened):
                    owner.command("lease.revoke", lease=lease.id, why="needed elsewhere")
                until(lambda: session.aio.over, "its device ends the session")
                until(lambda: not opened.aio[0].alive, "and so the lease")
            until(lambda: not unopened.aio[0].alive, "the tracker says so when it is back")
        reasons = [lease.aio[0].reason.value for lease in (opened, unopened)]
    assert reasons == ["revoked", "revoked"]
    assert site.ended([opened.id, unopened.id]) == ["revoked", "revoked"]


def test_a_device_that_is_cut_off_from_the_tracker_ends_its_session_at_the_ttl(
    site: Site, network: Network, records: Book
) -> None:
    with works_on_and_expires(site, network, records, "one"):
        pass


@pytest.mark.parametrize("way", ["to the device", "to the client"])
def test_a_session_over_a_link_that_carries_one_way_alone_is_lost_and_its_work_goes_elsewhere(
    site: Site, network: Network, records: Book, way: str
) -> None:
    to = way == "to the client"  # what is dropped goes the other way
    with (
        goes_elsewhere(site, records) as (name, tuning),
        network.cut(port_at(site, name), to=to, back=not to),
    ):
        tuning.go_on()
        until(lambda: moved(records, name), "another device")
    site.await_agent(name)


def test_a_link_from_the_tracker_that_carries_nothing_is_noticed_and_made_anew(
    site: Site, network: Network, records: Book
) -> None:
    with one_lease(site, records) as (_, tuning):
        with network.cut(port_of(site.doors["one"]), to=False):
            until(lambda: '"no tracker"' in site.said("one"), "the agent notices")
        tuning.work()
        until(lambda: site.device("one").link == "up", "the agent is back")


def test_a_link_to_the_tracker_that_carries_nothing_is_noticed_and_what_was_asked_is_answered(
    site: Site, network: Network, records: Book
) -> None:
    with one_lease(site, records) as (fleet, _):
        with network.cut(port_of(site.doors["client"]), back=False):
            asked = fleet.thread.start(fleet.aio.devices("board=one"))
            until(lambda: not fleet.aio.control.connected, "the client notices")
            assert not asked.done()
        (view,) = asked.result(60.0)
        assert view.name == "one/cpu0"


def test_a_device_without_power_is_lost_and_its_work_goes_elsewhere(
    site: Site, network: Network, records: Book
) -> None:
    with (
        goes_elsewhere(site, records) as (name, tuning),
        network.cut(port_at(site, name), port_of(site.doors[name])),
    ):
        site.kill(site.agents[name])  # nothing that its kernel says gets out
        tuning.go_on()
        until(lambda: moved(records, name), "another device")
        until(lambda: site.device(name).link != "up", "the tracker notices")
        assert not site.device(name).grantable
