"""What an agent is told, and what of it is refused."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from agents import options

from loopwright.errors import ConfigError
from loopwright.fleet.agent.agent import Agent
from loopwright.fleet.agent.options import DeviceOptions
from loopwright.outcome import cores_for

CORE = cores_for(1)[0]


def agent(folder: Path, devices: Sequence[DeviceOptions]) -> Agent:
    return Agent(options(folder), devices, time.monotonic, np.random.default_rng(0))


@pytest.mark.parametrize(
    ("devices", "words"),
    [
        ([("h/a", (CORE,)), ("h/b", (CORE,))], f"h/a and h/b both have core {CORE}"),
        ([("h/a", (CORE, CORE))], f"h/a and h/a both have core {CORE}"),
        ([("h/a", (CORE,)), ("h/a", (CORE,))], "two devices are named h/a"),
        ([("h/a", (10_000,))], "are not this process's"),
        ([("h/a", ())], "a processor needs cores"),
    ],
)
def test_devices_that_get_in_each_others_way_are_refused(
    tmp_path: Path, devices: list[tuple[str, tuple[int, ...]]], words: str
) -> None:
    with pytest.raises(ConfigError, match=words):
        agent(tmp_path, [DeviceOptions(name, cores) for name, cores in devices])
