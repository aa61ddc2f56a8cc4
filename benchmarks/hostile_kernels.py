"""Kernels that do what a candidate must not, in LLVM text, and what should come of each.

All have the ABI of `codegen.artifact` with an input x and an output y of N floats, and 256 bytes
of workspace. `hostile` has kinds of misbehaviour; `probes` are single system calls that would
lead out of a sandbox, whose result a kernel leaves in y[0] (below 0 when it failed). Numbers of
system calls are those of x86-64; they are made by instructions of the kernels' own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

from loopwright.fleet.words import RunStatus

N = 1000
_HEAD = """
declare void @llvm.trap()
define internal i64 @raw(i64 %n, i64 %a, i64 %b, i64 %c, i64 %d, i64 %e, i64 %f) {
  %r = call i64 asm sideeffect "syscall",
    "={rax},{rax},{rdi},{rsi},{rdx},{r10},{r8},{r9},~{rcx},~{r11},~{memory}"
    (i64 %n, i64 %a, i64 %b, i64 %c, i64 %d, i64 %e, i64 %f)
  ret i64 %r
}
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
_DOUBLE = f"""
  br label %compute
compute:
  %k = phi i64 [ 0, %start ], [ %k.next, %compute ]
  %x.p = getelementptr float, ptr %x, i64 %k
  %y.p = getelementptr float, ptr %y, i64 %k
  %v = load float, ptr %x.p
  %w = fadd float %v, %v
  store float %w, ptr %y.p
  %k.next = add i64 %k, 1
  %more = icmp ult i64 %k.next, {N}
  br i1 %more, label %compute, label %computed
computed:
"""
Argument: TypeAlias = int | str
"""A number, or a text that a pointer to is passed."""

_CRASH, _KILLED = RunStatus.CRASH, RunStatus.SANDBOX_VIOLATION
_SIGKILL, _SIGQUIT, _SIGSTOP, _SIGABRT = 9, 3, 19, 6
_PAUSE, _CLONE, _EXIT, _EXIT_GROUP = 34, 56, 60, 231
_AS_THREAD = 0x50F00  # CLONE_VM and what else a thread shares
_KILL, _GETPID, _WRITE, _CLOSE, _DUP, _SOCKET, _SETSID, _FORK = 62, 39, 1, 3, 32, 41, 112, 57
_OPENAT, _HERE, _MMAP, _UNLINK, _SETITIMER, _CLOCK_SETTIME = 257, -100, 9, 87, 38, 227
_EXECUTABLE = 7  # read, write, execute
_ANONYMOUS = 0x22
_INFINITE = 1 << 62


@dataclass(frozen=True, slots=True)
class Hostile:
    """A kind: the body of a kernel, and what should come of it."""

    name: str
    body: str
    status: RunStatus

    @property
    def entry(self) -> str:
        """The symbol of the kernel."""
        return f"k_{self.name}"

    @property
    def waits(self) -> bool:
        """Whether it ends by a time limit only."""
        return self.status is RunStatus.TIMEOUT


class _Text:
    """Collects constants while bodies are written."""

    def __init__(self) -> None:
        self.constants: list[str] = []

    def pointer(self, text: str) -> str:
        """An operand that points to `text`."""
        name = f"@text{len(self.constants)}"
        data = text.encode() + b"\0"
        escaped = "".join(f"\\{byte:02X}" for byte in data)
        self.constants.append(f'{name} = private constant [{len(data)} x i8] c"{escaped}"')
        return f"ptr {name}"

    def call(self, result: str, number: int, *arguments: Argument | str) -> str:
        """A line that makes a system call; texts that begin with % are values."""
        operands = [f"i64 {number}"]
        for argument in arguments:
            if isinstance(argument, int) or argument.startswith("%"):
                operands.append(f"i64 {argument}")
            else:
                operands.append(f"i64 ptrtoint ({self.pointer(argument)} to i64)")
        operands += ["i64 0"] * (7 - len(operands))
        return f"  %{result} = call i64 @raw({', '.join(operands)})\n"


def _loop(label: str, count: int, inner: str) -> str:
    """`inner` `count` times; %i.LABEL counts."""
    return (
        f"  br label %{label}\n{label}:\n"
        f"  %i.{label} = phi i64 [ 0, %BEFORE ], [ %n.{label}, %{label} ]\n{inner}"
        f"  %n.{label} = add i64 %i.{label}, 1\n"
        f"  %m.{label} = icmp ult i64 %n.{label}, {count}\n"
        f"  br i1 %m.{label}, label %{label}, label %after.{label}\nafter.{label}:\n"
    ).replace("%BEFORE", "%start")


def _kinds(t: _Text) -> list[Hostile]:
    ok, timeout, oom = RunStatus.OK, RunStatus.TIMEOUT, RunStatus.OOM
    me = t.call("me", _GETPID)
    touch = (
        t.call("m", _MMAP, 0, 64 << 20, 3, _ANONYMOUS, -1, 0)
        + "  %q = inttoptr i64 %m to ptr\n  store volatile i8 1, ptr %q\n"
    )
    exec_page = t.call("m", _MMAP, 0, 4096, _EXECUTABLE, _ANONYMOUS, -1, 0) + (
        "  %q = inttoptr i64 %m to ptr\n  store volatile i8 -61, ptr %q\n  call void %q()\n"
    )
    jump = '  call void asm sideeffect "xorl %esp, %esp; ret", "~{memory}"()\n'  # as longjmp may
    words = "so much to say..\n"
    flood = t.call("w1", _WRITE, 1, words, 17) + t.call("w2", _WRITE, 2, words, 17)
    return [
        Hostile("segv", "  store volatile i32 1, ptr null\n", _CRASH),
        Hostile("wild_jump", "  call void inttoptr (i64 4096 to ptr)()\n", _CRASH),
        Hostile("trap", "  call void @llvm.trap()\n", _CRASH),
        Hostile("abort", me + t.call("sent", _KILL, "%me", _SIGABRT), _CRASH),
        Hostile("exit", t.call("never", _EXIT_GROUP, 0), _CRASH),
        Hostile("quick_exit", t.call("never", _EXIT, 0), _CRASH),
        Hostile("loop", _loop("spin", _INFINITE, '  call void asm sideeffect "", ""()\n'), timeout),
        Hostile("sleep", t.call("p", _PAUSE), timeout),
        Hostile("fork_bomb", _loop("bomb", _INFINITE, t.call("p", _FORK)), _KILLED),
        Hostile("thread_bomb", t.call("p", _CLONE, _AS_THREAD, 0, 0, 0, 0), _KILLED),
        Hostile("memory", _loop("eat", _INFINITE, touch), oom),
        Hostile("stack", "  %d = call i64 @deep(i64 1)\n", _CRASH),
        Hostile("descriptors", _loop("leak", 100_000, t.call("d", _DUP, 1)), ok),
        Hostile("kill_everything", t.call("sent", _KILL, -1, _SIGKILL), _KILLED),
        Hostile("kill_parent", t.call("sent", _KILL, 1, _SIGKILL), _KILLED),
        Hostile("stop_itself", me + t.call("sent", _KILL, "%me", _SIGSTOP), timeout),
        Hostile("leave_session", t.call("s", _SETSID) + t.call("p", _FORK), _KILLED),
        Hostile("flood", _loop("say", _INFINITE, flood), timeout),
        Hostile("close_everything", _loop("shut", 1024, t.call("c", _CLOSE, "%i.shut")), ok),
        Hostile("longjmp", jump, _CRASH),
        Hostile("write_and_execute", exec_page, _CRASH),
        Hostile("network", t.call("s", _SOCKET, 2, 1, 0), _KILLED),
        Hostile("read_proc", t.call("f", _OPENAT, _HERE, "/proc/self/maps", 0), ok),
        Hostile("unlink", t.call("u", _UNLINK, "/root/none-at-all"), _KILLED),
        Hostile("set_timer", t.call("s", _SETITIMER, 0, 0, 0), ok),
        Hostile("set_clock", t.call("s", _CLOCK_SETTIME, 0, 0), _KILLED),
        Hostile("core_dump", me + t.call("sent", _KILL, "%me", _SIGQUIT), _CRASH),
        Hostile("kill_itself", me + t.call("sent", _KILL, "%me", _SIGKILL), oom),
        Hostile(
            "past_the_end",
            f"  %q = getelementptr float, ptr %y, i64 {N + 64}\n  store float 0.0, ptr %q\n",
            RunStatus.OUT_OF_BOUNDS,
        ),
        Hostile("into_input", "  store float 0.0, ptr %x\n", RunStatus.OUT_OF_BOUNDS),
    ]


def _function(entry: str, body: str) -> str:
    last = "start"
    for line in body.splitlines():
        if line.endswith(":") and not line.startswith(" "):
            last = line[:-1]
    return (
        f"define void @{entry}(ptr %args, ptr %ws, ptr %parallel, ptr %pool) {{\nstart:\n"
        "  %x = load ptr, ptr %args\n"
        "  %y.at = getelementptr ptr, ptr %args, i64 1\n"
        "  %y = load ptr, ptr %y.at\n"
        + body
        + _DOUBLE.replace("%start", f"%{last}")
        + "  ret void\n}\n"
    )


def hostile() -> tuple[str, tuple[Hostile, ...]]:
    """The module with all kinds and the good kernel `k_double`, and the kinds."""
    text = _Text()
    kinds = tuple(_kinds(text))
    functions = [_function(kind.entry, kind.body) for kind in kinds]
    functions.append(_function("k_double", ""))
    return "\n".join([_HEAD, *text.constants, *functions]), kinds


CONSTRUCTOR = (
    "declare void @llvm.trap()\n"
    "define internal void @early() {\n  call void @llvm.trap()\n  ret void\n}\n"
    "@llvm.global_ctors = appending global [1 x { i32, ptr, ptr }] "
    "[{ i32, ptr, ptr } { i32 65535, ptr @early, ptr null }]\n" + _function("k_double", "")
)
"""A module that aborts when it is loaded."""


@dataclass(frozen=True, slots=True)
class Probe:
    """One system call that must not succeed."""

    name: str
    number: int
    arguments: tuple[Argument, ...]

    @property
    def entry(self) -> str:
        """The symbol of the kernel."""
        return f"k_{self.name}"


def probes(victim: str, folder: str) -> tuple[Probe, ...]:
    """Ways out of a sandbox; `victim` is a file and `folder` a folder of somebody else's."""
    write = 0x241  # O_WRONLY | O_CREAT | O_TRUNC
    return (
        Probe("open_shadow", _OPENAT, (_HERE, "/etc/shadow", 0)),
        Probe("open_passwd", 2, ("/etc/passwd", 0)),
        Probe("open_memory", _OPENAT, (_HERE, "/proc/self/mem", 2)),
        Probe("open_environ", _OPENAT, (_HERE, "/proc/1/environ", 0)),
        Probe("open_home", _OPENAT, (_HERE, "/root", 0x10000)),
        Probe("open_victim", _OPENAT, (_HERE, victim, 0)),
        Probe("list_folder", _OPENAT, (_HERE, folder, 0x10000)),
        Probe("write_victim", _OPENAT, (_HERE, victim, 1)),
        Probe("create_file", _OPENAT, (_HERE, f"{folder}/new", write, 0o600)),
        Probe("create_here", _OPENAT, (_HERE, "new", write, 0o600)),
        Probe("unlink_victim", _UNLINK, (victim,)),
        Probe("rename_victim", 82, (victim, f"{folder}/other")),
        Probe("symlink", 88, (victim, f"{folder}/link")),
        Probe("make_folder", 83, (f"{folder}/folder", 0o700)),
        Probe("chmod_victim", 90, (victim, 0o777)),
        Probe("ptrace_parent", 101, (16, 1, 0, 0)),
        Probe("kill_parent", _KILL, (1, _SIGKILL)),
        Probe("kill_all", _KILL, (-1, _SIGKILL)),
        Probe("signal_thread", 234, (1, 1, _SIGKILL)),
        Probe("pidfd", 434, (1, 0)),
        Probe("read_parent", 310, (1, 0, 0, 0, 0, 0)),
        Probe("inet_socket", _SOCKET, (2, 1, 0)),
        Probe("unix_socket", _SOCKET, (1, 1, 0)),
        Probe("connect", 42, (0, "\2\0\0\x50\x7f\0\0\1\0\0\0\0\0\0\0\0", 16)),
        Probe("mount", 165, ("none", folder, "tmpfs", 0, 0)),
        Probe("unmount", 166, ("/proc", 2)),
        Probe("user_namespace", 272, (0x10000000,)),
        Probe("mount_namespace", 272, (0x00020000,)),
        Probe("enter_namespace", 308, (0, 0)),
        Probe("fork", _FORK, ()),
        Probe("clone", 56, (17, 0, 0, 0, 0)),
        Probe("execute", 59, ("/bin/sh", 0, 0)),
        Probe("memory_file", 319, ("memory", 0)),
        Probe("execute_descriptor", 322, (0, "", 0, 0, 0x1000)),
        Probe("io_uring", 425, (8, 0)),
        Probe("bpf", 321, (0, 0, 0)),
        Probe("performance", 298, (0, 0, -1, -1, 0)),
        Probe("userfault", 323, (0,)),
        Probe("keys", 250, (0, -3, 1)),
        Probe("become_root", 117, (0, 0, 0)),
        Probe("priority", 141, (0, 0, -20)),
        Probe("lift_limit", 302, (0, 7, "\xff" * 16, 0)),
        Probe("writable_code", _MMAP, (0, 4096, _EXECUTABLE, _ANONYMOUS, -1, 0)),
        Probe("other_core", 203, (0, 8, "\xff" * 8)),
        Probe("set_clock", _CLOCK_SETTIME, (0, "\0" * 16)),
        Probe("change_root", 161, (folder,)),
        Probe("load_module", 175, (0, 0, "")),
        Probe("by_handle", 304, (-100, 0, 0)),
        Probe("personality", 135, (0x0040000,)),
        Probe("x32_socket", 0x40000000 | _SOCKET, (2, 1, 0)),
    )


def probe_text(made: Sequence[Probe]) -> str:
    """The module with a kernel for each probe; y[0] is what the call returned."""
    text = _Text()
    functions: list[str] = []
    for probe in made:
        body = text.call("r", probe.number, *probe.arguments)
        functions.append(
            _function(probe.entry, body).replace(
                "  ret void\n",
                "  %told = sitofp i64 %r to float\n  store float %told, ptr %y\n  ret void\n",
            )
        )
    return "\n".join([_HEAD, *text.constants, *functions])
