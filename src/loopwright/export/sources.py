"""The kernels of a model as source text: one file a task, to read or to compile elsewhere."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from loopwright.build.compile import kernel_name, source_text
from loopwright.errors import ModelError, RecordsError
from loopwright.records.best import lookup
from loopwright.records.device import fingerprint
from loopwright.records.record import task_key
from loopwright.records.store import RecordStore
from loopwright.templates.apply import good_config
from loopwright.templates.task import Task

_SUFFIXES = {"llvm": ".ll"}


@dataclass(frozen=True, slots=True)
class SourceFile:
    """The source of one kernel; `tuned` says that its config is that of the best record."""

    path: Path
    task: Task
    tuned: bool


def export_sources(
    tasks: Sequence[Task],
    directory: str | Path,
    *,
    language: str = "c",
    records: RecordStore | None = None,
) -> tuple[SourceFile, ...]:
    """Write the kernel of each task into `directory`, in `language`.

    A kernel is that of the best record of this machine, else of the config that is good without
    tuning. Raises: ConfigError for a language unknown to the target; ModelError for a folder that
    cannot be written.
    """
    folder = Path(directory)
    return tuple(_written(folder, tasks, language, records))


def _written(
    folder: Path, tasks: Sequence[Task], language: str, records: RecordStore | None
) -> Iterable[SourceFile]:
    for task in tasks:
        config = None
        if records is not None:
            try:
                key = task_key(task, fingerprint(task.target))
                config = lookup(records, key, what=task.name, where="the records").config
            except RecordsError:
                config = None
        chosen = good_config(task) if config is None else config
        text = source_text(task, chosen, language)
        path = folder / (kernel_name(task, chosen) + _SUFFIXES.get(language, f".{language}"))
        try:
            folder.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        except OSError as error:
            raise ModelError(f"{folder} cannot be written: {error.strerror}") from error
        yield SourceFile(path, task, config is not None)
