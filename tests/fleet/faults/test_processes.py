"""`kill -9` and SIGSTOP of each process of a fleet, while a tuner measures on it.

Each test ends with the same two questions: is every trial recorded once, and does every lease that
took part have one reason to have ended, the right one?
"""

from __future__ import annotations

import signal
import time

from fault_tuner import SOME, Book, Tuning, devices_of, leases_of
from fleet_faults import Site, kill_session_of, sessions_of, until

TRIALS = 8
TTL_S = 2.0
SILENT_S = 1.2


def test_a_session_process_that_is_killed_costs_the_item_in_flight_which_is_run_again(
    site: Site, records: Book
) -> None:
    with site.client() as fleet:
        with Tuning(fleet, "board=one", records, TRIALS) as tuning:
            tuning.wait()
            kill_session_of(site.agents["one"])
        leases = leases_of(records.check(TRIALS))
    assert len(leases) == 1
    assert site.ended(leases) == ["released"]


def test_an_agent_that_is_killed_takes_its_sessions_along_and_is_leased_anew(
    site: Site, records: Book
) -> None:
    before = site.device("one").incarnation
    with site.client() as fleet:
        with Tuning(fleet, "board=one", records, TRIALS) as tuning:
            tuning.wait()
            below = sessions_of(site.agents["one"])
            site.kill(site.agents["one"])
            until(lambda: not any(map(is_there, below)), "the end of its sessions")
            site.restart_agent("one")
        first, second = leases_of(records.check(TRIALS))
    assert site.device("one").incarnation != before
    assert site.ended([first, second]) == ["device-lost", "released"]


def test_an_agent_that_is_stopped_is_lost_and_its_work_goes_elsewhere(
    site: Site, records: Book
) -> None:
    with site.client(silent_s=SILENT_S) as fleet:
        with Tuning(fleet, "kind=cpu", records, TRIALS) as tuning:
            first = devices_of(tuning.wait())[-1]
            name = first.partition("/")[0]
            agent = site.agents[name]
            agent.send_signal(signal.SIGSTOP)
        found = records.check(TRIALS)
        assert devices_of(found)[-1] != first
        assert site.ended(leases_of(found)[-2:]) == ["device-lost", "released"]
    agent.send_signal(signal.SIGCONT)
    site.await_agent(name)
    until(lambda: not sessions_of(agent), "the end of the session of before")


def test_a_client_that_is_killed_frees_its_device_at_once_and_goes_on_when_it_is_back(
    site: Site, records: Book
) -> None:
    tuner = site.tuner("board=one", records, TRIALS, ttl_s=3600.0)
    records.wait_for(SOME)
    site.kill(tuner)
    kept = records.read()
    lease = leases_of(kept)[-1]
    until(lambda: not sessions_of(site.agents["one"]), "the end of its session")
    assert site.ended([lease]) == ["client-lost"]
    until(lambda: site.device("one").grantable, "the device")
    with site.client() as fleet, Tuning(fleet, "board=one", records, TRIALS):
        pass
    found = records.check(TRIALS)
    assert found[: len(kept)] == kept
    assert site.ended(leases_of(found)[-2:]) == ["client-lost", "released"]


def test_a_client_that_slept_past_its_ttl_has_lost_its_session_and_takes_nothing_from_others(
    site: Site, records: Book
) -> None:
    tuner = site.tuner("board=one", records, TRIALS, ttl_s=TTL_S)
    records.wait_for(SOME)
    tuner.send_signal(signal.SIGSTOP)
    before = records.read()
    lease = leases_of(before)[-1]
    assert site.ended([lease]) == ["expired"]
    with site.client() as fleet, fleet.lease("board=one") as other, other.session() as session:
        tuner.send_signal(signal.SIGCONT)
        site.release_tuners()
        until(lambda: any(view.state == "queued" for view in fleet.leases()), "a new request")
        other.check()
        assert session.upload([b"it is still there"]) > 0
    assert tuner.wait(60.0) == 0
    found = records.check(TRIALS)
    old = [r for r in found[len(before) :] if leases_of([r]) == [lease]]
    assert len(old) <= 2  # results that had come before it slept, at most as many as in flight
    assert site.ended(leases_of(found)[-2:]) == ["expired", "released"]


def test_a_client_that_slept_for_less_than_its_ttl_takes_its_own_silence_for_no_other(
    site: Site, records: Book
) -> None:
    tuner = site.tuner("board=one", records, TRIALS, ttl_s=30.0, silent_s=SILENT_S)
    records.wait_for(SOME)
    tuner.send_signal(signal.SIGSTOP)
    end = time.monotonic() + 1.5 * SILENT_S
    until(lambda: time.monotonic() > end, "a while")
    tuner.send_signal(signal.SIGCONT)
    site.release_tuners()
    assert tuner.wait(60.0) == 0
    leases = leases_of(records.check(TRIALS))
    assert len(leases) == 1
    assert site.ended(leases) == ["released"]


def test_a_tracker_that_is_killed_stops_no_session(site: Site, records: Book) -> None:
    with site.client() as fleet:
        with Tuning(fleet, "board=one", records, TRIALS) as tuning:
            tuning.wait()
            site.kill_tracker()
            tuning.work()
            site.start_tracker()
            until(lambda: site.device("one").grantable or site.device("one").lease, "one is back")
        leases = leases_of(records.check(TRIALS))
        assert len(leases) == 1
        with fleet.lease("board=two", max_wait=60.0) as later:
            assert later.id not in leases
    assert site.ended([*leases, later.id]) == ["released", "released"]


def test_a_tracker_that_is_stopped_for_a_while_loses_nothing(site: Site, records: Book) -> None:
    assert site.tracker is not None
    with site.client() as fleet:
        with Tuning(fleet, "board=one", records, TRIALS) as tuning:
            tuning.wait()
            site.tracker.send_signal(signal.SIGSTOP)
            tuning.work()
            site.tracker.send_signal(signal.SIGCONT)
        leases = leases_of(records.check(TRIALS))
    assert len(leases) == 1
    assert site.ended(leases) == ["released"]


def test_of_two_agents_with_one_device_the_newer_has_it_and_the_older_stops(
    site: Site, records: Book
) -> None:
    older = site.agents["one"]
    with site.client() as fleet:
        with Tuning(fleet, "board=one", records, TRIALS) as tuning:
            tuning.wait()
            site.begin_agent("one")  # a copy, with the same key
            assert older.wait(60.0) == 69
        first, second = leases_of(records.check(TRIALS))
    assert site.ended([first, second]) == ["device-lost", "released"]
    assert site.agents["one"].poll() is None


def is_there(pid: int) -> bool:
    """Whether a process runs."""
    try:
        with open(f"/proc/{pid}/stat") as file:  # noqa: PTH123  # read at once, or gone
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
