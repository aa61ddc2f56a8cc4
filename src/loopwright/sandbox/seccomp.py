"""The system calls that a candidate may make: a seccomp filter, as a classic BPF program.

A kernel computes; it needs memory, clocks, futexes and process exit. Those calls pass, some only
with harmless arguments. Calls that no kernel makes by mistake kill the process, which shows whose
fault it was; every other call, including those unknown to this file, fails with EPERM.

The filter applies to all threads of the process, and does not enable speculation mitigations, which
would change what is measured.
"""

from __future__ import annotations

import ctypes
import errno
import functools
import os
import platform
import struct
from collections.abc import Sequence

from loopwright.runtime.libc import LIBC

_SET_MODE_FILTER = 1
_TSYNC, _SPEC_ALLOW = 1, 4
_PR_SET_NO_NEW_PRIVS = 38
_SECCOMP = {"x86_64": 317, "aarch64": 277}
_ARCHITECTURE = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}

# Each call is name:x86_64:aarch64, empty where the machine lacks it.
_ALLOWED = """
read:0:63 write:1:64 readv:19:65 writev:20:66 pread64:17:67 pwrite64:18:68 lseek:8:62 close:3:57
close_range:436:436 dup:32:23 dup2:33: dup3:292:24 fstat:5:80 newfstatat:262:79 stat:4: lstat:6:
statx:332:291 munmap:11:215 mremap:25:216 madvise:28:233 brk:12:214 mincore:27:232 msync:26:227
futex:202:98 rt_sigaction:13:134 rt_sigprocmask:14:135 rt_sigreturn:15:139 sigaltstack:131:132
restart_syscall:219:128 getpid:39:172 gettid:186:178 getppid:110:173 getuid:102:174
geteuid:107:175 getgid:104:176 getegid:108:177 getpgrp:111: getrusage:98:165 getrlimit:97:163
times:100:153 time:201: gettimeofday:96:169 clock_gettime:228:113 clock_getres:229:114
nanosleep:35:101 clock_nanosleep:230:115 sched_yield:24:124 sched_getaffinity:204:123
getcpu:309:168 poll:7: ppoll:271:73 select:23: pselect6:270:72 pause:34: getrandom:318:278
uname:63:160 sysinfo:99:179 set_robust_list:273:99 rseq:334:293 membarrier:324:283 exit:60:93
exit_group:231:94
"""
_KILLED = """
socket:41:198 socketpair:53:199 connect:42:203 bind:49:200 listen:50:201 accept:43:202
accept4:288:242 sendto:44:206 sendmsg:46:211 sendmmsg:307:269 recvfrom:45:207 recvmsg:47:212
recvmmsg:299:243 shutdown:48:210 setsockopt:54:208 getsockopt:55:209 clone:56:220 clone3:435:435
fork:57: vfork:58: execve:59:221 execveat:322:281 ptrace:101:117 process_vm_readv:310:270
process_vm_writev:311:271 process_madvise:440:440 kcmp:312:272 tkill:200:130
rt_sigqueueinfo:129:138 rt_tgsigqueueinfo:297:240 pidfd_send_signal:424:424 pidfd_open:434:434
pidfd_getfd:438:438 rename:82: renameat:264:38 renameat2:316:276 mkdir:83: mkdirat:258:34
rmdir:84: creat:85: link:86: linkat:265:37 symlink:88: symlinkat:266:36 unlink:87:
unlinkat:263:35 mknod:133: mknodat:259:33 chmod:90: fchmod:91:52 fchmodat:268:53 chown:92:
fchown:93:55 lchown:94: fchownat:260:54 truncate:76:45 openat2:437:437 open_by_handle_at:304:265
name_to_handle_at:303:264 mount:165:40 umount2:166:39 pivot_root:155:41 chroot:161:51
move_mount:429:429 open_tree:428:428 fsopen:430:430 fsconfig:431:431 fsmount:432:432
fspick:433:433 mount_setattr:442:442 swapon:167:224 swapoff:168:225 quotactl:179:60
unshare:272:97 setns:308:268 setuid:105:146 setgid:106:144 setreuid:113:145 setregid:114:143
setresuid:117:147 setresgid:119:149 setfsuid:122:151 setfsgid:123:152 setgroups:116:159
capset:126:91 personality:135:92 setpriority:141:140 sched_setscheduler:144:119
sched_setattr:314:274 sched_setparam:142:118 sched_setaffinity:203:122 setrlimit:160:164
ioprio_set:251:30 io_uring_setup:425:425 io_uring_enter:426:426 io_uring_register:427:427
io_setup:206:0 io_submit:209:2 bpf:321:280 perf_event_open:298:241 userfaultfd:323:282
memfd_create:319:279 memfd_secret:447:447 fanotify_init:300:262 keyctl:250:219 add_key:248:217
request_key:249:218 kexec_load:246:104 kexec_file_load:320:294 init_module:175:105
finit_module:313:273 delete_module:176:106 reboot:169:142 settimeofday:164:170
clock_settime:227:112 adjtimex:159:171 clock_adjtime:305:266 sethostname:170:161
setdomainname:171:162 syslog:103:116 acct:163:89 iopl:172: ioperm:173: vhangup:153:58
shmget:29:194 shmat:30:196 msgget:68:186 semget:64:190 mq_open:240:180 seccomp:317:277
landlock_restrict_self:446:446
"""
_MMAP, _MPROTECT, _PKEY_MPROTECT = "mmap:9:222", "mprotect:10:226", "pkey_mprotect:329:288"
_OPEN, _OPENAT, _PRLIMIT = "open:2:", "openat:257:56", "prlimit64:302:261"
_KILL, _TGKILL = "kill:62:129", "tgkill:234:131"

_LOAD, _EQUAL, _ANY_BIT, _RETURN = 0x20, 0x15, 0x45, 0x06  # classic BPF
_ALLOW, _END, _FAIL = 0x7FFF0000, 0x80000000, 0x00050000
_AT_NUMBER, _AT_ARCHITECTURE, _AT_ARGUMENTS = 0, 4, 16  # byte offsets in struct seccomp_data
_EXECUTE = 4
_NOT_READING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_TMPFILE
_PID = 0x7E57AB1E  # placeholder for the process id in a program that is made once

Op = tuple[int, int, int, int]


def install(pid: int) -> bool:
    """Apply the filter to this process, `pid`, and all its threads; returns whether it worked."""
    machine = _machine()
    if machine not in _SECCOMP:
        return False
    code = program(machine).replace(struct.pack("I", _PID), struct.pack("I", pid))
    memory = ctypes.create_string_buffer(code, len(code))
    header = struct.pack("HxxxxxxP", len(code) // 8, ctypes.addressof(memory))
    LIBC.prctl(_PR_SET_NO_NEW_PRIVS, ctypes.c_ulong(1), 0, 0, 0)
    for flags in (_TSYNC | _SPEC_ALLOW, _TSYNC):
        done = LIBC.syscall(
            ctypes.c_long(_SECCOMP[machine]),
            ctypes.c_uint(_SET_MODE_FILTER),
            ctypes.c_uint(flags),
            ctypes.c_char_p(header),
        )
        if done == 0:
            return True
    return False


@functools.cache
def program(machine: str) -> bytes:
    """The filter for `machine`, with a placeholder for the process id."""
    write_execute: list[Op] = [
        (_LOAD, 0, 0, _argument(2)),
        (_ANY_BIT, 0, 1, _EXECUTE),
        _result(_FAIL | errno.EACCES),
        _result(_ALLOW),
    ]
    ops: list[Op] = [
        (_LOAD, 0, 0, _AT_ARCHITECTURE),
        (_EQUAL, 1, 0, _ARCHITECTURE[machine]),
        _result(_END),
        (_LOAD, 0, 0, _AT_NUMBER),
    ]
    ops += _each(machine, _ALLOWED.split(), [_result(_ALLOW)])
    ops += _each(machine, (_MMAP, _MPROTECT, _PKEY_MPROTECT), write_execute)
    ops += _each(machine, (_OPEN,), _reading(1))
    ops += _each(machine, (_OPENAT,), _reading(2))
    ops += _each(machine, (_PRLIMIT,), _null(2))
    ops += _each(machine, (_KILL, _TGKILL), _own())
    ops += _each(machine, _KILLED.split(), [_result(_END)])
    ops.append(_result(_FAIL | errno.EPERM))
    return b"".join(struct.pack("HBBI", *op) for op in ops)


def _each(machine: str, calls: Sequence[str], then: Sequence[Op]) -> list[Op]:
    """For each of `calls` that `machine` has, `then`, which must end in a result."""
    column = 1 + list(_SECCOMP).index(machine)
    ops: list[Op] = []
    for call in calls:
        number = call.split(":")[column]
        if number:
            ops.append((_EQUAL, 0, len(then), int(number)))
            ops += then
    return ops


def _reading(argument: int) -> list[Op]:
    """Opening a file to read it."""
    return [
        (_LOAD, 0, 0, _argument(argument)),
        (_ANY_BIT, 0, 1, _NOT_READING & ~os.O_DIRECTORY),
        _result(_FAIL | errno.EACCES),
        _result(_ALLOW),
    ]


def _null(argument: int) -> list[Op]:
    """A pointer that is null."""
    return [
        (_LOAD, 0, 0, _argument(argument)),
        (_EQUAL, 0, 3, 0),
        (_LOAD, 0, 0, _argument(argument) + 4),
        (_EQUAL, 0, 1, 0),
        _result(_ALLOW),
        _result(_END),
    ]


def _own() -> list[Op]:
    """A signal to the process itself, as abort sends it."""
    return [
        (_LOAD, 0, 0, _argument(0)),
        (_EQUAL, 0, 1, _PID),
        _result(_ALLOW),
        _result(_END),
    ]


def _result(value: int) -> Op:
    return (_RETURN, 0, 0, value)


def _argument(index: int) -> int:
    return _AT_ARGUMENTS + 8 * index


def _machine() -> str:
    return {"arm64": "aarch64"}.get(platform.machine(), platform.machine())
