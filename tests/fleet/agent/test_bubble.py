"""What of the host a bubble has: tier 2, whose processes look around themselves."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from loopwright.fleet.agent import wardens
from loopwright.fleet.agent.wardens import in_bubble
from loopwright.sandbox.libraries import SYSTEM, libraries

pytestmark = pytest.mark.skipif(
    not wardens.bubblewrap_is_there(), reason="bubblewrap is not installed"
)
# Prints the errors of looking into folders, of writing, and of connecting.
LOOK = """
import errno, json, os, socket, sys
def tried(what, *arguments):
    try:
        what(*arguments)
    except OSError as error:
        return errno.errorcode[error.errno]
    return "done"
def connected(name):
    with socket.socket(socket.AF_UNIX) as one:
        one.connect(name)
path, hidden, secret = sys.argv[1:4]
print(json.dumps({
    "run": tried(os.listdir, "/run"),
    "secret": tried(open, secret),
    "passwd": tried(open, "/etc/passwd"),
    "make": tried(os.mkdir, sys.argv[4]),
    "path": tried(connected, path),
    "abstract": tried(connected, "\\0" + hidden),
}))
"""


def test_nothing_of_the_hosts_folders_and_sockets_is_there(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("x")
    hidden = f"bubble-{os.getpid()}"
    with socket.socket(socket.AF_UNIX) as path, socket.socket(socket.AF_UNIX) as abstract:
        path.bind(str(tmp_path / "sock"))
        abstract.bind(f"\0{hidden}")
        path.listen()
        abstract.listen()
        words = [str(tmp_path / "sock"), hidden, str(secret), f"/made-{os.getpid()}"]
        outside = _looked([sys.executable, "-c", LOOK, *words[:3], str(tmp_path / "made")])
        needed = (*SYSTEM, "/usr", "/bin", sys.prefix, sys.base_prefix, *libraries())
        inside = _looked(in_bubble([sys.executable, "-c", LOOK, *words], needed, ()))

    assert {k: outside[k] for k in ("run", "secret", "path", "abstract")} == {
        "run": "done",
        "secret": "done",
        "path": "done",
        "abstract": "done",
    }
    assert inside == {
        "run": "ENOENT",
        "secret": "ENOENT",
        "passwd": "ENOENT",
        "make": "EROFS",
        "path": "ENOENT",
        "abstract": "ECONNREFUSED",
    }


def _looked(command: list[str]) -> dict[str, str]:
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    found: dict[str, str] = json.loads(done.stdout)
    return found
