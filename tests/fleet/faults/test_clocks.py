"""Wall clocks that jump, of the tracker and of the agents; there is no other clock in a lease."""

from __future__ import annotations

import ast
import functools
import time
from pathlib import Path

import pytest
from fault_tuner import Book, Tuning, leases_of
from fleet_faults import Site, until

from loopwright.fleet import words
from loopwright.fleet.client.api import Fleet

TRIALS = 8
DAY_S = 86_400.0
FLEET = Path(words.__file__).parent
_WALL = {"time.time", "time.time_ns", "time.gmtime", "time.localtime", "datetime.now"}


def test_clocks_that_jump_by_days_end_no_lease(site: Site, records: Book) -> None:
    with site.client() as fleet, site.owner() as owner:
        with Tuning(fleet, "board=one", records, TRIALS) as tuning:
            tuning.wait()
            for jump_s in (DAY_S, -2 * DAY_S):
                site.wall.write_text(str(jump_s))
                owner.command("token.issue", name="somebody")
                until(functools.partial(issued_about, owner, time.time() + jump_s), "the jump")
                tuning.work()
        leases = leases_of(records.check(TRIALS))
    assert len(leases) == 1
    assert site.ended(leases) == ["released"]


def issued_about(owner: Fleet, at: float) -> bool:
    """Whether the newest token was issued about then, by the tracker's own clock."""
    times = [event.at for event in owner.events() if event.what == "token.issue"]
    return bool(times) and abs(times[-1] - at) < DAY_S / 2


def wall_clocks(source: str) -> set[str]:
    """The wall clocks that a module reads or hands on."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            found.add(f"{node.value.id}.{node.attr}")
    return found & _WALL


@pytest.mark.parametrize("part", ["agent", "book", "client", "wire"])
def test_no_wall_clock_is_read_where_leases_are_kept(part: str) -> None:
    modules = sorted((FLEET / part).glob("*.py"))
    assert len(modules) > 3
    assert {m.name: found for m in modules if (found := wall_clocks(m.read_text()))} == {}


def test_a_wall_clock_would_be_found() -> None:
    assert wall_clocks((FLEET / "tracker" / "server.py").read_text()) == {"time.time"}
