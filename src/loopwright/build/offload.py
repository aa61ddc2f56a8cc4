"""What the tuner computes beside measuring, features and training, on the executor that builds.

Without an executor it is done here, in the process that tunes: features of a batch of candidates
take less time than sending it to a process of this machine and back. On a cluster it is done
there. The results are the same, bit for bit. A task that a cluster loses is done here.
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
_TASKS = 16  # that a worker keeps unpacked
_P = ParamSpec("_P")
_T = TypeVar("_T")


@final
class Offload:
    """Does things on `executor`, which somebody else owns and shuts down; None does them here.

    What it raises, but for a UserError of the thing itself, and a result that does not come within
    `patience_s`, are the engine's trouble: the thing is done here. An engine that let us wait in
    vain is not asked again.
    """

    def __init__(self, executor: Executor | None = None, patience_s: float = _PATIENCE_S) -> None:
        self._executor = executor
        self._patience_s = patience_s

    @property
    def here(self) -> bool:
        """Whether everything is done in this process."""
        return self._executor is None

    def do(self, fn: Callable[_P, _T], /, *args: _P.args, **kwargs: _P.kwargs) -> _T:
        """What `fn` returns or raises, wherever it is called: it must be at the top of a module."""
        if self._executor is not None:
            try:
                future = self._executor.submit(fn, *args, **kwargs)
                with contextlib.ExitStack() as stack:
                    stack.callback(future.cancel)  # nothing, once it is done
                    return future.result(self._patience_s)
            except UserError:
                raise
            except TimeoutError:
                self._executor = None
            except Exception:  # noqa: BLE001  # the boundary to an engine
                pass
        return fn(*args, **kwargs)

    def featurizer(self, task: Task) -> Callable[[IntArray], FeatureMatrix]:
        """What gives features float32 [N, F] of points int64 [N, K] of the task's space.

        Raises: TemplateError if the task has to be sent and does not pickle.
        """
        if self._executor is None:
            return functools.partial(featurize, task)
        packed = pack_task(task)
        return lambda points: self.do(featurize_packed, packed, points)

    @property
    def trainer(self) -> Trainer | None:
        """What trains a cost model elsewhere; None to train it here."""
        return None if self._executor is None else self._train

    def _train(self, training: Training, dataset: Dataset) -> str:
        return self.do(train_text, training, dataset)


def featurize_packed(packed: bytes, points: IntArray) -> FeatureMatrix:
    """Features of points of a packed task, which is kept: the same one comes again and again."""
    return featurize(_unpacked(packed), points)


@functools.lru_cache(maxsize=_TASKS)
def _unpacked(packed: bytes) -> Task:
    return unpack_task(packed)
