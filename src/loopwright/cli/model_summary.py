"""What `optimize` and `run` say of a tuned model: its kernels and its memory."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from loopwright.cli.common import Json
    from loopwright.runtime.model_file import Manifest


def lines(manifest: Manifest) -> Iterator[str]:
    """How many kernels are tuned, transferred or default, from whose records, and memory."""
    origins = ", ".join(f"{count} {origin}" for origin, count in manifest.origins.most_common())
    yield f"  kernels   {len(manifest.calls)}: {origins}"
    for device, count in manifest.elsewhere.most_common():
        yield (
            f"  records   {count} of these {'are' if count > 1 else 'is'} by records of another "
            f"machine, {device}; tune here for better ones"
        )
    yield (
        f"  memory    {_mb(manifest.memory)} at the peak between kernels, "
        f"{_mb(manifest.memory_sum)} if they shared nothing"
    )


def as_json(manifest: Manifest) -> dict[str, Json]:
    """The same as members of a JSON object."""
    return {
        "kernels": dict(manifest.origins),
        "records_of": dict(manifest.elsewhere),
        "memory_bytes": manifest.memory,
        "memory_unshared_bytes": manifest.memory_sum,
    }


def _mb(nbytes: int) -> str:
    """Megabytes, and kilobytes where that is too little to be seen."""
    return f"{nbytes / 1e6:.1f} MB" if nbytes >= 1e5 else f"{nbytes / 1e3:.1f} kB"
