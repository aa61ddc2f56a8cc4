"""Ends a process whose event loop hangs, so that its supervisor can restart it.

A thread checks a few times within the limit whether the loop has turned, and counts looks, not
time: a process that was stopped, or whose machine was, has hung for one look only.
"""

from __future__ import annotations

import asyncio
import faulthandler
import os
import sys
import threading
from collections.abc import Callable

_LOOKS = 8
_FAILED = 1


async def watch(limit_s: float) -> None:
    """Until cancelled, end this process when its loop has not turned for `limit_s`; 0: never.

    Where it hangs is printed. The kernel ends what the process had started.
    """
    if not limit_s:
        return
    turned, over = threading.Event(), threading.Event()
    look_s = limit_s / _LOOKS

    def guard() -> None:
        if _hangs(lambda: over.wait(look_s), turned):
            _end(limit_s)

    threading.Thread(target=guard, name="watchdog", daemon=True).start()
    try:
        while True:
            turned.set()
            await asyncio.sleep(look_s / 2)
    finally:
        over.set()


def _hangs(wait: Callable[[], bool], turned: threading.Event) -> bool:
    """True once the loop did not turn for as many looks as make the limit; False once `wait`,
    which is called between looks, says that it is over.
    """
    missed = 0
    while not wait():
        missed = 0 if turned.is_set() else missed + 1
        turned.clear()
        if missed == _LOOKS:
            return True
    return False


def _end(limit_s: float) -> None:
    sys.stderr.write(f"loopwright agent: it hangs for {limit_s:g} s and ends itself\n")
    sys.stderr.flush()
    faulthandler.dump_traceback()
    os._exit(_FAILED)
