"""A tracker and agents as processes of their own, on loopback, with real devices."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import IO

from loopwright.fleet.client.api import Fleet, connect

START_S = 60.0
_SOURCE = str(Path(__file__).resolve().parents[2] / "src")


class Processes:
    """Use it in a `with`; `fleet` makes clients that come in over TCP with a token."""

    def __init__(self, folder: Path, cache_dir: Path, path: Sequence[Path] = ()) -> None:
        """`path` is where processes find modules beside the package."""
        self.folder = folder
        self._path = os.pathsep.join([_SOURCE, *map(str, path)])
        self.address = ""
        self.agents: dict[str, subprocess.Popen[bytes]] = {}
        self.tracker: subprocess.Popen[bytes] | None = None
        self._cache_dir = cache_dir
        # A socket's path has 107 bytes, which folders of tests may take alone.
        self._place = tempfile.TemporaryDirectory(prefix="lw-")
        self.token = ""
        self._logs: list[IO[bytes]] = []

    def __enter__(self) -> Processes:
        self.start_tracker()
        with self.owner() as fleet:
            made = fleet.command("token.issue", name="tuner")
        assert isinstance(made, dict)
        self.token = str(made["token"])
        return self

    def __exit__(self, *_: object) -> None:
        for process in (*self.agents.values(), self.tracker):
            if process is not None and process.poll() is None:
                process.send_signal(signal.SIGTERM)
                try:
                    process.wait(START_S)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()
        for log in self._logs:
            log.close()
        self._place.cleanup()

    @property
    def socket(self) -> str:
        return f"unix://{self._place.name}/t.sock"

    def owner(self) -> Fleet:
        """A client of whoever runs the tracker."""
        return connect(self.socket)

    def fleet(self) -> Fleet:
        """A client with a token."""
        return connect(self.address, token=self.token)

    def start_tracker(self) -> None:
        """Start the tracker, on the address it had before if there was one."""
        self.tracker = self._start(self._tracker_command(), self._log("tracker"))
        self.address = self._wait_for(self.tracker, "tracker", r"listens on (tcp://\S+)")

    def _tracker_command(self) -> list[str]:
        address = self.address or "tcp://127.0.0.1:0"
        store = f"sqlite:///{self.folder / 'tracker.db'}"
        command = ["tracker", "serve", "--listen", address, "--listen", self.socket]
        command += ["--store", store, "--token-file", str(self.folder / "admin")]
        return [sys.executable, "-m", "loopwright.cli.main", *command]

    def start_agent(self, name: str, cores: tuple[int, ...], *labels: str) -> None:
        """Start an agent with one device, `name/cpu0`, and wait until it can be leased."""
        self.start_device(name, f"cpu0={','.join(map(str, cores))}", *labels)

    def start_device(self, name: str, device: str, *labels: str) -> None:
        """Start an agent with one device, as `--device` has it, and wait until it can be leased."""
        with self.owner() as fleet:
            made = fleet.command("join.issue", agent=name)
        assert isinstance(made, dict)
        options = ["--join", str(made["code"]), "--device", device]
        for label in labels:
            options += ["--label", label]
        self.begin_agent(name, *options)
        self.await_agent(name, device.partition("=")[0])

    def begin_agent(self, name: str, *options: str) -> None:
        """Start an agent's process, as `device serve` does with these options beside its own."""
        self.agents[name] = self._start(self._agent_command(name, *options), self._log(name))

    def _agent_command(self, name: str, *options: str) -> list[str]:
        command = [sys.executable, "-m", "loopwright.fleet.agent", "--tracker", self.address]
        command += ["--name", name, "--cache-dir", str(self._cache_dir / name), "--drift", "0"]
        return [*command, *options]

    def await_agent(self, name: str, device: str = "cpu0") -> None:
        """Wait until a device of an agent can be leased."""
        deadline = time.monotonic() + START_S
        with self.owner() as fleet:
            while not any(device.grantable for device in fleet.devices(f"name={name}/{device}")):
                assert time.monotonic() < deadline, self.said(name)
                assert self.agents[name].poll() is None, self.said(name)
                time.sleep(0.02)

    def said(self, name: str) -> str:
        """What a process has written."""
        return (self.folder / f"{name}.log").read_text()

    def _log(self, name: str) -> IO[bytes]:
        log = (self.folder / f"{name}.log").open("wb")
        self._logs.append(log)
        return log

    def _start(self, command: list[str], log: IO[bytes]) -> subprocess.Popen[bytes]:
        environment = {**os.environ, "PYTHONPATH": self._path}  # noqa: TID251  # of a process
        return subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment
        )

    def _wait_for(self, process: subprocess.Popen[bytes], name: str, pattern: str) -> str:
        deadline = time.monotonic() + START_S
        while (found := re.search(pattern, self.said(name))) is None:
            assert process.poll() is None, self.said(name)
            assert time.monotonic() < deadline, self.said(name)
            time.sleep(0.02)
        return found[1]
