"""The function that runs a whole model: it calls every kernel with its arguments, in order.

ABI (C), with `parallel_for_t` of `codegen/artifact.py`:

    void lw_model(void *const *io, const char *constants, char *memory, char *workspace,
                  parallel_for_t parallel, void *pool);
    void lw_model_timed(..., int64_t *ns);

`io` holds the model's inputs, then its outputs. The second function writes the monotonic time in
ns before the first kernel and after each.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass

ENTRY = "lw_model"
TIMED_ENTRY = "lw_model_timed"
_CLOCK_MONOTONIC = 1


class Base(enum.Enum):
    """What an address is relative to."""

    IO = "io"
    CONSTANTS = "constants"
    MEMORY = "memory"


@dataclass(frozen=True, slots=True)
class ArgumentAddress:
    """`offset` bytes from a base; `index` is that of the input or output, inputs first."""

    base: Base
    offset: int
    index: int = 0


@dataclass(frozen=True, slots=True)
class KernelInvocation:
    """A call of the kernel with the entry `entry`."""

    entry: str
    arguments: tuple[ArgumentAddress, ...]


def driver_text(calls: Sequence[KernelInvocation], triple: str) -> str:
    """LLVM text of the two functions."""
    entries = dict.fromkeys(call.entry for call in calls)
    parts = [
        f'target triple = "{triple}"',
        *(f"declare void @{entry}(ptr, ptr, ptr, ptr)" for entry in entries),
        "declare i32 @clock_gettime(i32, ptr)",
        _function(ENTRY, calls, timed=False),
        _function(TIMED_ENTRY, calls, timed=True),
    ]
    return "\n".join(parts) + "\n"


def _function(name: str, calls: Sequence[KernelInvocation], *, timed: bool) -> str:
    most = max((len(call.arguments) for call in calls), default=1)
    more = ", ptr %ns" if timed else ""
    lines = [
        f"define void @{name}(ptr %io, ptr %constants, ptr %memory, ptr %workspace, "
        f"ptr %parallel, ptr %pool{more}) {{",
        f"  %args = alloca [{most} x ptr], align 16",
    ]
    if timed:
        lines += ["  %time = alloca [2 x i64], align 16", *_stamp(0)]
    loaded: set[int] = set()
    for number, call in enumerate(calls):
        for place, address in enumerate(call.arguments):
            lines += _argument(f"a{number}.{place}", place, address, loaded)
        lines.append(
            f"  call void @{call.entry}(ptr %args, ptr %workspace, ptr %parallel, ptr %pool)"
        )
        if timed:
            lines += _stamp(number + 1)
    return "\n".join([*lines, "  ret void", "}"])


def _argument(name: str, place: int, address: ArgumentAddress, loaded: set[int]) -> list[str]:
    lines = []
    base = f"%{address.base.value}"
    if address.base is Base.IO:
        base = f"%io{address.index}"
        if address.index not in loaded:
            loaded.add(address.index)
            lines += [
                f"  {base}.at = getelementptr ptr, ptr %io, i64 {address.index}",
                f"  {base} = load ptr, ptr {base}.at, align 8",
            ]
    return [
        *lines,
        f"  %{name} = getelementptr i8, ptr {base}, i64 {address.offset}",
        f"  %{name}.slot = getelementptr ptr, ptr %args, i64 {place}",
        f"  store ptr %{name}, ptr %{name}.slot, align 8",
    ]


def _stamp(number: int) -> list[str]:
    """Write the time to ns[number]."""
    return [
        f"  %c{number} = call i32 @clock_gettime(i32 {_CLOCK_MONOTONIC}, ptr %time)",
        f"  %s{number} = load i64, ptr %time, align 8",
        f"  %n{number}.at = getelementptr i64, ptr %time, i64 1",
        f"  %n{number} = load i64, ptr %n{number}.at, align 8",
        f"  %m{number} = mul i64 %s{number}, 1000000000",
        f"  %t{number} = add i64 %m{number}, %n{number}",
        f"  %o{number} = getelementptr i64, ptr %ns, i64 {number}",
        f"  store i64 %t{number}, ptr %o{number}, align 8",
    ]
