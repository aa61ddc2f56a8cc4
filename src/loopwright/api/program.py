"""A tuned program of an operator: built from its best record, called with NumPy arrays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Self

from loopwright.codegen.artifact import Artifact
from loopwright.codegen.compile import compile_config
from loopwright.errors import (
    CodegenError,
    EnvironmentFailure,
    ScheduleError,
    ShapeError,
    TemplateError,
)
from loopwright.layout import Array
from loopwright.measure.build import Built
from loopwright.measure.builders import BuilderPool
from loopwright.measure.inputs import generate
from loopwright.measure.types import Failed, FailureKind, MeasurePlan
from loopwright.records.best import lookup
from loopwright.records.device import fingerprint
from loopwright.records.record import Record, task_key
from loopwright.records.store import RecordStore, SqlStore
from loopwright.runtime.cpu import BoundCall, CpuDevice, Module
from loopwright.settings import from_environment
from loopwright.space.config import Config
from loopwright.templates.task import Task


class Program:
    """A kernel of `task`, called with plain arrays: `program(data, weight)` returns the output.

    `bind(weight=w)` lays weights out once; the program that comes back takes the other inputs.
    """

    def __init__(
        self, task: Task, config: Config, module: Module, bound: Mapping[str, Array] | None = None
    ) -> None:
        self.task = task
        self.config = config
        self._module = module
        self._bound = dict(bound or {})  # in memory layout

    @property
    def inputs(self) -> tuple[str, ...]:
        """The names of the inputs that a call takes, in order."""
        return tuple(p.name for p in self._module.inputs if p.name not in self._bound)

    def __call__(self, *arrays: Array) -> Array | tuple[Array, ...]:
        """The output (a tuple of them when there are several) for plain arrays, one an input.

        Raises: ShapeError if number, shape or dtype of the arrays is not that of `inputs`.
        """
        if not self._bound:
            return self._module(*arrays)
        memory = self._memory(arrays)
        results = self._module.empty_outputs()
        self._module.call(*memory, *results)
        plain = tuple(
            param.layout.unpack(result, param.shape)
            for param, result in zip(self._module.outputs, results, strict=True)
        )
        return plain[0] if len(plain) == 1 else plain

    def bind(self, **arrays: Array) -> Program:
        """This program with the named inputs laid out once and for all.

        Raises: ShapeError for a name that is no input, or another shape or dtype.
        """
        packed = dict(self._bound)
        for name, array in arrays.items():
            packed[name] = self._pack(name, array)
        return Program(self.task, self.config, self._module, packed)

    def timed_call(self, *arrays: Array) -> BoundCall:
        """The kernel alone on `arrays`, everything laid out ahead: what is timed."""
        return self._module.bind(*self._memory(arrays), *self._module.empty_outputs())

    def _memory(self, arrays: Sequence[Array]) -> list[Array]:
        names = self.inputs
        if len(arrays) != len(names):
            raise ShapeError(
                f"{self.task.name}: got {len(arrays)} inputs, takes {len(names)}: "
                + ", ".join(names)
            )
        given = dict(zip(names, arrays, strict=True))
        return [
            self._bound[p.name] if p.name in self._bound else self._module.pack(p, given[p.name])
            for p in self._module.inputs
        ]

    def _pack(self, name: str, array: Array) -> Array:
        for param in self._module.inputs:
            if param.name == name:
                return self._module.pack(param, array)
        known = ", ".join(p.name for p in self._module.inputs)
        raise ShapeError(f"{self.task.name}: there is no input {name!r}; there are {known}")


class Compiler:
    """Makes programs in another process, which an error inside LLVM can only end itself."""

    def __init__(self) -> None:
        self._pool = BuilderPool(compile_config, 1)
        self._devices: dict[int, CpuDevice] = {}

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
        artifact = self._artifact(task, config)
        device = self._devices.get(task.threads)
        if device is None:
            device = self._devices[task.threads] = CpuDevice(task.threads)
        return Program(task, config, device.load(artifact))

    def _artifact(self, task: Task, config: Config) -> Artifact:
        built: Built = self._pool.submit(task, config, MeasurePlan(threads=task.threads)).result()
        if isinstance(built.result, Failed):
            raise _error(task, config, built.result)
        return built.result


def _error(task: Task, config: Config, failed: Failed) -> Exception:
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


def build(task: Task, *, records: str | None = None, config: Config | None = None) -> Program:
    """The fastest known program of `task`, ready to be called.

    Args:
        records: the URL to take it from; LOOPWRIGHT_RECORDS when None.
        config: build this one instead of the best record.

    Raises: RecordsError when the records hold nothing that fits.
    """
    if config is None:
        url = records or from_environment().records
        with SqlStore(url, create=False) as store:
            config = best_record(task, store, url).config
    with Compiler() as compiler:
        return compiler.program(task, config)


def example_inputs(task: Task, seed: int = 0) -> tuple[Array, ...]:
    """Plain arrays for the inputs of `task`, the same ones for a seed."""
    return tuple(
        generate(tensor.dtype.name, tensor.shape, seed, index).view(tensor.dtype.numpy)
        for index, tensor in enumerate(task.workload.inputs)
    )
