"""A tuned program of an operator: built from its best record, called with NumPy arrays."""

from __future__ import annotations

import functools
import math
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self, TypeAlias

import numpy as np
import numpy.typing as npt

from loopwright import weights
from loopwright.api.relayout import Relayout, relayouts
from loopwright.build.candidate import Built
from loopwright.build.compile import compile_config
from loopwright.build.pool import BuilderPool
from loopwright.codegen.artifact import Artifact, Param
from loopwright.codegen.backends import backend
from loopwright.codegen.clike.compiler import CBackend, require_compiler
from loopwright.errors import (
    CodegenError,
    EnvironmentFailure,
    ScheduleError,
    ShapeError,
    TemplateError,
)
from loopwright.layout import Array
from loopwright.outcome import Failed, FailureKind, MeasurePlan
from loopwright.records.best import lookup
from loopwright.records.device import fingerprint
from loopwright.records.record import Record, task_key
from loopwright.records.store import RecordStore, SqlStore
from loopwright.runtime.cpu.kernel import BoundCall, CpuDevice, Module, aligned_copy, aligned_empty
from loopwright.sandbox.inputs import generate
from loopwright.settings import from_environment
from loopwright.space.config import Config
from loopwright.target.union import require_cpu
from loopwright.templates.task import Task

Output: TypeAlias = npt.NDArray[Any]
"""An array of the task's dtype, which the type checker does not know."""


class Program:
    """A kernel of `task`, called with plain arrays: `program(data, weight)` returns the output.

    `bind(weight=w)` lays weights out once; the program that comes back takes the other inputs.
    Any number of threads may call a program. Each keeps memory for the arguments that the kernel
    has in a layout of its own.
    """

    def __init__(
        self,
        task: Task,
        config: Config,
        module: Module,
        relayouts: Mapping[str, Relayout],
        bound: Mapping[str, Array] | None = None,
    ) -> None:
        self.task = task
        self.config = config
        self._module = module
        self._relayouts = relayouts
        self._bound = dict(bound or {})  # in memory layout
        self._local = threading.local()

    @property
    def inputs(self) -> tuple[str, ...]:
        """The names of the inputs that a call takes, in order."""
        return tuple(p.name for p in self._module.inputs if p.name not in self._bound)

    def __call__(self, *arrays: Array) -> Output:
        """The output for plain arrays, one an input.

        Raises: ShapeError if number, shape or dtype of the arrays is not that of `inputs`, or
            there are several outputs.
        """
        if len(self._module.outputs) != 1:
            names = ", ".join(param.name for param in self._module.outputs)
            raise ShapeError(f"{self.task.name} has the outputs {names}; call .outputs(...)")
        return self.outputs(*arrays)[0]

    def outputs(self, *arrays: Array) -> tuple[Output, ...]:
        """All outputs for plain arrays, one an input.

        Raises: ShapeError if number, shape or dtype of the arrays is not that of `inputs`.
        """
        calls = self._calls()
        kept = []  # until the kernel ran
        for param, plain in self._given(arrays):
            pack = calls.changes.get(param.name)
            if pack is None:
                kept.append(aligned_copy(plain))
                calls.kernel.redirect(calls.places[param.name], kept[-1])
            else:
                kept.append(aligned_copy(plain, self._relayouts[param.name].plain_alignment))
                pack.redirect(0, kept[-1])
                pack()
        results = []
        for param in self._module.outputs:
            results.append(aligned_empty(param.shape, param.dtype.numpy))
            unpack = calls.changes.get(param.name)
            if unpack is None:
                calls.kernel.redirect(calls.places[param.name], results[-1])
            else:
                unpack.redirect(1, results[-1])
        calls.kernel()
        for param in self._module.outputs:
            if param.name in calls.changes:
                calls.changes[param.name]()
        return tuple(results)

    def bind(self, **arrays: Array) -> Program:
        """This program with the named inputs laid out once and for all.

        Raises: ShapeError for a name that is no input, or another shape or dtype.
        """
        params = {param.name: param for param in self._module.inputs}
        packed = dict(self._bound)
        for name, array in arrays.items():
            if name not in params:
                raise ShapeError(
                    f"{self.task.name}: there is no input {name!r}; there are {', '.join(params)}"
                )
            packed[name] = self._packed(params[name], self._checked(params[name], array))
        return Program(self.task, self.config, self._module, self._relayouts, packed)

    def timed_call(self, *arrays: Array) -> BoundCall:
        """The kernel alone on `arrays`, everything laid out ahead: what is timed."""
        memory = dict(self._bound)
        memory |= {param.name: self._packed(param, plain) for param, plain in self._given(arrays)}
        inputs = (memory[param.name] for param in self._module.inputs)
        return self._module.bind(*inputs, *self._module.empty_outputs())

    def _given(self, arrays: Sequence[Array]) -> list[tuple[Param, Array]]:
        """The inputs of a call, checked and transformed, in order."""
        params = [p for p in self._module.inputs if p.name not in self._bound]
        if len(arrays) != len(params):
            raise ShapeError(
                f"{self.task.name}: got {len(arrays)} inputs, takes {len(params)}: "
                + ", ".join(self.inputs)
            )
        return [(p, self._checked(p, a)) for p, a in zip(params, arrays, strict=True)]

    def _checked(self, param: Param, array: Array) -> Array:
        """The caller's `array`, transformed as the kernel wants it."""
        return weights.apply(param.transform, self._module.plain(param, array))

    def _packed(self, param: Param, plain: Array) -> Array:
        """`plain`, transformed, laid out for the kernel; in new memory only where needed."""
        relayout = self._relayouts.get(param.name)
        if relayout is None:
            return aligned_copy(plain).reshape(param.physical_shape)
        memory = _new(param)
        relayout.into(memory, plain)
        return memory

    def _calls(self) -> _Calls:
        """The calls of this thread."""
        calls: _Calls | None = getattr(self._local, "calls", None)
        if calls is None:
            calls = self._local.calls = _Calls.of(self._module, self._relayouts, self._bound)
        return calls


@dataclass(frozen=True, slots=True)
class _Calls:
    """What one thread calls, bound to memory of its own: the kernel and the changes of layout.

    `places` has the place of each argument of the kernel.
    """

    kernel: BoundCall
    changes: Mapping[str, BoundCall]
    places: Mapping[str, int]

    @staticmethod
    def of(module: Module, relayouts: Mapping[str, Relayout], bound: Mapping[str, Array]) -> _Calls:
        """The calls of `module`; arguments that are plain and not bound are to be redirected."""
        arrays, changes = [], {}
        for param in module.artifact.params:
            if param.name in bound:
                arrays.append(bound[param.name])
            elif param.name in relayouts:
                arrays.append(_new(param))
                changes[param.name] = relayouts[param.name].bound(arrays[-1])
            else:
                arrays.append(np.empty(0))
        places = {param.name: place for place, param in enumerate(module.artifact.params)}
        return _Calls(BoundCall(module, arrays), changes, places)


def _new(param: Param) -> Array:
    """New memory for `param`; padding is zero."""
    memory = aligned_empty(param.physical_shape, param.dtype.numpy)
    if math.prod(param.physical_shape) != math.prod(param.stored_shape):
        memory.view(np.uint8).fill(0)
    return memory


class Compiler:
    """Makes programs in another process, so that an error inside LLVM ends only that one.

    `language` is that of the generated code; the usual one of the target when None.
    """

    def __init__(self, language: str | None = None) -> None:
        self._pool = BuilderPool(functools.partial(compile_config, language=language), 1)
        self._devices: dict[int, CpuDevice] = {}
        self._changes: dict[tuple[str, str, int, Config], Module] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the process; programs made before go on."""
        self._pool.close()

    def program(self, task: Task, config: Config) -> Program:
        """The program that `config` of `task` describes.

        Raises: TemplateError or ScheduleError for a config that makes no program, ConfigError for
            one of another target, CodegenError or EnvironmentFailure if it cannot be built.
        """
        require_cpu(task.target, "a program that is called with arrays")
        module = self._module(task, config)
        found = relayouts(module, task.target, task.threads, self._cached)
        return Program(task, config, module, found)

    def _cached(self, task: Task, config: Config) -> Module:
        """The kernel of a layout change, made once: the layers of a model share many."""
        key = (task.key, task.target.key, task.threads, config)
        if key not in self._changes:
            self._changes[key] = self._module(task, config)
        return self._changes[key]

    def _module(self, task: Task, config: Config) -> Module:
        artifact = self._artifact(task, config)
        device = self._devices.get(task.threads)
        if device is None:
            device = self._devices[task.threads] = CpuDevice(task.threads)
        return device.module(artifact)

    def _artifact(self, task: Task, config: Config) -> Artifact:
        built: Built = self._pool.submit(task, config, MeasurePlan(threads=task.threads)).result()
        if isinstance(built.result, Failed):
            raise build_error(task, config, built.result)
        return built.result


def build_error(task: Task, config: Config, failed: Failed) -> Exception:
    """What to raise when a config could not be built."""
    message = f"{task.name}: building [{config}] failed: {failed.detail}"
    match failed.kind:
        case FailureKind.TEMPLATE_ERROR:
            return TemplateError(message)
        case FailureKind.ILLEGAL_SCHEDULE:
            return ScheduleError(message)
        case FailureKind.COMPILE_ERROR | FailureKind.COMPILER_CRASH:
            return CodegenError(message)
        case _:
            return EnvironmentFailure(message)


def best_record(task: Task, store: RecordStore, where: str) -> Record:
    """The fastest checked record of `task` on this machine.

    Raises: RecordsError that says what there is instead.
    """
    key = task_key(task, fingerprint(task.target))
    return lookup(store, key, what=task.name, where=where)


def build(
    task: Task,
    *,
    records: str | None = None,
    config: Config | None = None,
    language: str | None = None,
) -> Program:
    """The fastest known program of `task`, ready to be called.

    Args:
        records: the URL to take it from; LOOPWRIGHT_RECORDS when None.
        config: build this one instead of the best record.
        language: what the code is generated in: `llvm`, or `c` with a C compiler; the usual
            one of the target when None.

    Raises: RecordsError when the records hold nothing that fits; ConfigError for a language that
        the target does not have; EnvironmentFailure when there is no C compiler.
    """
    if backend(task.target.kind, language).language == CBackend.language:
        require_compiler(task.target)  # before records are read and a process is started
    if config is None:
        url = records or from_environment().records
        with SqlStore(url, create=False) as store:
            config = best_record(task, store, url).config
    with Compiler(language) as compiler:
        return compiler.program(task, config)


def example_inputs(task: Task, seed: int = 0) -> tuple[Array, ...]:
    """Plain arrays for the inputs of `task`, the same ones for a seed."""
    return tuple(
        generate(tensor.dtype.name, tensor.shape, seed, index).view(tensor.dtype.numpy)
        for index, tensor in enumerate(task.workload.inputs)
    )
