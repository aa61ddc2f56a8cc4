"""What the tuner computes elsewhere: an engine in trouble costs time, never the tuning."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import BrokenExecutor, Executor, Future
from typing import Any

import measure_kernels as kernels
import pytest

from loopwright.build.offload import Offload
from loopwright.errors import EnvironmentFailure, TemplateError


class Troubled(Executor):
    """An engine that answers with `error`, or never, and counts how often it is asked."""

    def __init__(self, error: BaseException | None) -> None:
        self.error = error
        self.futures: list[Future[Any]] = []

    def submit(self, fn: Callable[..., Any], /, *args: object, **kwargs: object) -> Future[Any]:
        del fn, args, kwargs
        future: Future[Any] = Future()
        self.futures.append(future)
        if isinstance(self.error, EnvironmentFailure):
            raise self.error
        if self.error is not None:
            future.set_exception(self.error)
        return future


@pytest.mark.parametrize(
    "error",
    [
        BrokenExecutor("the worker died"),
        EnvironmentFailure("the executor was shut down"),
        ModuleNotFoundError("no module named loopwright"),
        OSError("the scheduler is gone"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_what_an_engine_loses_is_done_here_and_the_engine_is_asked_again(
    error: BaseException,
) -> None:
    engine = Troubled(error)
    offload = Offload(engine)

    assert [offload.do(kernels.ends_elsewhere, os.getpid()) for _ in range(2)] == ["here"] * 2
    assert len(engine.futures) == 2


def test_an_engine_that_never_answers_is_not_asked_again() -> None:
    engine = Troubled(None)
    offload = Offload(engine, patience_s=0.0)

    assert [offload.do(os.getpid) for _ in range(2)] == [os.getpid()] * 2
    (future,) = engine.futures
    assert future.cancelled()


def test_what_raises_here_raises() -> None:
    with pytest.raises(ZeroDivisionError):
        Offload(Troubled(BrokenExecutor())).do(divmod, 1, 0)


def test_a_task_that_cannot_be_sent_is_refused_and_one_that_stays_is_not() -> None:
    task = kernels.task()
    object.__setattr__(task.template, "schedule", lambda _, __: None)

    Offload().featurizer(task)
    with pytest.raises(TemplateError, match="at the top of a module"):
        Offload(Troubled(None)).featurizer(task)
