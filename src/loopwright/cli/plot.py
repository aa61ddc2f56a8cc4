"""`loopwright plot`: how fast each policy found its best program."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from loopwright.cli.common import (
    CompareOption,
    Output,
    OutputOption,
    RecordsOption,
    TasksOption,
    describe,
    known_engines,
    print_json,
    records_url,
    select,
)
from loopwright.errors import RecordsError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from loopwright.records.curve import Curve
    from loopwright.report.figure import Panel


def plot(
    context: typer.Context,
    records: RecordsOption = None,
    out: Annotated[
        Path, typer.Option("--out", help="Where to write; .png and .svg are added.")
    ] = Path("loopwright"),
    tasks: TasksOption = None,
    compare: CompareOption = None,
    output: OutputOption = Output.TEXT,
) -> None:
    """Draw how fast each policy found its best.

    The best program so far against trials, one line a policy, one panel a task. With --compare
    the peer's speed, measured now, is the base line.
    """
    engines = known_engines(compare)
    from loopwright.records.curve import curves
    from loopwright.records.store import Query, SqlStore
    from loopwright.report.figure import draw

    url = records_url(context, records)
    with SqlStore(url, create=False) as store:
        found = curves(store.query(Query()))
    if not found:
        raise RecordsError(f"{url} has no records to plot; run `loopwright tune` first")
    keys = list(dict.fromkeys(curve.key for curve in found))
    panels = [
        _panel([curve for curve in found if curve.key == keys[index]], engines)
        for index in select(tasks, len(keys))
    ]
    files = draw(panels, out)
    if output is Output.JSON:
        print_json({"records": url, "files": files, "panels": panels})
    else:
        typer.echo(f"{len(panels)} tasks of {url} drawn to {' and '.join(files)}")


def _panel(curves: list[Curve], engines: Sequence[str]) -> Panel:
    """What is drawn of one task."""
    from loopwright.report.drawn import line_of
    from loopwright.report.figure import Panel

    first = curves[0]
    lines = tuple(line_of(curve, curve.policy) for curve in curves)
    title = describe(first.operator, first.attrs)
    if first.key.threads > 1:
        title += f", {first.key.threads} threads"
    return Panel(title, lines, tuple((e, _peer_gflops(e, first)) for e in engines))


def _peer_gflops(engine: str, curve: Curve) -> float:
    """The best that `engine` reaches on the task of `curve`, measured now."""
    from loopwright.peers.peer import Peer
    from loopwright.peers.wire import OpSpec

    with Peer(engine, curve.key.threads) as peer:
        peer.load(OpSpec(curve.operator, dict(curve.attrs)))
        return curve.flops / min(peer.time(15))
