"""Faults at random: what is killed or stopped, when, and what it is checked by afterwards.

Two tuners in processes of their own measure on any device. A tuner that is done starts anew with
new records, one that was killed goes on with those it has, as a user would. The next fault comes
when all that was in flight is recorded: nothing is hit twice by chance, which would be taken for
its own fault.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from agents import processes_below
from fault_tuner import Book, devices_of, leases_of
from fleet_faults import NAMES, Site, sessions_of, until

from loopwright.outcome import Timed
from loopwright.records.record import Record

TRIALS = 50
TTL_S, SILENT_S = 1.5, 1.0
_IN_FLIGHT = 2
_AWAY = re.compile(r"^loopwright\S*\.(FleetError|LinkClosed): ", re.MULTILINE)
"""How a tuner ends that finds no tracker, or one that is stopped, or killed while it comes in."""


@dataclass
class Tuner:
    """A tuner, whichever process it is now, and all its records."""

    site: Site
    folder: Path
    books: list[Book] = field(default_factory=list)
    done: int = 0  # how many of the books are complete
    _process: subprocess.Popen[bytes] | None = None

    def look(self) -> None:
        """See to it that it runs. One that ended must have measured everything, once."""
        ended = self._process
        if ended is not None:
            if ended.poll() is None:
                return
            if ended.returncode == 0:
                self.books[-1].check(TRIALS)
                self.done += 1
            elif ended.returncode != -signal.SIGKILL:
                said = self.site.tuner_said(ended)  # the tracker was away when it began
                assert "await fleet.start()" in said, said
                assert _AWAY.search(said), said
        if self.done == len(self.books):
            folder = self.folder / str(self.done)
            folder.mkdir(parents=True)
            self.books.append(Book.at(folder))
        salt = 1 + int(self.folder.name) + 2 * self.done  # codes of its own
        orders = ("kind=cpu", self.books[-1], TRIALS, TTL_S, SILENT_S, salt)
        self._process = self.site.tuner(*orders)

    @property
    def process(self) -> subprocess.Popen[bytes]:
        """What it is now."""
        self.look()
        assert self._process is not None
        return self._process

    def records(self) -> list[Record]:
        """All that it has measured."""
        self.look()
        return [record for book in self.books for record in book.read()]

    def begun(self) -> tuple[int, int]:
        """Which of its books it is at, and how many trials of that may be hit.

        Those in flight, and as many that it begins before it hears of a fault.
        """
        self.look()
        trials = [record.trial for record in self.books[-1].read()]
        return len(self.books) - 1, min(TRIALS, max(trials, default=-1) + 1 + 2 * _IN_FLIGHT)

    def has(self, begun: tuple[int, int]) -> bool:
        """Whether all those are recorded."""
        book, trials = begun
        if self.done > book:
            return True
        return set(range(trials)) <= {record.trial for record in self.books[book].read()}

    def lease(self) -> str:
        """The lease that it measures under; empty before its first record."""
        self.look()
        return next(iter(reversed(leases_of(self.books[-1].read()))), "")

    def end(self) -> None:
        """End it. What it has recorded was measured, once; what is missing was in flight."""
        self.site.kill(self.process)
        found = self.books[-1].read()
        trials = Counter(record.trial for record in found)
        assert set(trials.values()) <= {1}, trials
        assert len(set(range(max(trials, default=-1))) - set(trials)) <= _IN_FLIGHT, trials
        failed = [r.outcome for r in found if not isinstance(r.outcome, Timed)]
        assert not failed, failed


class Monkey:
    """Does one fault after the other to `site`; `done` says which."""

    def __init__(self, site: Site, folder: Path, seed: int) -> None:
        self.done: list[str] = []
        self.tuners = tuple(Tuner(site, folder / str(n)) for n in range(2))
        self._site = site
        self._rng = np.random.default_rng(seed)
        self._faults: tuple[Callable[[], str], ...] = (
            self._kill_tracker,
            self._stop_tracker,
            self._kill_agent,
            self._stop_agent,
            self._kill_warden,
            self._kill_session,
            self._stop_session,
            self._kill_tuner,
            self._stop_tuner,
        )

    def play(self, rounds: int) -> None:
        """Do every fault in some order, and again, so many of them in all."""
        self._site.release_tuners()
        self._settle()
        order: list[int] = []
        for _ in range(rounds):
            if not order:
                order = self._rng.permutation(len(self._faults)).tolist()
            self.done.append(self._faults[order.pop()]())
            self._settle()
        for tuner in self.tuners:
            tuner.end()

    def _settle(self) -> None:
        """Wait until all that may have been hit is recorded, and then some: nothing hangs."""
        begun = [tuner.begun() for tuner in self.tuners]
        pairs = tuple(zip(self.tuners, begun, strict=True))
        self._until(lambda: all(t.has(b) for t, b in pairs), f"what was begun, {self.done[-1:]}")
        self._work()

    def _work(self) -> None:
        """Wait until somebody has recorded more."""
        wanted = self._recorded() + _IN_FLIGHT
        self._until(lambda: self._recorded() >= wanted, "further records")

    def _recorded(self) -> int:
        """How many records there are."""
        return sum(len(tuner.records()) for tuner in self.tuners)

    def _until(self, condition: Callable[[], object], what: str) -> None:
        """Wait for a condition, while the tuners are seen to."""

        def seen() -> object:
            for tuner in self.tuners:
                tuner.look()
            return condition()

        until(seen, what)

    def _agent(self) -> str:
        return NAMES[int(self._rng.integers(len(NAMES)))]

    def _tuner(self) -> int:
        return int(self._rng.integers(len(self.tuners)))

    @contextmanager
    def _stopped(self, pid: int) -> Iterator[None]:
        os.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            with contextlib.suppress(
                ProcessLookupError
            ):  # a stopped process may have been replaced
                os.kill(pid, signal.SIGCONT)

    # --- faults: what was done ---

    def _kill_tracker(self) -> str:
        self._site.kill_tracker()
        self._site.start_tracker()
        return "kill tracker"

    def _stop_tracker(self) -> str:
        assert self._site.tracker is not None
        # Whoever has no lease just now gets none, and those there are run out.
        over = time.monotonic() + TTL_S
        before = self._recorded()
        with self._stopped(self._site.tracker.pid):
            self._until(
                lambda: self._recorded() >= before + _IN_FLIGHT or time.monotonic() > over,
                "records, or the end of the leases",
            )
        return "stop tracker"

    def _kill_agent(self) -> str:
        name = self._agent()
        self._site.kill(self._site.agents[name])
        self._site.restart_agent(name)
        return f"kill agent {name}"

    def _stop_agent(self) -> str:
        name = self._agent()
        self._until(lambda: self._site.device(name).link == "up", "the agent is back")
        with self._stopped(self._site.agents[name].pid):
            self._until(lambda: self._site.device(name).link != "up", "the tracker notices")
        return f"stop agent {name}"

    def _kill_warden(self) -> str:
        name = self._agent()
        agent = self._site.agents[name].pid
        self._until(lambda: len(processes_below(agent)) > 1, "a warden")
        os.kill(processes_below(agent)[1], signal.SIGKILL)
        return f"kill warden {name}"

    def _session(self) -> tuple[str, int]:
        """A process that measures; there is one soon, as there are as many tuners as devices."""
        name = self._agent()
        agent = self._site.agents[name]
        self._until(lambda: sessions_of(agent), "a session")
        return name, sessions_of(agent)[0]

    def _kill_session(self) -> str:
        name, pid = self._session()
        os.kill(pid, signal.SIGKILL)
        return f"kill session {name}"

    def _stop_session(self) -> str:
        name, pid = self._session()
        with self._stopped(pid):
            self._work()
        return f"stop session {name}"

    def _kill_tuner(self) -> str:
        number = self._tuner()
        self._site.kill(self.tuners[number].process)
        return f"kill tuner {number}"

    def _stop_tuner(self) -> str:
        number = self._tuner()
        tuner = self.tuners[number]
        self._until(tuner.lease, "a record")
        with self._stopped(tuner.process.pid):
            self._until(lambda: tuner.lease() not in self._site.live(), "the end of its lease")
        return f"stop tuner {number}"


def grants_of(records: list[Record]) -> set[tuple[str, int, str]]:
    """Device, epoch and lease of all that records came about under."""
    return {
        (devices_of([record])[0], record.provenance.epoch, leases_of([record])[0])
        for record in records
        if record.provenance is not None
    }
