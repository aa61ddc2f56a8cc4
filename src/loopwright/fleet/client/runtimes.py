"""The native runtimes that a client brings to devices: one per architecture, made once.

A device calls candidates by a runtime, and every client puts its own in place, named by its digest:
what another left there is replaced, and a device that already has the same one gets nothing.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

from loopwright.errors import ConfigError, EnvironmentFailure, FleetError, UnsupportedError
from loopwright.fleet.client.session import Blob
from loopwright.fleet.wire.messages import Opened
from loopwright.fleet.words import RUNTIME
from loopwright.runtime.cpu.native import runtime_object
from loopwright.target.parse import parse
from loopwright.target.union import require_cpu


class Runtimes:
    """Runtimes, compiled here or kept in `cache_dir`. It belongs to one event loop."""

    def __init__(self, cache_dir: Path) -> None:
        self._cache_dir = cache_dir
        self._made: dict[str, Blob] = {}

    async def lacking(self, opened: Opened) -> Blob | None:
        """The runtime to put in place on a device; None for one that has it, or wants none.

        Raises: FleetError when it cannot be made here.
        """
        there = opened.modules.get(RUNTIME)
        if there is None:
            return None
        try:
            blob = await self._blob(
                require_cpu(parse(opened.device.target), "a native runtime").arch
            )
        except (ConfigError, EnvironmentFailure, UnsupportedError) as error:
            name = opened.device.name
            raise FleetError(f"no native runtime can be made for {name}: {error}") from error
        return None if blob.digest.hex() == there else blob

    async def _blob(self, arch: str) -> Blob:
        if arch not in self._made:
            code = await asyncio.to_thread(runtime_object, self._cache_dir, arch)
            self._made[arch] = Blob.of(code)
        return self._made[arch]
