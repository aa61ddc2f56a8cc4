"""Simulated steps of a fleet around the LeaseBook, all rules checked, and what an event costs.

    python benchmarks/fleet_simulation.py [--steps 10000000] [--seeds 1000] [--first 0] [-o json]

Each seed is a fleet of another size and luck: messages lost, doubled and reordered, partitions,
processes killed, paused and started again, rows of the store lost, a full disk. The checker reads
the devices' own log. Then books of 10 to 10,000 devices, with up to 10,000 requests that wait, are
timed. It exits with 1 when a rule was broken; the seed says how to see it again.
"""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass

import harness
from fleet_part import Part
from fleet_part import Row as Line
from harness import Figure, figure
from loopwright.fleet.sim import load as sim_load
from loopwright.fleet.sim.load import LoadFigures
from loopwright.fleet.sim.simulate import simulate, variant
from loopwright.fleet.words import EndReason


@dataclass(frozen=True, slots=True)
class Row:
    """All seeds together. `first_violations` has those of the first seed that broke a rule."""

    steps: int
    seeds: int
    steps_per_s: float
    simulated_s: float
    checks: int
    sessions: int
    grants: int
    ended: dict[str, int]
    faults: dict[str, int]
    violations: int
    broken_seeds: tuple[int, ...]
    first_violations: tuple[str, ...]
    loads: tuple[LoadFigures, ...]


def simulate_all(steps: int, seeds: int, first: int) -> Row:
    """Run each seed for its share of the steps."""
    share = max(1, steps // seeds)
    done = checks = sessions = grants = violations = 0
    simulated_s = 0.0
    ended: Counter[EndReason] = Counter()
    faults: Counter[str] = Counter()
    broken: list[int] = []
    shown: tuple[str, ...] = ()
    begin = time.perf_counter()
    for number in range(seeds):
        seed = first + number
        outcome = simulate(seed, share, variant(seed))
        done += outcome.steps
        checks += outcome.checks
        sessions += outcome.sessions
        grants += outcome.granted
        simulated_s += outcome.simulated_s
        ended.update(outcome.ended)
        faults.update(outcome.faults)
        violations += len(outcome.violations)
        if outcome.violations:
            broken.append(seed)
            shown = shown or outcome.violations
        if number % 100 == 99:
            harness.progress(f"{number + 1} of {seeds} seeds, {done:,} steps")
    spent = time.perf_counter() - begin
    return Row(
        done,
        seeds,
        done / spent,
        simulated_s,
        checks,
        sessions,
        grants,
        {reason.value: count for reason, count in ended.items()},
        dict(sorted(faults.items())),
        violations,
        tuple(broken),
        shown,
        sim_load.measure(),
    )


def figures_of(row: Row, steps: int) -> tuple[Figure, ...]:
    """What of it has a goal, and how fast it was."""
    slowest = max(load.us_per_event for load in row.loads)
    rate = min(load.events_per_s for load in row.loads)
    return (
        figure("simulated steps", row.steps, at_least=float(steps)),
        figure("rules broken in them", row.violations, at_most=0),
        figure("seeds", row.seeds),
        figure("steps per second", row.steps_per_s, "1/s"),
        figure("events of the book per second", rate, "1/s", at_least=3e4),
        figure(
            "cost of an event, 10,000 to 10 devices",
            slowest / row.loads[0].us_per_event,
            at_most=2.0,
        ),
    )


def measure(quick: bool) -> Part:  # noqa: FBT001  # as all parts of fleet.py
    """The steps, and whether a rule was broken."""
    steps, seeds = (200_000, 20) if quick else (10_000_000, 1_000)
    harness.progress(f"{steps:,} simulated steps")
    row = simulate_all(steps, seeds, 0)
    loads = [
        Line(f"an event, {load.devices:,} devices, {load.waiting:,} wait", load.us_per_event, "us")
        for load in row.loads
    ]
    lines = (
        Line("sessions", row.sessions),
        Line("simulated hours", row.simulated_s / 3600),
        *loads,
    )
    return Part(figures_of(row, steps), lines, said(row))


def said(row: Row) -> tuple[str, ...]:
    """What rules the first seed broke that broke any."""
    return tuple(f"seed {row.broken_seeds[0]}: {text}" for text in row.first_violations)


def main(arguments: list[str]) -> int:
    """Run the command."""
    options = harness.parser(__doc__)
    options.add_argument("--steps", type=int, default=10_000_000, help="of all seeds together")
    options.add_argument("--seeds", type=int, default=1_000)
    options.add_argument("--first", type=int, default=0, help="the first seed")
    given = options.parse_args(arguments)
    row = simulate_all(given.steps, given.seeds, given.first)
    shown = harness.rows_table(
        (">devices", ">waiting", ">us an event", ">events/s"),
        [
            (
                f"{load.devices:,}",
                f"{load.waiting:,}",
                f"{load.us_per_event:.1f}",
                f"{load.events_per_s:,.0f}",
            )
            for load in row.loads
        ],
        title=f"{row.sessions:,} sessions, {row.simulated_s / 3600:.0f} h simulated",
    )
    result = harness.report(
        "fleet_simulation", harness.describe(), figures_of(row, given.steps), (row,)
    )
    harness.emit(result, shown, given.output)
    for text in said(row):
        harness.progress(text)
    return 1 if row.violations else 0


if __name__ == "__main__":
    raise SystemExit(harness.run(main))
