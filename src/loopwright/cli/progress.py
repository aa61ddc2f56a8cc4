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

_LINE_EVERY_S = 5.0
_FRAME = 6  # lines of a live view that are not tasks


class View(Protocol):
    """Shows a board; told when it changed."""

    def changed(self) -> None:
        """The board counted a trial."""
        ...


@contextmanager
def show(board: Board, console: Console) -> Iterator[View]:
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
        from rich.progress_bar import ProgressBar
        from rich.table import Table

        board = self.board
        grid = Table.grid(padding=(0, 2))
        grid.add_column(no_wrap=True, overflow="ellipsis", ratio=1)
        for name in (">trials", "bar", ">best", ">peak", ">failed"):
            grid.add_column(justify="right" if name[0] == ">" else "left", no_wrap=True)
        most = max((task.trials for task in board.tasks), default=1)
        shown = _visible(board, max(3, (options.height or console.height) - _FRAME))
        grid.add_row("[dim]task", "[dim]trials", "", "[dim]GFLOP/s", "[dim]of peak", "[dim]failed")
        for index in shown:
            task = board.tasks[index]
            style = "bold" if index == board.latest else ""
            grid.add_row(
                f"{task.count} x {task.label}",
                str(task.trials),
                ProgressBar(max(1, most), task.trials, width=16),
                *_speed(task, board.peak_gflops),
                str(task.failed) if task.failed else "",
                style=style,
            )
        yield grid
        if len(shown) < len(board.tasks):
            yield f"[dim]and {len(board.tasks) - len(shown)} more tasks"
        yield ProgressBar(1.0, board.done, width=min(60, options.max_width))
        yield summary(board)


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


def _speed(task: TaskState, peak_gflops: float | None) -> tuple[str, str]:
    if task.best is None:
        return "-", ""
    share = f"{task.best.gflops / peak_gflops:.0%}" if peak_gflops else ""
    return f"{task.best.gflops:.1f}", share


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
