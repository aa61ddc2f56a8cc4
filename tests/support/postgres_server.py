"""A PostgreSQL server for tests, from Debian's package, in a temporary folder on a unix socket."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_START_S = 60
_USERS = ("postgres", "nobody")


def binaries() -> Path | None:
    """The folder of the newest installed server's programs, None without one."""
    found = [p for p in Path("/usr/lib/postgresql").glob("*/bin") if (p / "initdb").exists()]
    return max(found, key=lambda p: float(p.parent.name)) if found else None


def why_not() -> str | None:
    """Why no server can be started here, None if one can."""
    if binaries() is None:
        return "PostgreSQL is not installed (apt-get install postgresql)"
    if os.getuid() == 0 and (_user() is None or shutil.which("setpriv") is None):
        return "PostgreSQL does not run as root, and there is no user to run it as"
    return None


@contextmanager
def running() -> Iterator[str]:
    """The URL of a server with an empty database; it ends with the block."""
    folder = Path(tempfile.mkdtemp(prefix="lwpg"))
    data = folder / "data"
    if os.getuid() == 0:
        user = _user()
        assert user is not None
        os.chown(folder, user.pw_uid, user.pw_gid)
    try:
        _run(
            "initdb",
            "-D",
            str(data),
            "-U",
            "test",
            "-A",
            "trust",
            "-N",
            "-E",
            "UTF8",
            "--no-locale",
        )
        options = f"-k {folder} -c listen_addresses= -c fsync=off -c shared_buffers=16MB"
        _run(
            "pg_ctl", "-D", str(data), "-o", options, "-l", str(folder / "log"), "-w", "start"
        )  # fmt: skip
        try:
            yield f"postgresql://test@/postgres?host={folder}"
        finally:
            _run("pg_ctl", "-D", str(data), "-m", "immediate", "-w", "stop")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _user() -> pwd.struct_passwd | None:
    for name in _USERS:
        try:
            return pwd.getpwnam(name)
        except KeyError:
            continue
    return None


def _run(program: str, *arguments: str) -> None:
    folder = binaries()
    assert folder is not None
    command = [str(folder / program), *arguments]
    user = _user()
    if os.getuid() == 0 and user is not None:
        ids = (f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups")
        command = ["setpriv", *ids, *command]
    done = subprocess.run(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, timeout=_START_S, cwd="/"
    )
    assert done.returncode == 0, done.stderr.decode()
