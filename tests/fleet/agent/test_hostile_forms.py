"""The hostile kernels in four forms: the host's native runtime or one that a client brought, the
agent of the superuser or of an ordinary user.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from hostile_agent import NOBODY, HostileAgent, hostile_agent, python_of

import hostile_kernels
from hostile_kernels import Hostile
from loopwright.fleet.words import RunStatus, Tier
from loopwright.runtime.cpu.native import object_code

KINDS = hostile_kernels.hostile()[1]
PROBES = hostile_kernels.probes("/victim", "/folder")
SHORT_MS = 250
HERE = os.getuid()

pytestmark = pytest.mark.skipif(
    platform.machine() != "x86_64", reason="numbers of system calls of x86-64"
)


@dataclass(frozen=True, slots=True)
class HostileForm:
    """Who the agent is, and whose native runtime calls the kernels."""

    superuser: bool
    brought: bool

    @property
    def user(self) -> int:
        if self.superuser:
            return 0
        return HERE or NOBODY

    @property
    def why_not(self) -> str | None:
        """Why this machine cannot run it."""
        if self.superuser and HERE != 0:
            return "needs to be the superuser"
        if python_of(self.user) is None:
            return "there is no Python that an ordinary user may run with these modules"
        return None

    def __str__(self) -> str:
        user = "root" if self.superuser else "user"
        return f"{user}-{'brought' if self.brought else 'own'}"


FORMS = [HostileForm(user, brought) for user in (True, False) for brought in (False, True)]


@pytest.fixture(scope="module", params=FORMS, ids=str)
def form(request: pytest.FixtureRequest) -> HostileForm:
    made = request.param
    assert isinstance(made, HostileForm)
    if made.why_not is not None:
        pytest.skip(made.why_not)
    return made


@pytest.fixture(scope="module")
def agent(form: HostileForm) -> Iterator[HostileAgent]:
    with hostile_agent(form.user, Tier.T1, brought=form.brought) as running:
        assert running.tier == Tier.T1
        yield running


@pytest.fixture(scope="module")
def hostile_code(machine_dir: Path) -> bytes:
    return object_code(hostile_kernels.hostile()[0], machine_dir)


@pytest.fixture(scope="module")
def somebodys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("somebody")
    folder.chmod(0o777)
    victim = folder / "victim"
    victim.write_text("precious")
    victim.chmod(0o666)
    return victim


@pytest.fixture(scope="module")
def probe_code(machine_dir: Path, somebodys: Path) -> bytes:
    made = hostile_kernels.probes(str(somebodys), str(somebodys.parent))
    return object_code(hostile_kernels.probe_text(made), machine_dir)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_no_hostile_kernel_costs_the_device(
    agent: HostileAgent, hostile_code: bytes, kind: Hostile
) -> None:
    limit = SHORT_MS if kind.waits else 5000

    came = agent.ask(code=hostile_code, entry=kind.name, limit_ms=limit)

    assert came.status == kind.status.value, came
    assert came.tier == Tier.T1
    assert agent.ask(code=hostile_code, entry="double").status == RunStatus.OK.value


@pytest.mark.parametrize("number", range(len(PROBES)), ids=lambda n: PROBES[n].name)
def test_no_way_leads_out(
    agent: HostileAgent, probe_code: bytes, somebodys: Path, number: int
) -> None:
    came = agent.ask(code=probe_code, entry=PROBES[number].name)

    assert came.status in (RunStatus.OK.value, RunStatus.SANDBOX_VIOLATION.value), came
    assert came.told < 0, f"{PROBES[number].name} succeeded"
    assert came.tier == Tier.T1
    assert somebodys.read_text() == "precious"
    assert [path.name for path in somebodys.parent.iterdir()] == ["victim"]
