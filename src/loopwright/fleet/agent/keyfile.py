"""The file that an agent's key is kept in: all of it or none, for this user alone."""

from __future__ import annotations

import contextlib
import errno
import os
from pathlib import Path

from loopwright.errors import ConfigError, EnvironmentFailure

_KEY_BYTES = 32
_MODE = 0o600
_NO_SYNC = frozenset({errno.EINVAL, errno.ENOTSUP})  # of file systems that sync no folders


def read(path: Path) -> bytes:
    """The key that is kept in `path`, empty if there is none yet.

    Raises: ConfigError for a file that cannot be read, or holds something else.
    """
    try:
        key = path.read_bytes()
    except FileNotFoundError:
        return b""
    except OSError as error:
        raise ConfigError(f"cannot read the key {path}: {error.strerror}") from error
    if len(key) != _KEY_BYTES:
        raise ConfigError(f"{path} holds {len(key)} bytes, a key has {_KEY_BYTES}; join anew")
    return key


def check(path: Path) -> None:
    """Check that a key could be kept in `path`, before a join code is used up.

    Raises: EnvironmentFailure.
    """
    new = _beside(path)
    try:
        _write(new, bytes(_KEY_BYTES))
        new.unlink()
    except OSError as error:
        raise _failure(path, error, "make room or name another --key-file") from error


def keep(path: Path, key: bytes) -> None:
    """Keep `key` in `path` for later starts; what was there before stays until that is done.

    Raises: EnvironmentFailure when it cannot be kept; nothing of it is left then.
    """
    new = _beside(path)
    try:
        _write(new, key)
        new.replace(path)
        _sync_folder(path.parent)
    except OSError as error:
        with contextlib.suppress(OSError):
            new.unlink()
        advice = (
            "make room or name another --key-file; an agent that came with a join code is to be "
            "revoked and needs a new one"
        )
        raise _failure(path, error, advice) from error


def _beside(path: Path) -> Path:
    return path.with_name(f"{path.name}.{os.getpid()}.new")


def _failure(path: Path, error: OSError, advice: str) -> EnvironmentFailure:
    return EnvironmentFailure(f"cannot keep the agent's key in {path}: {error.strerror}; {advice}")


def _write(path: Path, key: bytes) -> None:
    """A new file with the key, on the disk; none when that fails."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)  # left by a killed process with the same pid
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, _MODE)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(key)
            file.flush()
            os.fsync(file.fileno())
    except OSError:
        path.unlink(missing_ok=True)
        raise


def _sync_folder(folder: Path) -> None:
    """Make sure that the new name is on the disk too, where the file system can be asked."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in _NO_SYNC:
            raise
    finally:
        os.close(handle)
