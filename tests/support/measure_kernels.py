"""Kernels in LLVM text: `double` computes y = x + x on 1000 floats, the others misbehave."""

from __future__ import annotations

import ctypes
import os
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

_DECLARATIONS = """
declare void @abort()
declare void @exit(i32)
declare void @_exit(i32)
declare i32 @fork()
declare i32 @getppid()
declare i32 @kill(i32, i32)
declare i32 @close(i32)
declare i64 @write(i32, ptr, i64)
declare ptr @malloc(i64)
declare ptr @mmap(ptr, i64, i32, i32, i32, i64)
declare i32 @pause()
declare i32 @unlink(ptr)
declare i32 @setsid()
declare void @llvm.trap()
@text = private constant [8 x i8] c"garbage\\0A"
@path = private constant [16 x i8] c"/tmp/none-at-all"
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
    "malloc": "  br label %loop\nloop:\n  %m = call ptr @malloc(i64 1048576)\n"
    "  store volatile i8 1, ptr %m\n  br label %loop\n",
    "mmap_and_touch": "  br label %loop\nloop:\n"
    "  %m = call ptr @mmap(ptr null, i64 67108864, i32 3, i32 34, i32 -1, i64 0)\n"
    "  store volatile i8 1, ptr %m\n  br label %loop\n",
    "reserve_and_hang": "  br label %loop\nloop:\n"
    "  %m = call ptr @mmap(ptr null, i64 67108864, i32 3, i32 34, i32 -1, i64 0)\n"
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
    machine = llvm.Target.from_default_triple().create_target_machine(opt=2, reloc="pic")
    module = llvm.parse_assembly(text)
    module.verify()
    return bytes(machine.emit_object(module))


def ends_elsewhere(pid: int) -> str:
    """`here` in the process `pid`, and the end of any other."""
    if os.getpid() != pid:
        os.kill(os.getpid(), signal.SIGKILL)
    return "here"
