"""Kernels in LLVM text: `double` computes y = x + x on 1000 floats, the others misbehave."""

from __future__ import annotations

import ctypes
import os
import platform
import signal
import time

import llvmlite.binding as llvm

from loopwright.codegen.artifact import Artifact, Param
from loopwright.errors import CodegenError, ScheduleError, TemplateError
from loopwright.ir.dtype import F32
from loopwright.layout import Layout
from loopwright.sched.schedule import Schedule
from loopwright.space.config import Config
from loopwright.space.knobs import ChoiceKnob
from loopwright.space.space import Space
from loopwright.target.host import host
from loopwright.target.union import Target
from loopwright.te import language as te
from loopwright.te.workload import Workload, workload
from loopwright.templates.task import Task, make
from loopwright.templates.template import Configuration, Template

N = 1000

# Kernels may not use the C library beyond what generated code needs: these make system calls.
_CALL = {
    "x86_64": (
        'asm sideeffect "syscall", "={rax},{rax},{rdi},{rsi},{rdx},{r10},{r8},{r9},'
        '~{rcx},~{r11},~{memory}"',
        {"write": 1, "close": 3, "mmap": 9, "getpid": 39, "clone": 56, "kill": 62, "getppid": 110,
         "exit_group": 231, "unlinkat": 263, "ppoll": 271},
    ),
    "aarch64": (
        'asm sideeffect "svc #0", "={x0},{x8},{x0},{x1},{x2},{x3},{x4},{x5},~{memory}"',
        {"write": 64, "close": 57, "mmap": 222, "getpid": 172, "clone": 220, "kill": 129,
         "getppid": 173, "exit_group": 94, "unlinkat": 35, "ppoll": 73},
    ),
}[platform.machine()]  # fmt: skip


def _system_call(name: str, *arguments: str) -> str:
    """`call i64 ...` of a system call; arguments are values of type i64."""
    padded = (str(_CALL[1][name]), *arguments, *["0"] * (6 - len(arguments)))
    return f"call i64 {_CALL[0]}({', '.join(f'i64 {a}' for a in padded)})"


_DECLARATIONS = f"""
declare void @llvm.trap()
@text = private constant [8 x i8] c"garbage\\0A"
@path = private constant [16 x i8] c"/tmp/none-at-all"
define internal void @abort() {{
  %me = {_system_call("getpid")}
  %sent = {_system_call("kill", "%me", "6")}
  ret void
}}
define internal void @_exit(i32 %status) {{
  %wide = zext i32 %status to i64
  %never = {_system_call("exit_group", "%wide")}
  ret void
}}
define internal void @exit(i32 %status) {{
  call void @_exit(i32 %status)
  ret void
}}
define internal i32 @fork() {{
  %pid = {_system_call("clone", "17")}
  %short = trunc i64 %pid to i32
  ret i32 %short
}}
define internal i32 @getppid() {{
  %pid = {_system_call("getppid")}
  %short = trunc i64 %pid to i32
  ret i32 %short
}}
define internal i32 @kill(i32 %pid, i32 %signal) {{
  %wide = sext i32 %pid to i64
  %number = sext i32 %signal to i64
  %sent = {_system_call("kill", "%wide", "%number")}
  ret i32 0
}}
define internal i32 @close(i32 %fd) {{
  %wide = sext i32 %fd to i64
  %closed = {_system_call("close", "%wide")}
  ret i32 0
}}
define internal i64 @write(i32 %fd, ptr %data, i64 %count) {{
  %wide = sext i32 %fd to i64
  %at = ptrtoint ptr %data to i64
  %written = {_system_call("write", "%wide", "%at", "%count")}
  ret i64 %written
}}
define internal ptr @map(i64 %size) {{
  %at = {_system_call("mmap", "0", "%size", "3", "34", "-1", "0")}
  %memory = inttoptr i64 %at to ptr
  ret ptr %memory
}}
define internal i32 @pause() {{
  %never = {_system_call("ppoll")}
  ret i32 0
}}
define internal i32 @unlink(ptr %path) {{
  %at = ptrtoint ptr %path to i64
  %gone = {_system_call("unlinkat", "-100", "%at")}
  ret i32 0
}}
"""

_DOUBLE = """
  br label %loop
loop:
  %k = phi i64 [ 0, %0 ], [ %k.next, %loop ]
  %x.p = getelementptr float, ptr %x, i64 %k
  %y.p = getelementptr float, ptr %y, i64 %k
  %v = load float, ptr %x.p
  %w = fadd float %v, %v
  store float %w, ptr %y.p
  %k.next = add i64 %k, 1
  %more = icmp ult i64 %k.next, {n}
  br i1 %more, label %loop, label %done
done:
"""

# Entry -> body; %x, %y and %ws are the input, the output and the workspace.
BODIES = {
    "double": _DOUBLE.format(n=N),
    "triple_first": _DOUBLE.format(n=N) + "  store float 3.0, ptr %y\n",
    "leaves_the_last": _DOUBLE.format(n=N - 1),
    "adds_to_what_was_there": _DOUBLE.format(n=N)
    .replace("fadd float %v, %v", "fadd float %v, %old")
    .replace("  %v =", "  %old = load float, ptr %y.p\n  %v ="),
    "null": "  store i32 1, ptr null\n",
    "wild": "  store i32 1, ptr inttoptr (i64 4096 to ptr)\n",
    "trap": "  call void @llvm.trap()\n",
    "abort": "  call void @abort()\n",
    "exit": "  call void @exit(i32 0)\n",
    "quick_exit": "  call void @_exit(i32 3)\n",
    "hang": "  br label %loop\nloop:\n  br label %loop\n",
    "sleep": "  %p = call i32 @pause()\n",
    "past_slack": f"  %q = getelementptr float, ptr %y, i64 {N}\n  store float 0.0, ptr %q\n",
    "past_guard": f"  %q = getelementptr float, ptr %y, i64 {N + 64}\n  store float 0.0, ptr %q\n",
    "before_slack": "  %q = getelementptr float, ptr %y, i64 -1\n  store float 0.0, ptr %q\n",
    "before_guard": "  %q = getelementptr float, ptr %y, i64 -2000\n  store float 0.0, ptr %q\n",
    "past_input": f"  %q = getelementptr float, ptr %x, i64 {N + 64}\n"
    "  %v = load volatile float, ptr %q\n",
    "into_input": "  store float 0.0, ptr %x\n",
    "past_workspace": "  %q = getelementptr i8, ptr %ws, i64 256\n  store i8 0, ptr %q\n",
    "malloc": "  br label %loop\nloop:\n  %m = call ptr @map(i64 1048576)\n"
    "  store volatile i8 1, ptr %m\n  br label %loop\n",
    "mmap_and_touch": "  br label %loop\nloop:\n"
    "  %m = call ptr @map(i64 67108864)\n"
    "  store volatile i8 1, ptr %m\n  br label %loop\n",
    "reserve_and_hang": "  br label %loop\nloop:\n"
    "  %m = call ptr @map(i64 67108864)\n"
    "  br label %loop\n",
    "recurse": "  %deep = call i64 @deep(i64 1)\n",
    "fork": "  %p = call i32 @fork()\n",
    "fork_bomb": "  br label %loop\nloop:\n  %p = call i32 @fork()\n  br label %loop\n",
    "kill_parent": "  %p = call i32 @getppid()\n  %q = call i32 @kill(i32 %p, i32 9)\n",
    "unlink": "  %q = call i32 @unlink(ptr @path)\n",
    "close_all": "  br label %loop\nloop:\n  %k = phi i32 [ 0, %0 ], [ %k.next, %loop ]\n"
    "  %c = call i32 @close(i32 %k)\n  %k.next = add i32 %k, 1\n"
    "  %more = icmp ult i32 %k.next, 64\n  br i1 %more, label %loop, label %done\ndone:\n"
    + _DOUBLE.replace("loop", "loop2")
    .replace("done", "done2")
    .replace("%0 ]", "%done ]")
    .replace("%k", "%j")
    .replace("%more", "%more2")
    .format(n=N),
    "scribble": "  br label %loop\nloop:\n  %k = phi i32 [ 0, %0 ], [ %k.next, %loop ]\n"
    "  %c = call i64 @write(i32 %k, ptr @text, i64 8)\n  %k.next = add i32 %k, 1\n"
    "  %more = icmp ult i32 %k.next, 64\n  br i1 %more, label %loop, label %done\ndone:\n"
    + _DOUBLE.replace("loop", "loop2")
    .replace("done", "done2")
    .replace("%0 ]", "%done ]")
    .replace("%k", "%j")
    .replace("%more", "%more2")
    .format(n=N),
    "print_and_abort": "  %c = call i64 @write(i32 2, ptr @text, i64 8)\n  call void @abort()\n",
}

_RECURSION = """
define i64 @deep(i64 %n) noinline {
  %big = alloca [4096 x i8]
  store volatile i8 1, ptr %big
  %next = add i64 %n, 1
  %r = call i64 @deep(i64 %next)
  %v = load volatile i8, ptr %big
  %w = zext i8 %v to i64
  %s = add i64 %r, %w
  ret i64 %s
}
"""

# y = x + x in a parallel loop; body runs over elements.
_PARALLEL = """
define internal void @body(ptr %closure, i64 %begin, i64 %end, i64 %thread) {
  %x = load ptr, ptr %closure
  %y.at = getelementptr ptr, ptr %closure, i64 1
  %y = load ptr, ptr %y.at
  br label %loop
loop:
  %k = phi i64 [ %begin, %0 ], [ %k.next, %loop ]
  %x.p = getelementptr float, ptr %x, i64 %k
  %y.p = getelementptr float, ptr %y, i64 %k
  %v = load float, ptr %x.p
  %w = fadd float %v, %v
  store float %w, ptr %y.p
  %k.next = add i64 %k, 1
  %more = icmp slt i64 %k.next, %end
  br i1 %more, label %loop, label %done
done:
  ret void
}
define void @k_parallel_double(ptr %args, ptr %ws, ptr %parallel, ptr %pool) {
  call void %parallel(ptr %pool, ptr @body, ptr %args, i64 1000)
  ret void
}
define internal void @bad_body(ptr %closure, i64 %begin, i64 %end, i64 %thread) {
  store i32 1, ptr null
  ret void
}
define void @k_parallel_null(ptr %args, ptr %ws, ptr %parallel, ptr %pool) {
  call void %parallel(ptr %pool, ptr @bad_body, ptr %args, i64 1000)
  ret void
}
"""


def function(entry: str) -> str:
    """The definition of one of BODIES."""
    ends = entry in ("hang", "malloc", "mmap_and_touch", "reserve_and_hang", "fork_bomb")
    return (
        f"define void @k_{entry}(ptr %args, ptr %ws, ptr %parallel, ptr %pool) {{\n"
        "  %x = load ptr, ptr %args\n"
        "  %y.at = getelementptr ptr, ptr %args, i64 1\n"
        "  %y = load ptr, ptr %y.at\n" + BODIES[entry] + ("" if ends else "  ret void\n") + "}\n"
    )


TEXT = _DECLARATIONS + _RECURSION + _PARALLEL + "".join(function(e) for e in BODIES)
UNDEFINED = "declare void @no_such_function()\n" + function("double").replace(
    "  ret void", "  call void @no_such_function()\n  ret void"
)


def artifact(code: bytes, entry: str) -> Artifact:
    """An artifact of `code` with the ABI of `double` and 256 bytes of workspace."""
    plain = Layout.plain(1)
    params = (Param("x", F32, (N,), plain), Param("y", F32, (N,), plain))
    return Artifact(
        code=code,
        entry=f"k_{entry}",
        params=params,
        n_outputs=1,
        workspace_shared=256,
        target_key=host().key,
    )


def double_workload() -> Workload:
    x = te.placeholder((N,), name="x")
    y = te.compute((N,), lambda i: x[i] + x[i], name="y")
    return workload(y, (x, y), name="double")


def _space(work: Workload, machine: Target) -> Space:  # noqa: ARG001  # the signature of a template
    return Space([ChoiceKnob("action", ("double",))])


def _schedule(s: Schedule, config: Configuration) -> None:
    """Nothing: the fake builds below do not schedule."""


def task(threads: int = 1) -> Task:
    template = Template("by-hand", 1, _space, _schedule)
    return make(double_workload(), template, host(), threads=threads)


def config(action: str) -> Config:
    return Config.of({"action": action})


def build(task: Task, config: Config) -> Artifact:  # noqa: ARG001  # the signature of a build
    """Misbehave as `config["action"]` says, or build that entry."""
    action = str(config["action"])
    errors = {
        "illegal": ScheduleError("split of j by 0: use a factor >= 1"),
        "template": TemplateError("the template raised"),
        "codegen": CodegenError("no rule for erf"),
        "bug": ZeroDivisionError("division by zero"),
    }
    if action in errors:
        raise errors[action]
    if action == "compiler-aborts":
        ctypes.CDLL(None).abort()
    if action == "compiler-segfaults":
        ctypes.string_at(0)
    if action == "compiler-loops":
        while True:
            pass
    if action == "compiler-sleeps":
        signal.pause()
    if action == "compiler-eats":
        kept = []
        while True:
            kept.append(bytearray(64 << 20))
    if action == "compiler-killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if action.startswith("spin-"):
        until = time.process_time() + float(action[5:])
        while time.process_time() < until:
            pass
        action = "double"
    return artifact(compile_here(_DECLARATIONS + _RECURSION + _PARALLEL + function(action)), action)


def compile_here(text: str) -> bytes:
    """The object of `text`, compiled in this process."""
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    llvm.initialize_native_asmparser()
    machine = llvm.Target.from_default_triple().create_target_machine(opt=2, reloc="pic")
    module = llvm.parse_assembly(text)
    module.verify()
    return bytes(machine.emit_object(module))


def ends_elsewhere(pid: int) -> str:
    """`here` in the process `pid`, and the end of any other."""
    if os.getpid() != pid:
        os.kill(os.getpid(), signal.SIGKILL)
    return "here"
