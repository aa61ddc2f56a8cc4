"""Files of the kernel."""

from __future__ import annotations

import os


def write_file(path: str, text: str) -> bool:
    """Write a small kernel file; returns whether that was allowed."""
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        os.write(fd, text.encode())
    except OSError:
        return False
    finally:
        os.close(fd)
    return True
