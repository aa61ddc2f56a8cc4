"""Showing a tuning run while it goes on: a live table on a terminal, plain lines elsewhere."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from loopwright.cli.board import Board, TaskState
from loopwright.cli.common import show_ns

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderResult
    from rich.text import Text

_LINE_EVERY_S = 5.0
_FRAME = 6  # lines of a live view that are not tasks
_BAR = 16  # characters


class ProgressView(Protocol):
    """Shows a board; told when it changed."""

    def changed(self) -> None:
        """The board counted a trial."""
        ...


@contextmanager
def show(board: Board, console: Console) -> Iterator[ProgressView]:
    """Shows `board` on `console` while the block runs, live if it is a terminal."""
    if not console.is_terminal:
        lines = Lines(board, console)
        yield lines
        lines.finish()
        return
    from rich.live import Live

    with Live(LiveBoard(board), console=console, refresh_per_second=4, transient=True):
        yield _Silent()


class _Silent:
    """The live view draws by itself."""

    def changed(self) -> None:
        """Nothing."""


@dataclass(slots=True)
class Lines:
    """A line of text every few seconds."""

    board: Board
    console: Console
    _next_s: float = field(default=_LINE_EVERY_S)

    def changed(self) -> None:
        """Write a line if the last one is old."""
        if self.board.elapsed_s >= self._next_s:
            self._next_s = self.board.elapsed_s + _LINE_EVERY_S
            self.console.print(summary(self.board))

    def finish(self) -> None:
        """Write the last line."""
        self.console.print(summary(self.board))


@dataclass(frozen=True, slots=True)
class LiveBoard:
    """A table of the tasks that renders what the board holds at that moment."""

    board: Board

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        from rich.table import Table
        from rich.text import Text

        board = self.board
        grid = Table.grid(padding=(0, 2))
        grid.add_column(no_wrap=True, overflow="ellipsis", ratio=1)
        for _ in range(3):
            grid.add_column(justify="right", no_wrap=True)
        grid.add_column(no_wrap=True)
        grid.add_column(justify="right", no_wrap=True)
        shown = _visible(board, max(3, (options.height or console.height) - _FRAME))
        grid.add_row(
            "[dim]task", "[dim]trials", "[dim]failed", "[dim]GFLOP/s", "[dim]of the peak", ""
        )
        for index in shown:
            task = board.tasks[index]
            style = "bold" if index == board.latest else ""
            grid.add_row(
                f"{task.count} x {task.label}",
                str(task.trials),
                str(task.failed) if task.failed else "",
                *_speed(task, board.peak_gflops),
                style=style,
            )
        yield grid
        if len(shown) < len(board.tasks):
            yield f"[dim]and {len(board.tasks) - len(shown)} more tasks"
        yield _bar(board.done, min(60, options.max_width), "blue")
        yield Text(summary(board))


def _visible(board: Board, room: int) -> list[int]:
    """Which tasks are shown when not all fit: those that take the most of the model's time."""
    order = sorted(
        range(len(board.tasks)),
        key=lambda i: _weight(board.tasks[i]),
        reverse=True,
    )
    return sorted(order[:room])


def _weight(task: TaskState) -> float:
    return task.count * (task.flops if task.best is None else task.best.ns)


def _speed(task: TaskState, peak_gflops: float | None) -> tuple[str, Text | str, str]:
    """The best speed, and its share of the peak as a bar and as a number."""
    if task.best is None:
        return "-", "", ""
    if not peak_gflops:
        return f"{task.best.gflops:.1f}", "", ""
    share = task.best.gflops / peak_gflops
    return f"{task.best.gflops:.1f}", _bar(min(share, 1.0), _BAR, "cyan"), f"{share:.0%}"


def _bar(share: float, width: int, colour: str) -> Text:
    """A bar of `width` characters, filled to `share`."""
    from rich.text import Text

    filled = round(share * width)
    return Text.assemble(("━" * filled, colour), ("━" * (width - filled), "grey30"))


def summary(board: Board) -> str:
    """One line: time, trials, failures, what is left, and the model's time."""
    words = [
        show_duration(board.elapsed_s),
        f"{board.trials} trials ({board.rate:.1f}/s)",
        f"{board.failed} failed",
    ]
    if board.resumed:
        words.append(f"{board.resumed} of them from before")
    if board.eta_s is not None:
        words.append(f"{show_duration(board.eta_s)} left")
    tuned = sum(task.best is not None for task in board.tasks)
    total = board.model_ns
    words.append(
        f"{tuned} of {len(board.tasks)} tasks have a program"
        if total is None
        else f"all tasks together {show_ns(total)}"
    )
    return ", ".join(words)


def show_duration(seconds: float) -> str:
    """A duration for a person: 9s, 2m05s, 1h02m."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02d}s"
    return f"{whole // 3600}h{whole % 3600 // 60:02d}m"
