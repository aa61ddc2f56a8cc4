"""Native runtimes that attack, for x86-64: one of their functions makes system calls first."""

from __future__ import annotations

from collections.abc import Sequence

from loopwright.runtime.cpu import native_ir

PLACES = {
    "lw_watch": "define void @lw_watch(ptr %where, i64 %bytes) {",
    "lw_worker": "define ptr @lw_worker(ptr %slot) {",
    "lw_repeat": "define void @lw_repeat(ptr %entry, ptr %args, ptr %ws, ptr %parallel, ptr %pool, "
    "i64 %count) {",
    "lw_parallel": "define void @lw_parallel(ptr %pool, ptr %body, ptr %closure, i64 %extent) {",
}
"""How the functions begin that a measurement calls."""
_RAW = """
define internal i64 @raw(i64 %n, i64 %a, i64 %b, i64 %c, i64 %d, i64 %e, i64 %f) {
  %r = call i64 asm sideeffect "syscall",
    "={rax},{rax},{rdi},{rsi},{rdx},{r10},{r8},{r9},~{rcx},~{r11},~{memory}"
    (i64 %n, i64 %a, i64 %b, i64 %c, i64 %d, i64 %e, i64 %f)
  ret i64 %r
}
"""
Argument = int | bytes | str
"""A number, bytes that a pointer to is passed, or the result of a call before as `%0`, `%1`..."""
Calls = Sequence[tuple[int, Sequence[Argument]]]


def attacking(place: str, calls: Calls) -> str:
    """The module of a native runtime whose function `place` makes `calls` before its work."""
    begins = PLACES[place]
    plain = native_ir.text("x86_64")
    if begins not in plain:
        raise ValueError(f"{place} begins in another way")
    # Blocks of these functions have phis that name their first block by its number.
    inner = begins.replace(f"@{place}(", f"@inner_{place}(").replace("define", "define internal")
    parameters = begins[begins.index("(") : begins.index(")") + 1]
    result = begins.split()[1]
    end = f"  %r = call {result} @inner_{place}{parameters}\n  ret {result} %r\n"
    if result == "void":
        end = f"  call void @inner_{place}{parameters}\n  ret void\n"
    text, body = _attack(calls)
    return "\n".join([plain.replace(begins, inner), _RAW, text, begins, body, end, "}", ""])


def _attack(calls: Calls) -> tuple[str, str]:
    """Constants, and lines that make `calls`; %callN is what call N returned."""
    constants: list[str] = []
    lines: list[str] = []
    for at, (number, arguments) in enumerate(calls):
        operands = [f"i64 {number}"]
        for argument in arguments:
            match argument:
                case bytes():
                    name = f"@data{len(constants)}"
                    escaped = "".join(f"\\{byte:02X}" for byte in argument)
                    kind = f"[{len(argument)} x i8]"
                    constants.append(f'{name} = internal global {kind} c"{escaped}"')
                    operands.append(f"i64 ptrtoint (ptr {name} to i64)")
                case str():
                    operands.append(f"i64 %call{argument[1:]}")
                case _:
                    operands.append(f"i64 {argument}")
        operands += ["i64 0"] * (7 - len(operands))
        lines.append(f"  %call{at} = call i64 @raw({', '.join(operands)})")
    return "\n".join(constants), "\n".join(lines)
