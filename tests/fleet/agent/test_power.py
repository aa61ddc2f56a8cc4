"""The command that takes a device's power away: when it is run, how, and what is told of it."""

from __future__ import annotations

import asyncio
import sys
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import numpy as np
import pytest
from agents import DEVICE, alive, connect, idle, options, ticket, until

from loopwright.errors import ConfigError
from loopwright.fleet.agent.agent import Agent
from loopwright.fleet.agent.main import parser, read
from loopwright.fleet.agent.options import DeviceOptions
from loopwright.fleet.agent.power import PowerHook
from loopwright.fleet.agent.wardens import Worker
from loopwright.fleet.words import Health
from loopwright.outcome import cores_for
from loopwright.sandbox.orders import Over

TELL = """
import os, sys
from pathlib import Path
names = ("LOOPWRIGHT_DEVICE", "LOOPWRIGHT_REASON", "LOOPWRIGHT_TOKEN")
lines = [*sys.argv[2:], *(str(os.environ.get(name)) for name in names)]
with Path(sys.argv[1]).open("a") as file:
    file.write("|".join(lines) + chr(10))
"""


@dataclass
class Clock:
    now: float = 100.0

    def __call__(self) -> float:
        return self.now


@dataclass
class Script:
    """A hook that writes down how it was called."""

    folder: Path
    extra: tuple[str, ...] = ()
    program: Path = field(init=False)

    def __post_init__(self) -> None:
        self.program = self.folder / "hook.py"
        self.program.write_text(TELL)

    @property
    def command(self) -> tuple[str, ...]:
        return (sys.executable, str(self.program), str(self.folder / "calls"), *self.extra)

    @property
    def calls(self) -> list[str]:
        path = self.folder / "calls"
        return path.read_text().splitlines() if path.exists() else []


def hook(command: tuple[str, ...], clock: Clock, limit_s: float = 30.0) -> PowerHook:
    return PowerHook("here/cpu0", command, clock, limit_s, 300.0)


def test_it_is_told_for_what_and_sees_no_shell_and_no_secret(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOOPWRIGHT_TOKEN", "lwt_secret")
    script = Script(tmp_path, ("; touch", "$HOME", "a  b"))

    outcome = asyncio.run(hook(script.command, Clock()).run("it hangs; $(reboot)"))

    assert outcome == "the power hook was run"
    assert script.calls == ["; touch|$HOME|a  b|here/cpu0|it hangs; $(reboot)|None"]


def test_it_is_run_at_most_once_in_five_minutes(tmp_path: Path) -> None:
    clock = Clock()
    made = hook(Script(tmp_path).command, clock)
    assert made.due

    asyncio.run(made.run("one"))

    assert not made.due
    clock.now += 299.0
    assert not made.due
    clock.now += 1.0
    assert made.due


def test_there_is_nothing_to_run_without_one() -> None:
    assert not hook((), Clock()).due


def test_what_it_says_when_it_fails_is_told_in_short() -> None:
    command = (sys.executable, "-c", "print('no hub\\n' * 9999, 'at 1-1'); raise SystemExit(3)")

    outcome = asyncio.run(hook(command, Clock()).run("it hangs"))

    assert outcome.startswith("the power hook failed with 3: ")
    assert outcome.endswith("no hub at 1-1")
    assert len(outcome) < 300


def test_one_that_hangs_is_ended_with_what_it_started(tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    text = (
        "import os, subprocess, sys, time; "
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)']); "
        f"open({str(pids)!r}, 'w').write(f'{{os.getpid()}} {{child.pid}}'); time.sleep(600)"
    )

    outcome = asyncio.run(hook((sys.executable, "-c", text), Clock(), 1.0).run("it hangs"))

    assert outcome == "the power hook was ended after 1 s"
    asyncio.run(until(lambda: not any(alive(int(n)) for n in pids.read_text().split())))


def test_one_that_cannot_be_run_is_told(tmp_path: Path) -> None:
    outcome = asyncio.run(hook((str(tmp_path / "none"),), Clock()).run("it hangs"))

    assert outcome == "the power hook cannot be run: No such file or directory"


# --- of a device ---


def test_a_device_that_cannot_be_cleaned_gets_its_hook_and_a_probe(
    machine_dir: Path, tmp_path: Path, code: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = Script(tmp_path)
    notes: list[tuple[str, str]] = []
    details: list[str] = []
    end = Worker.end

    async def unclean(worker: Worker) -> Over:
        """Nothing can be killed before the hook was run."""
        over = await end(worker)
        if script.calls or not armed:
            return over
        worker._warden._on_unclean()
        return msgspec.structs.replace(over, clean=False)

    armed = False
    monkeypatch.setattr(Worker, "end", unclean)
    spec = DeviceOptions(DEVICE, cores_for(1), power_hook=script.command)

    async def scenario() -> None:
        nonlocal armed
        agent = Agent(
            options(machine_dir),
            [spec],
            asyncio.get_running_loop().time,
            np.random.default_rng(0),
            on_note=lambda device, words: notes.append((device, words)),
        )
        async with agent:
            device = agent.devices[DEVICE]
            await until(lambda: device.health is Health.GOOD)
            armed = True
            client = await connect(agent, ticket(agent, 1))
            await client.close()
            await until(lambda: details.append(device.detail) or bool(notes))
            await until(lambda: device.health is Health.GOOD)
            await idle(agent)
            client = await connect(agent, ticket(agent, 2))
            await client.doubles(code)
            await client.close()

    asyncio.run(scenario())
    reason = "what a session has left cannot be killed"
    assert script.calls == [f"{DEVICE}|{reason}|None"]
    assert notes == [(DEVICE, f"{reason}; the power hook was run")]
    assert any(detail.startswith(reason) for detail in details)


def test_what_came_of_it_is_in_the_detail_of_a_device_that_stays_bad(
    machine_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = Script(tmp_path)
    end = Worker.end
    armed = False

    async def unclean(worker: Worker) -> Over:
        over = await end(worker)
        if armed:
            worker._warden._on_unclean()
        return msgspec.structs.replace(over, clean=over.clean and not armed)

    monkeypatch.setattr(Worker, "end", unclean)
    spec = DeviceOptions(DEVICE, cores_for(1), power_hook=script.command)

    async def scenario() -> None:
        nonlocal armed
        clock, rng = asyncio.get_running_loop().time, np.random.default_rng(0)
        async with Agent(options(machine_dir), [spec], clock, rng) as agent:
            device = agent.devices[DEVICE]
            await until(lambda: device.health is Health.GOOD)
            armed = True
            device.prober.wanted.set()
            await until(lambda: len(script.calls) == 1)
            for _ in range(2):  # the probe after it, and one more
                device.prober.wanted.set()
                await until(lambda: device.health is Health.PROBING)
                await until(lambda: device.health is Health.BAD)
            assert device.detail.endswith("cannot be killed; the power hook was run")
            assert device.report().detail == device.detail

    asyncio.run(scenario())
    assert len(script.calls) == 1


# --- on the command line ---


def commands(tmp_path: Path, *hooks: str) -> dict[str, tuple[str, ...]]:
    """The hooks of two devices."""
    words = ["--name", "h", "--device", "cpu0=0", "--device", "cpu1=1"]
    for text in hooks:
        words += ["--power-hook", text]
    return {device.name: device.power_hook for device in read(words, tmp_path, [0, 1]).devices}


def test_a_hook_is_of_one_device_or_of_all(tmp_path: Path) -> None:
    python = sys.executable

    assert commands(tmp_path) == {"h/cpu0": (), "h/cpu1": ()}
    assert commands(tmp_path, f"{python} --port=2 'a b'") == {
        "h/cpu0": (python, "--port=2", "a b"),
        "h/cpu1": (python, "--port=2", "a b"),
    }
    assert commands(tmp_path, f"cpu1={python} -p 2", python) == {
        "h/cpu0": (python,),
        "h/cpu1": (python, "-p", "2"),
    }


@pytest.mark.parametrize(
    ("hooks", "words"),
    [
        (["cpu7=true"], "no such program.*NAME=COMMAND with one of cpu0, cpu1"),
        (["cpu0=true", "cpu0=false"], "two --power-hook for cpu0"),
        (["true", "false"], "two --power-hook for all devices"),
        (["cpu0='true"], "No closing quotation"),
        (["cpu0="], "no such program"),
    ],
)
def test_a_hook_that_could_not_be_run_is_refused_before_it_is_needed(
    tmp_path: Path, hooks: list[str], words: str
) -> None:
    with pytest.raises(ConfigError, match=words):
        commands(tmp_path, *hooks)


def test_the_help_says_what_it_is_for() -> None:
    text = " ".join(parser().format_help().split())

    assert "--power-hook [NAME=]COMMAND" in text
    assert "cannot be killed" in text
