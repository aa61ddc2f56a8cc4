"""Features and training on the executor that builds, for the tuner.

Without an executor they run here, in the process that tunes: features of a batch of candidates take
less time than sending it to another process and back. With a cluster they run there. The results
are the same, bit for bit. A task that a cluster loses is done here.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable
from concurrent.futures import Executor
from typing import ParamSpec, TypeVar, final

from loopwright.build.candidate import pack_task, unpack_task
from loopwright.errors import UserError
from loopwright.learn.dataset import Dataset, FeatureMatrix
from loopwright.learn.features import featurize
from loopwright.learn.gbt import Trainer, Training, train_text
from loopwright.sched.extent import IntArray
from loopwright.templates.task import Task

_PATIENCE_S = 120.0
_TASKS = 16  # the most that a worker keeps unpacked
_P = ParamSpec("_P")
_T = TypeVar("_T")


@final
class Offload:
    """Calls functions on `executor`, which its owner shuts down; None: in this process.

    An error other than a UserError of the function, or no result within `patience_s`, counts as a
    failure of the engine: the call is then made here. An engine that timed out is not asked again.
    """

    def __init__(self, executor: Executor | None = None, patience_s: float = _PATIENCE_S) -> None:
        self._executor = executor
        self._patience_s = patience_s

    @property
    def here(self) -> bool:
        """Whether everything is done in this process."""
        return self._executor is None

    def do(self, fn: Callable[_P, _T], /, *args: _P.args, **kwargs: _P.kwargs) -> _T:
        """What `fn` returns or raises, wherever it runs; it must be at the top of a module."""
        if self._executor is not None:
            try:
                future = self._executor.submit(fn, *args, **kwargs)
                with contextlib.ExitStack() as stack:
                    stack.callback(future.cancel)  # no effect once it is done
                    return future.result(self._patience_s)
            except UserError:
                raise
            except TimeoutError:
                self._executor = None
            except Exception:  # noqa: BLE001  # the boundary to an engine
                pass
        return fn(*args, **kwargs)

    def featurizer(self, task: Task) -> Callable[[IntArray], FeatureMatrix]:
        """A function from points int64 [N, K] of the task's space to features float32 [N, F].

        Raises: TemplateError if the task has to be sent and does not pickle.
        """
        if self._executor is None:
            return functools.partial(featurize, task)
        packed = pack_task(task)
        return lambda points: self.do(featurize_packed, packed, points)

    @property
    def trainer(self) -> Trainer | None:
        """A function that trains a cost model elsewhere; None to train it here."""
        return None if self._executor is None else self._train

    def _train(self, training: Training, dataset: Dataset) -> str:
        return self.do(train_text, training, dataset)


def featurize_packed(packed: bytes, points: IntArray) -> FeatureMatrix:
    """Features of points of a packed task, which is cached: the same one comes repeatedly."""
    return featurize(_unpacked(packed), points)


@functools.lru_cache(maxsize=_TASKS)
def _unpacked(packed: bytes) -> Task:
    return unpack_task(packed)
