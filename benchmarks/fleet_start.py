"""How soon an agent is there: from the start of its process to its first word, and to the tracker.

    python benchmarks/fleet_start.py [--quick] [-o json]

`python -m loopwright.fleet.agent` is started again and again on a host that has joined, as after a
reboot. It `listens` when it says so on its standard output, and is `known` when the tracker has it
as connected, in the new incarnation. The very first start also finds out what machine this is,
with the compiler, in a process beside it. `loopwright device serve` reads its command line first
and then becomes an agent. Quoted are medians; the least and the most say what other load adds.
"""

from __future__ import annotations

import contextlib
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

import harness
from fleet_part import Part, Row, run_alone
from fleet_roles import real_fleet
from harness import figure, until_we_end
from loopwright.errors import InternalError
from loopwright.fleet.client.api import Fleet
from loopwright.outcome import cores_for

GOAL_MS = 300.0
NAME = "started"
AGENT = ("loopwright.fleet.agent",)
SERVE = ("loopwright.cli.main", "device", "serve")
_STARTS, _QUICK_STARTS = 25, 9
_LIMIT_S = 60.0
_LOOK_S = 0.001


class _Said(msgspec.Struct):
    """A line of an agent."""

    event: str
    incarnation: str


@dataclass(frozen=True, slots=True)
class Start:
    """Milliseconds from the start of one process."""

    listens: float
    known: float


@dataclass(frozen=True, slots=True)
class Host:
    """A host that a tracker knows, whose agent keeps in `folder` what it must not forget."""

    fleet: Fleet
    tracker: str
    folder: Path

    def start(self, module: Sequence[str] = AGENT, *options: str) -> Start:
        """How soon an agent is there; it is gone again when this returns.

        Raises: InternalError when it does not come up.
        """
        begin = time.perf_counter()
        with self._process(module, options) as process:
            if process.stdout is None:
                raise InternalError("the agent's output is not there")
            line = process.stdout.readline()
            listens = time.perf_counter()
            if not line:
                raise InternalError(self._log.read_text())
            said = msgspec.json.decode(line, type=_Said)
            while not self._knows(said.incarnation):
                if time.perf_counter() - begin > _LIMIT_S:
                    raise InternalError("the tracker does not hear of the agent")
                time.sleep(_LOOK_S)
            known = time.perf_counter()
        return Start((listens - begin) * 1e3, (known - begin) * 1e3)

    @property
    def _log(self) -> Path:
        return self.folder / "agent.log"

    @contextlib.contextmanager
    def _process(
        self, module: Sequence[str], options: Sequence[str]
    ) -> Iterator[subprocess.Popen[bytes]]:
        """An agent with one device, which ends with the block."""
        words = ["--tracker", self.tracker, "--name", NAME, "--device", f"cpu0={cores_for(1)[0]}"]
        words += ["--cache-dir", str(self.folder / "agent"), *options]
        command = [sys.executable, "-m", *module, *words]
        with self._log.open("ab") as log:
            made = subprocess.Popen(until_we_end(*command), stdout=subprocess.PIPE, stderr=log)
        with made:
            try:
                yield made
            finally:
                made.terminate()
                made.wait(_LIMIT_S)

    def _knows(self, incarnation: str) -> bool:
        found = self.fleet.devices(f"name={NAME}/cpu0")
        return any(one.link == "up" and one.incarnation == incarnation for one in found)


def measure(quick: bool) -> Part:  # noqa: FBT001  # as all parts of fleet.py
    """Starts on a host that is new, and on one that is not."""
    harness.progress("an agent is started, again and again")
    with tempfile.TemporaryDirectory(prefix="lw-") as name:
        folder = Path(name)
        with real_fleet(folder, ()) as (fleet, address):
            made = fleet.command("join.issue", agent=NAME)
            code = str(made["code"]) if isinstance(made, dict) else ""
            host = Host(fleet, address, folder)
            first = host.start(AGENT, "--join", code)
            count = range(_QUICK_STARTS if quick else _STARTS)
            starts = [host.start() for _ in count]
            served = [host.start(SERVE).listens for _ in count]
    listens = [one.listens for one in starts]
    known = [one.known for one in starts]
    return Part(
        (
            figure("agent start, listens", statistics.median(listens), "ms", at_most=GOAL_MS),
            figure("agent start, known", statistics.median(known), "ms", at_most=GOAL_MS),
        ),
        (
            Row("agent start, listens, least", min(listens), "ms"),
            Row("agent start, listens, most", max(listens), "ms"),
            Row("agent start, known, least", min(known), "ms"),
            Row("agent start, known, most", max(known), "ms"),
            Row("loopwright device serve, listens", statistics.median(served), "ms"),
            Row("agent start on a new host, listens", first.listens, "ms"),
            Row("agent start on a new host, known", first.known, "ms"),
        ),
    )


if __name__ == "__main__":
    sys.exit(harness.run(lambda words: run_alone("fleet_start", __doc__, measure, words)))
