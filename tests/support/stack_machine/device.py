"""The device: it interprets the text, and counts one nanosecond an instruction."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from loopwright.errors import EnvironmentFailure
from loopwright.kernel_call import Form, Loadable
from loopwright.layout import Array
from loopwright.outcome import FailureKind
from loopwright.runtime.device import (
    Buffer,
    CallTiming,
    Clock,
    DeviceFacts,
    KernelFault,
    require_form,
)
from loopwright.runtime.null import NullDevice
from stack_machine.target import KIND

OPERATIONS: dict[str, Callable[[object, object], object]] = {
    "ADD": operator.add,
    "SUB": operator.sub,
    "MUL": operator.mul,
    "DIV": operator.truediv,
    "FLOORDIV": operator.floordiv,
    "FLOORMOD": operator.mod,
    "MIN": min,
    "MAX": max,
    "LT": operator.lt,
    "LE": operator.le,
    "GT": operator.gt,
    "GE": operator.ge,
    "EQ": operator.eq,
    "NE": operator.ne,
    "AND": operator.and_,
    "OR": operator.or_,
}


@dataclass(frozen=True, slots=True)
class StackKernel:
    device: StackDevice
    arguments: tuple[str, ...]  # NAME:DTYPE
    code: tuple[tuple[str, ...], ...]
    jumps: dict[int, int]  # from `loop` and `if` to `else` or `end`, from `else` and `end` on

    def run(self, buffers: Sequence[Buffer]) -> None:
        self.time(buffers, 1)

    def time(self, buffers: Sequence[Buffer], count: int) -> CallTiming:
        memory = {}
        for argument, buffer in zip(self.arguments, buffers, strict=True):
            name, _, dtype = argument.partition(":")
            memory[name] = self.device.memory(buffer).view(dtype)
        steps = sum(Run(self, memory).steps() for _ in range(count))
        return CallTiming(float(steps), count)


@dataclass(slots=True)
class Run:
    """One call of a kernel."""

    kernel: StackKernel
    memory: dict[str, Array]
    stack: list[object] = field(default_factory=list)
    variables: dict[str, int] = field(default_factory=dict)

    def steps(self) -> int:
        """How many instructions the call takes."""
        at = steps = 0
        while at < len(self.kernel.code):
            at = self.step(at, *self.kernel.code[at])
            steps += 1
        return steps

    def step(self, at: int, name: str, *words: str) -> int:
        """Carry out the instruction at a place; the place of the next one."""
        stack = self.stack
        match name:
            case "push":
                stack.append(np.dtype(words[1]).type(float(words[0])))
            case "get":
                stack.append(self.variables[words[0]])
            case "load":
                stack.append(self.memory[words[0]][self.index(words[0], stack.pop())])
            case "store":
                value, index = stack.pop(), stack.pop()
                self.memory[words[0]][self.index(words[0], index)] = value
            case "binary":
                right, left = stack.pop(), stack.pop()
                stack.append(OPERATIONS[words[0]](left, right))
            case "cast":
                stack.append(np.dtype(words[0]).type(stack.pop()))
            case "alloc":
                buffer, _, dtype = words[0].partition(":")
                self.memory[buffer] = np.empty(int(words[1]), dtype)
            case "loop":
                self.variables[words[0]] = 0
            case "if":
                return at + 1 if stack.pop() else self.kernel.jumps[at] + 1
            case "else":
                return self.kernel.jumps[at] + 1
            case _:
                return self.end(at)
        return at + 1

    def end(self, at: int) -> int:
        """Where it goes on behind an `end`: back to its loop while that has iterations left."""
        start = self.kernel.jumps[at]
        head, *words = self.kernel.code[start]
        if head == "loop":
            self.variables[words[0]] += 1
            if self.variables[words[0]] < int(words[1]):
                return start + 1
        return at + 1

    def index(self, name: str, value: object) -> int:
        """An index into memory, which must be inside."""
        at = int(value)  # type: ignore[call-overload]  # a number of NumPy
        if not 0 <= at < self.memory[name].size:
            raise KernelFault(f"element {at} of {name}", FailureKind.OUT_OF_BOUNDS)
        return at


class StackDevice(NullDevice):
    kind = KIND
    clock = Clock.CYCLES

    def memory(self, buffer: Buffer) -> Array:
        return self._memory[buffer]

    def facts(self) -> DeviceFacts:
        return DeviceFacts("stack machine", 1 << 20, units=1)

    def load(self, kernel: Loadable) -> StackKernel:
        require_form(kernel, KIND, Form.SOURCE)
        (head, *arguments), *code = (tuple(x.split()) for x in kernel.code.decode().splitlines())
        if head != "args":
            raise EnvironmentFailure(f"the code of {kernel.entry} does not begin with args")
        return StackKernel(self, tuple(arguments), tuple(code), jumps(code))


def jumps(code: Sequence[tuple[str, ...]]) -> dict[int, int]:
    """For each instruction that may jump, the one that it belongs to."""
    found: dict[int, int] = {}
    open_: list[int] = []
    for at, (name, *_) in enumerate(code):
        if name in ("else", "end"):
            start = open_.pop()
            found[start] = at
            if name == "end":
                found[at] = start
        if name in ("loop", "if", "else"):
            open_.append(at)
    return found
