"""The layers of the sandbox: what is found, what is told, and what happens without rights."""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
from pathlib import Path

import pytest
from agents import options, running

from loopwright.fleet.agent import wardens
from loopwright.fleet.words import Tier
from loopwright.sandbox import cgroup, landlock, seccomp
from loopwright.sandbox.layers import BUBBLE, ESSENTIAL, USUAL, Layer, missing, tier_of

# Run by a process that is not the superuser: which layers are found, in force, and told at the end.
UNPRIVILEGED = """
import ctypes, json, os, sys
from loopwright.sandbox.confine import Cage, CagePlan
if os.getuid() == 0:
    os.setgroups([])
    os.setresgid(65534, 65534, 65534)
    os.setresuid(65534, 65534, 65534)
    ctypes.CDLL(None).prctl(4, 1, 0, 0, 0)  # PR_SET_DUMPABLE, as a process started so is
cage = Cage(CagePlan(sys.argv[1]))
statuses, inside = [], []
for code in (0, 7):
    reading, writing = os.pipe()
    pid = cage.fork()
    if pid == 0:
        os.write(writing, json.dumps([os.getpid(), int(cage.enter_session())]).encode())
        os._exit(code)
    os.close(writing)
    inside.append(json.loads(os.read(reading, 100)))
    statuses.append(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
print(json.dumps([int(cage.layers), inside, statuses]))
"""


@pytest.mark.skipif(landlock.version() < 1, reason="this kernel has no Landlock")
def test_a_user_without_rights_is_confined_too_and_can_fork_again_and_again(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    for parent in tmp_path.parents[:2]:
        parent.chmod(0o755)
    done = subprocess.run(
        [sys.executable, "-c", UNPRIVILEGED, str(tmp_path)],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    bits, inside, statuses = json.loads(done.stdout)
    layers = Layer(bits)

    assert ESSENTIAL in layers
    assert Layer.USER not in layers
    assert tier_of(layers) == 1
    assert statuses == [0, 7]
    for pid, held in inside:
        assert (pid == 1) is (Layer.PROCESSES in layers)
        assert Layer(held) == layers & (Layer.PROCESSES | Layer.FOLDER)


@pytest.mark.skipif(os.getuid() != 0, reason="needs the superuser's rights")
def test_the_superuser_gets_all_of_the_first_tier(machine_dir: Path) -> None:
    import asyncio

    async def scenario() -> None:
        async with running(options(machine_dir)) as agent:
            (device,) = agent.devices.values()
            assert device.prober.tier is Tier.T1
            made = cgroup.create("test", 1 << 30, 10)
            if made is not None:
                made.remove()
            grouped = made is not None and made.limits
            assert device.prober.unconfined == (() if grouped else ("cgroup",))

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("layers", "tier"),
    [
        (Layer(0), 0),
        (ESSENTIAL & ~Layer.FILES, 0),
        (USUAL & ~Layer.SYSTEM_CALLS, 0),
        (ESSENTIAL, 1),
        (USUAL, 1),
        (USUAL | Layer.NETWORK, 1),
        (ESSENTIAL | BUBBLE, 2),
        (BUBBLE, 0),
    ],
)
def test_a_tier_is_what_its_layers_are(layers: Layer, tier: int) -> None:
    assert tier_of(layers) == tier


def test_what_is_missing_has_words() -> None:
    assert missing(ESSENTIAL, USUAL) == (
        "own user",
        "process namespace",
        "private folder",
        "cgroup",
    )
    assert missing(USUAL | BUBBLE, USUAL | BUBBLE) == ()


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_every_jump_of_the_filter_lands_inside_it_and_every_end_is_a_verdict(machine: str) -> None:
    code = seccomp.program(machine)
    ops = list(struct.iter_unpack("HBBI", code))

    assert len(ops) < 4096  # BPF_MAXINSNS
    assert ops[-1][0] == 0x06
    for at, (kind, yes, no, value) in enumerate(ops):
        assert kind in (0x20, 0x15, 0x45, 0x06)
        if kind in (0x15, 0x45):
            assert at + 1 + max(yes, no) < len(ops)
        if kind == 0x06:
            assert value in (0x7FFF0000, 0x80000000) or value & 0xFFFF0000 == 0x00050000


def test_a_filter_names_each_call_once() -> None:
    for column in (1, 2):
        named = [
            call.split(":")[column]
            for text in (seccomp._ALLOWED, seccomp._KILLED)
            for call in text.split()
        ]
        numbers = [number for number in named if number]
        assert len(numbers) == len(set(numbers))


def test_a_group_is_made_of_the_own_groups_and_old_ones_go(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cgroup, "_own_groups", lambda: {"memory": "/a", "pids": "/b"})
    for folder in ("memory/a", "pids/b", "memory/a/loopwright-4194305-old"):
        (tmp_path / folder).mkdir(parents=True)

    made = cgroup.create("h/cpu 0", 1000, 10, tmp_path)

    assert made is not None
    name = f"loopwright-{os.getpid()}-h-cpu-0"
    assert made.folders == (tmp_path / "memory/a" / name, tmp_path / "pids/b" / name)
    assert made.limits
    assert (made.folders[0] / "memory.limit_in_bytes").read_text() == "1000"
    assert not (tmp_path / "memory/a/loopwright-4194305-old").exists()


def test_a_group_that_may_not_be_made_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cgroup, "_own_groups", lambda: {"memory": "/a", "pids": "/b"})
    (tmp_path / "memory/a").mkdir(parents=True)

    assert cgroup.create("x", 1000, 10, tmp_path) is None


def test_the_second_version_of_groups_is_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cgroup, "_own_groups", lambda: {"": "/slice"})
    (tmp_path / "slice").mkdir()
    (tmp_path / "cgroup.controllers").write_text("memory pids")

    made = cgroup.create("x", 1000, 10, tmp_path)

    assert made is not None
    assert len(made.folders) == 1
    assert (made.folders[0] / "memory.max").read_text() == "1000"
    assert (tmp_path / "slice" / "cgroup.subtree_control").read_text() == "+memory +pids"


def test_a_bubble_binds_everything_to_be_read_and_only_some_to_be_written() -> None:
    made = wardens.in_bubble(["python", "-c", "x"], ["/usr"], ["/sys/fs/cgroup/x"])

    assert made[-4:] == ["--", "python", "-c", "x"]
    assert " ".join(made).count("--bind") == 1
    assert "--unshare-net" in made
    assert "--die-with-parent" in made
