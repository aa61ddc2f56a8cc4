"""Every fault that a fleet is made for, and the tests that do it to one.

A row is a fault as the design's table has it; a test is named by its file and its function. Rows
that need a whole fleet are tested in this folder; what one part alone can show is tested there.
"""

from __future__ import annotations

import ast
from collections.abc import Mapping
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parents[2]
HERE = "fleet/faults"
TABLE: Mapping[str, tuple[str, ...]] = {
    "candidate crashes, loops, runs out of memory, forks, floods stdout": (
        "fleet/agent/test_hostile.py::test_a_hostile_candidate_is_blamed_and_the_session_goes_on",
    ),
    "candidate kills two devices": (
        "fleet/client/test_leased_devices.py::"
        "test_a_candidate_that_takes_two_devices_with_it_is_to_blame_and_never_runs_again",
    ),
    "session process kill -9": (
        f"{HERE}/test_processes.py::"
        "test_a_session_process_that_is_killed_costs_the_item_in_flight_which_is_run_again",
        "fleet/agent/test_lifecycle.py::"
        "test_a_warden_that_is_killed_takes_its_session_along_and_is_replaced",
    ),
    "session process stopped": (
        "fleet/agent/test_lifecycle.py::test_a_measuring_process_that_is_stopped_is_replaced",
        "fleet/agent/test_lifecycle.py::"
        "test_a_stopped_session_is_killed_when_its_client_closes",
    ),
    "warden stopped": (
        f"{HERE}/test_devices.py::"
        "test_a_warden_that_is_stopped_is_ended_with_its_session_and_its_device_is_back",
        "fleet/agent/test_wardens.py::"
        "test_an_idle_warden_that_is_stopped_is_noticed_and_replaced",
        "fleet/agent/test_wardens.py::"
        "test_an_agent_can_be_closed_while_its_warden_is_stopped",
    ),
    "agent kill -9": (
        f"{HERE}/test_processes.py::"
        "test_an_agent_that_is_killed_takes_its_sessions_along_and_is_leased_anew",
        "fleet/agent/test_process.py::test_an_agent_that_is_killed_takes_everything_along",
        "fleet/agent/test_lifecycle.py::test_an_agent_that_starts_anew_is_another_incarnation",
    ),
    "agent stopped": (
        f"{HERE}/test_processes.py::"
        "test_an_agent_that_is_stopped_is_lost_and_its_work_goes_elsewhere",
        "fleet/agent/test_process.py::test_a_lease_ends_in_time_on_an_agent_that_is_stopped",
    ),
    "device power loss, kernel panic": (
        f"{HERE}/test_network.py::"
        "test_a_device_without_power_is_lost_and_its_work_goes_elsewhere",
        "fleet/book/test_devices.py::test_silence_makes_it_suspect_then_lost",
        "fleet/tracker/test_leases.py::test_a_lost_agent_ends_the_lease_and_tells_its_holder",
    ),
    "unkillable": (
        f"{HERE}/test_devices.py::"
        "test_a_session_that_cannot_be_killed_makes_its_device_bad_until_it_is_gone",
        "fleet/book/test_devices.py::test_one_that_takes_too_long_is_bad_until_it_is_clean",
        "fleet/agent/test_power.py::"
        "test_a_device_that_cannot_be_cleaned_gets_its_hook_and_a_probe",
    ),
    "client kill -9": (
        f"{HERE}/test_processes.py::"
        "test_a_client_that_is_killed_frees_its_device_at_once_and_goes_on_when_it_is_back",
    ),
    "client paused beyond its ttl": (
        f"{HERE}/test_processes.py::"
        "test_a_client_that_slept_past_its_ttl_has_lost_its_session_and_takes_nothing_from_others",
        f"{HERE}/test_processes.py::"
        "test_a_client_that_slept_for_less_than_its_ttl_takes_its_own_silence_for_no_other",
    ),
    "tracker kill -9": (
        f"{HERE}/test_processes.py::test_a_tracker_that_is_killed_stops_no_session",
        f"{HERE}/test_restarts.py::"
        "test_a_thousand_devices_are_granted_again_when_the_tracker_is_back",
        "fleet/tracker/test_serve.py::test_after_kill_9_leases_continue_and_epochs_grow",
    ),
    "tracker stopped": (
        f"{HERE}/test_processes.py::test_a_tracker_that_is_stopped_for_a_while_loses_nothing",
        "fleet/book/test_devices.py::test_after_a_pause_of_its_own_it_does_not_blame_agents",
    ),
    "tracker machine lost": (
        f"{HERE}/test_restarts.py::"
        "test_a_tracker_that_is_restored_from_a_backup_grants_higher_epochs_and_no_result_is_lost",
        f"{HERE}/test_restarts.py::test_each_lease_that_a_backup_or_a_device_has_ends_once",
        "fleet/tracker/test_serve.py::test_the_book_believes_the_device_more_than_the_store",
    ),
    "client and tracker apart": (
        f"{HERE}/test_network.py::test_a_client_that_is_cut_off_from_the_tracker_works_until_its_"
        "ttl_and_keeps_its_results",
        f"{HERE}/test_network.py::"
        "test_a_lease_that_is_revoked_while_its_holder_is_cut_off_was_revoked_to_both",
    ),
    "device and tracker apart": (
        f"{HERE}/test_network.py::"
        "test_a_device_that_is_cut_off_from_the_tracker_ends_its_session_at_the_ttl",
        "fleet/agent/test_lifecycle.py::test_a_session_ends_at_its_ttl_without_any_tracker",
    ),
    "one-way or half-open socket": (
        f"{HERE}/test_network.py::test_a_session_over_a_link_that_carries_one_way_alone_is_lost_"
        "and_its_work_goes_elsewhere",
        f"{HERE}/test_network.py::"
        "test_a_link_from_the_tracker_that_carries_nothing_is_noticed_and_made_anew",
        f"{HERE}/test_network.py::test_a_link_to_the_tracker_that_carries_nothing_is_noticed_and_"
        "what_was_asked_is_answered",
        "fleet/wire/test_link.py::"
        "test_tcp_links_notice_dead_peers_and_do_not_delay_small_messages",
    ),
    "network duplicates or reorders control messages": (
        "fleet/sim/test_simulation.py::test_a_million_steps_over_many_seeds_break_no_rule",
        "fleet/book/test_devices.py::test_those_out_of_order_or_doubled_are_ignored",
        "fleet/tracker/test_leases.py::test_releasing_twice_is_harmless",
    ),
    "clock jumps": (
        f"{HERE}/test_clocks.py::test_clocks_that_jump_by_days_end_no_lease",
        f"{HERE}/test_clocks.py::test_no_wall_clock_is_read_where_leases_are_kept",
    ),
    "disk full or fsync error on the tracker": (
        f"{HERE}/test_disk.py::"
        "test_a_full_disk_of_the_tracker_stops_grants_and_neither_renewals_nor_releases",
        f"{HERE}/test_disk.py::"
        "test_an_fsync_that_fails_stops_grants_until_the_store_was_opened_again",
        "fleet/store/test_sqlite.py::test_a_full_disk_refuses_commits_and_later_goes_on",
    ),
    "disk full on a device": (
        f"{HERE}/test_disk.py::"
        "test_a_full_disk_of_a_device_refuses_an_upload_and_the_session_goes_on",
        f"{HERE}/test_disk.py::test_a_full_disk_of_a_device_costs_the_uploads_that_nobody_uses",
        "fleet/agent/test_blobs.py::test_a_quota_full_of_what_is_used_refuses_the_next",
    ),
    "slow or hot device": (
        f"{HERE}/test_devices.py::"
        "test_a_device_that_slows_down_marks_its_results_and_cools_down",
        "fleet/client/test_leased_devices.py::"
        "test_what_is_nobodys_fault_is_run_once_more_elsewhere_and_blames_nobody",
        "fleet/client/test_leased_devices.py::"
        "test_what_ran_since_the_last_good_canary_is_doubted_once",
        "fleet/client/test_leased_devices.py::"
        "test_a_tuner_measures_again_what_a_device_said_that_turned_out_to_be_slow",
    ),
    "builder worker dies": (
        "build/test_executors.py::"
        "test_a_compiler_that_dies_is_the_candidates_failure_alone",
        "build/test_builders.py::test_a_killed_builder_is_replaced",
    ),
    "two agents with one device id": (
        f"{HERE}/test_processes.py::"
        "test_of_two_agents_with_one_device_the_newer_has_it_and_the_older_stops",
        "fleet/book/test_devices.py::test_after_three_turns_it_is_flagged",
    ),
    "version skew": (
        f"{HERE}/test_devices.py::"
        "test_an_agent_of_another_version_says_so_once_and_comes_back_when_one_was_updated",
        "fleet/tracker/test_who.py::test_versions_are_negotiated",
    ),
    "processes killed and stopped at random": (
        f"{HERE}/test_random_kills.py::"
        "test_random_kills_and_pauses_lose_no_record_and_no_device",
    ),
}  # fmt: skip


def functions(path: Path) -> set[str]:
    """The tests in a file, those in classes too."""
    tree = ast.parse(path.read_text())
    return {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}


@pytest.mark.parametrize("fault", TABLE)
def test_each_fault_has_its_tests(fault: str) -> None:
    assert TABLE[fault]
    for name in TABLE[fault]:
        file, _, function = name.partition("::")
        assert function in functions(TESTS / file), name


def test_each_test_of_this_folder_is_of_a_fault() -> None:
    named = {name for names in TABLE.values() for name in names}
    helpers = {"test_a_wall_clock_would_be_found"}  # of another test
    for path in Path(__file__).parent.glob("test_*.py"):
        tests = {name for name in functions(path) if name.startswith("test_")} - helpers
        if path != Path(__file__):
            assert tests, path
            assert {f"{HERE}/{path.name}::{name}" for name in tests} <= named
