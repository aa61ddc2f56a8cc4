"""Tracing: what each pass and each trial did, one JSON object per line; kernels as text files.

A `Tracer` is an argument; `Tracer()` writes nowhere and costs one comparison per event.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO, TypeAlias

from loopwright import jsonio

TraceValue: TypeAlias = str | int | float | bool | None


@dataclass(frozen=True, slots=True)
class PassRun:
    """What one pass did to a kernel: its text before and after. Number 0 is the lowering."""

    kernel: str
    number: int
    name: str
    before: str
    after: str
    ns: int

    @property
    def changed(self) -> bool:
        """True when the pass changed the kernel."""
        return self.before != self.after


@dataclass(slots=True)
class Tracer:
    """Writes events to `sink` as JSON lines; with no sink it does nothing.

    `clock` gives nanoseconds; `texts` is the folder for the texts of kernels.
    """

    sink: TextIO | None = None
    clock: Callable[[], int] = time.perf_counter_ns
    texts: Path | None = None

    @property
    def enabled(self) -> bool:
        """Whether events go anywhere; ask before preparing something expensive."""
        return self.sink is not None

    def event(self, name: str, /, **fields: TraceValue) -> None:
        """Write one event. Each line is flushed, so a crash loses none."""
        if self.sink is not None:
            self.sink.write(jsonio.dumps({"event": name, "at_ns": self.clock(), **fields}) + "\n")
            self.sink.flush()

    @contextmanager
    def span(self, name: str, /, **fields: TraceValue) -> Iterator[None]:
        """Write one event with the `ns` that the block took, even if it raises."""
        if self.sink is None:
            yield
            return
        begin = self.clock()
        try:
            yield
        finally:
            self.event(name, ns=self.clock() - begin, **fields)

    def ran(self, run: PassRun) -> None:
        """Write the event of a pass, and the text of the kernel if the pass changed it."""
        text = None
        if run.changed and self.texts is not None:
            text = f"{run.kernel}.{run.number}.{run.name}.txt"
            self.texts.mkdir(exist_ok=True)
            (self.texts / text).write_text(run.after, encoding="utf-8")
        self.event(
            "pass", kernel=run.kernel, name=run.name, ns=run.ns, changed=run.changed, text=text
        )

    def close(self) -> None:
        """Close the sink; later events go nowhere."""
        if self.sink is not None:
            self.sink.close()
            self.sink = None


def open_tracer(folder: Path | None) -> Tracer:
    """A tracer that appends to `folder/trace.jsonl`, or a silent one when `folder` is None.

    Texts of kernels go to `folder/kernels`.
    """
    if folder is None:
        return Tracer()
    folder.mkdir(parents=True, exist_ok=True)
    sink = (folder / "trace.jsonl").open("a", encoding="utf-8")
    return Tracer(sink, texts=folder / "kernels")
