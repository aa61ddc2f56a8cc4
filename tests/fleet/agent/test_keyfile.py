"""The file that an agent's key is kept in."""

from __future__ import annotations

import asyncio
import errno
import os
import stat
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from agents import KEY, options, until
from fleet_tracker import run as run_site
from fleet_tracker import site

from loopwright.errors import ConfigError, EnvironmentFailure
from loopwright.fleet.agent import keyfile
from loopwright.fleet.agent.agent import Agent
from loopwright.fleet.wire.link import dial

OLD = b"o" * 32


def names(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


def full(*_: object) -> int:
    """What a full disk says."""
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_key_is_kept_for_its_user_alone(tmp_path: Path) -> None:
    path = tmp_path / "new" / "agent.key"

    keyfile.keep(path, KEY)

    assert keyfile.read(path) == KEY
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_file_that_everybody_could_read_is_replaced_and_not_written_into(tmp_path: Path) -> None:
    path = tmp_path / "agent.key"
    path.write_bytes(OLD)
    path.chmod(0o644)

    keyfile.keep(path, KEY)

    assert path.stat().st_mode & 0o777 == 0o600
    assert names(tmp_path) == ["agent.key"]


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_full_disk_leaves_what_was_there_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    path = tmp_path / "agent.key"
    path.write_bytes(OLD)
    if call == "fsync":
        monkeypatch.setattr(os, "fsync", full)
    else:
        monkeypatch.setattr(Path, "replace", full)

    with pytest.raises(EnvironmentFailure, match=r"agent\.key: No space left on device; make room"):
        keyfile.keep(path, KEY)

    assert path.read_bytes() == OLD
    assert names(tmp_path) == ["agent.key"]


def test_a_file_system_that_syncs_no_folders_keeps_keys_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fsync(handle: int, real: Callable[[int], None] = os.fsync) -> None:
        if stat.S_ISDIR(os.fstat(handle).st_mode):
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        real(handle)

    monkeypatch.setattr(os, "fsync", fsync)
    path = tmp_path / "agent.key"

    keyfile.keep(path, KEY)

    assert keyfile.read(path) == KEY


def test_no_key_is_an_empty_one_and_half_a_key_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "agent.key"
    assert keyfile.read(path) == b""
    path.write_bytes(KEY[:7])

    with pytest.raises(ConfigError, match="holds 7 bytes"):
        keyfile.read(path)


def agent_of(folder: Path, *, code: str = "") -> Agent:
    """The agent `pi`, without devices, as it starts."""
    path = folder / "agent.key"
    made = options(folder, name="pi", key=keyfile.read(path), key_file=path, join=code)
    return Agent(made, (), time.monotonic, np.random.default_rng(1))


async def synced(agent: Agent, address: str) -> None:
    """Run an agent until a tracker answered."""

    async def reach() -> object:
        return await dial(address)

    task = asyncio.create_task(agent.run(reach))  # type: ignore[arg-type]
    await until(lambda: agent.synced or task.done())
    if task.done():
        task.result()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


def test_an_agent_that_joined_comes_in_with_the_key_that_it_kept(tmp_path: Path) -> None:
    async def work() -> None:
        async with site() as here:
            made = await (await here.client()).command("join.issue", agent="pi")
            first = agent_of(tmp_path, code=made["code"])
            await synced(first, here.address)
            assert keyfile.read(tmp_path / "agent.key") == first.key
            await synced(agent_of(tmp_path, code=made["code"]), here.address)
            await synced(agent_of(tmp_path), here.address)

    run_site(work())


def test_a_full_disk_uses_no_join_code_up_and_is_not_taken_for_a_tracker_that_is_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def work() -> None:
        async with site() as here:
            made = await (await here.client()).command("join.issue", agent="pi")
            agent = agent_of(tmp_path, code=made["code"])
            with monkeypatch.context() as patch:
                patch.setattr(os, "fsync", full)
                with pytest.raises(EnvironmentFailure, match="No space left on device"):
                    await synced(agent, here.address)
            assert agent.key == b""
            assert names(tmp_path) == []
            await synced(agent, here.address)
            assert keyfile.read(tmp_path / "agent.key") == agent.key

    run_site(work())


def test_a_key_that_cannot_be_kept_is_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def work() -> None:
        async with site() as here:
            made = await (await here.client()).command("join.issue", agent="pi")
            agent = agent_of(tmp_path, code=made["code"])
            with monkeypatch.context() as patch:
                patch.setattr(Path, "replace", full)
                with pytest.raises(EnvironmentFailure, match="is to be revoked"):
                    await synced(agent, here.address)
            assert agent.key == b""
            assert names(tmp_path) == []

    run_site(work())
