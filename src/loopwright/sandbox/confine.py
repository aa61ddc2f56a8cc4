"""What confines a session and its candidates, and which layers really work here.

    warden     a control group
    session    a namespace of its own for processes and for mounts, with a fresh /proc and an
               empty folder of memory
    candidate  no new privileges, a user of its own, no files but libraries, read-only
               (Landlock); the system calls of `seccomp`; limits; the empty folder

Each layer is left out where the kernel or the user's rights do not allow it. A rehearsal finds out
what is left: a process takes every step that a candidate takes and reports which ones worked; from
then on a candidate for which a layer fails is not run. A layer counts as in force when something
that it forbids was tried and refused, for each candidate anew.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import struct
from collections.abc import Callable
from pathlib import Path

from loopwright.runtime.libc import LIBC
from loopwright.sandbox import cgroup, landlock, privileges
from loopwright.sandbox.kernel_files import write_file
from loopwright.sandbox.layers import ESSENTIAL, NOTHING, USUAL, CagePlan, Layer, missing
from loopwright.sandbox.libraries import SYSTEM, libraries

_NEW_MOUNTS, _NEW_USER, _NEW_PIDS = 0x00020000, 0x10000000, 0x20000000
_MS_NOSUID, _MS_NODEV, _MS_NOEXEC = 2, 4, 8
_MS_RECURSIVE, _MS_PRIVATE = 0x4000, 0x40000
_FOLDER_BYTES = 16 << 20
_OPEN_FILES = 64
_MOST_DESCRIPTORS = 65536
_OOM_FIRST = "1000"
_CAPABILITY_VERSION = 0x20080522


class ConfinementError(Exception):
    """A layer that worked in the rehearsal does not work now."""


class Cage:
    """Confines sessions that this process forks, and their candidates.

    Make it in a single-threaded process, before anything is forked: without root privileges it
    moves into a user namespace of its own, if that is allowed.
    """

    def __init__(self, plan: CagePlan) -> None:
        self._plan = plan
        # Now and not for each session: the kernel makes a joining process wait for all processors.
        self._grouped = cgroup.join(plan.doors) and plan.cgroup_limits
        self._rules = landlock.rules((*SYSTEM, *libraries()))
        self._own_processes = os.open("/proc/self/ns/pid", os.O_RDONLY | os.O_CLOEXEC)
        self._namespaces = os.geteuid() == 0 or _enter_user_namespace()
        self._returns = LIBC.setns(self._own_processes, _NEW_PIDS) == 0
        self.layers = NOTHING
        found = self._rehearse()
        if found is None and self._namespaces:
            self._namespaces = False
            found = self._rehearse()
        self.layers = NOTHING if found is None else found

    @property
    def descriptors(self) -> tuple[int, ...]:
        """The descriptors that a candidate must keep open until `enter_candidate`."""
        return () if self._rules is None else (self._rules,)

    def fork(self) -> int:
        """`os.fork`, but the child is the first of a new process namespace, where possible."""
        if not self._namespaces:
            return os.fork()
        if not self._returns:
            return _fork_through()
        LIBC.unshare(_NEW_PIDS)
        pid = os.fork()
        if pid:
            LIBC.setns(self._own_processes, _NEW_PIDS)
        return pid

    def enter_session(self) -> Layer:
        """Confine this process, forked for a session; the layers that are in force.

        Raises: ConfinementError when fewer are in force than in the rehearsal.
        """
        layers = self._surroundings()
        if self._grouped:
            layers |= Layer.CGROUP
        if self._namespaces:
            if os.getpid() == 1:
                layers |= Layer.PROCESSES
            if self._mount():
                layers |= Layer.FOLDER
        self._check(layers, USUAL & ~ESSENTIAL & ~Layer.USER)
        return layers

    def enter_candidate(self) -> Layer:
        """Confine this process, forked for one candidate, except for its system calls."""
        layers = NOTHING
        write_file("/proc/self/oom_score_adj", _OOM_FIRST)
        with contextlib.suppress(OSError):
            os.chdir(self._plan.folder)
        _limit()
        if self._plan.uid and os.geteuid() == 0 and self._become_nobody():
            layers |= Layer.USER
        _drop_capabilities()
        if self._rules is not None:
            landlock.restrict(self._rules)
            os.close(self._rules)
            if _is_refused(_open_root):
                layers |= Layer.FILES
        self._check(layers, Layer.USER | Layer.FILES)
        return layers

    def forbid_system_calls(self) -> Layer:
        """The last step, once all threads are started."""
        layers = NOTHING
        privileges.forbid_system_calls()
        if _is_refused(_ask_session):
            layers = Layer.SYSTEM_CALLS | Layer.NO_NEW_PRIVILEGES  # no filter without them
        self._check(layers, Layer.SYSTEM_CALLS)
        return layers

    def _check(self, layers: Layer, those: Layer) -> None:
        lost = missing(layers, self.layers & those)
        if lost:
            raise ConfinementError(f"the sandbox lost {', '.join(lost)}")

    def _become_nobody(self) -> bool:
        uid = self._plan.uid
        parent = os.getppid()
        try:
            os.setgroups([])
            os.setresgid(uid, uid, uid)
            os.setresuid(uid, uid, uid)
        except OSError:
            return False
        privileges.die_with_parent(parent)  # the kernel forgets it when the user changes
        return os.getresuid() == (uid, uid, uid)

    def _mount(self) -> bool:
        """Enter a mount namespace with a /proc of its processes and the empty folder."""
        if LIBC.unshare(_NEW_MOUNTS) != 0:
            return False
        none = ctypes.c_char_p(b"none")
        private = ctypes.c_ulong(_MS_RECURSIVE | _MS_PRIVATE)
        flags = ctypes.c_ulong(_MS_NOSUID | _MS_NODEV | _MS_NOEXEC)
        if LIBC.mount(none, b"/", None, private, None) != 0:
            return False
        if os.getpid() == 1 and LIBC.mount(b"proc", b"/proc", b"proc", flags, None) != 0:
            return False
        size = f"size={_FOLDER_BYTES},mode=0755".encode()
        folder = os.fsencode(self._plan.folder)
        return bool(LIBC.mount(b"tmpfs", folder, b"tmpfs", flags, size) == 0)

    def _surroundings(self) -> Layer:
        """The layers that this process already runs in."""
        layers = NOTHING
        outer = self._plan.outer_network
        if outer and Path("/proc/self/ns/net").stat().st_ino != outer:
            layers |= Layer.NETWORK
        if os.statvfs("/").f_flag & os.ST_RDONLY:
            layers |= Layer.READ_ONLY_ROOT
        folders = self._plan.outer_folders
        if folders and not any(_is_same(*folder) for folder in folders):
            layers |= Layer.OWN_FOLDERS
        return layers

    def _rehearse(self) -> Layer | None:
        """The layers in force after every step that a candidate takes; None if one fails."""
        return _told_by(self.fork, self._rehearse_session)

    def _rehearse_session(self) -> int:
        outer = self.enter_session()
        inner = _told_by(os.fork, self._rehearse_candidate)
        if inner is None or (Layer.PROCESSES in outer and not _sees_itself()):
            return 0
        return int(outer | inner)

    def _rehearse_candidate(self) -> int:
        return int(self.enter_candidate() | self.forbid_system_calls())


def _told_by(fork: Callable[[], int], work: Callable[[], int]) -> Layer | None:
    """What `work` returns in a process of its own; None if that fails or is 0."""
    reading, writing = os.pipe()
    pid = fork()
    if pid == 0:
        status = 1
        try:
            os.close(reading)
            os.write(writing, int(work()).to_bytes(4, "little"))
            status = 0
        finally:
            os._exit(status)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        told = pipe.read(4)
    os.waitpid(pid, 0)
    bits = int.from_bytes(told, "little")
    return Layer(bits) if bits else None


def _fork_through() -> int:
    """`os.fork` through an intermediate process, which makes the namespace and waits.

    For a process that could not return from the namespace of its next children.
    """
    parent = os.getpid()
    between = os.fork()
    if between:
        return between
    os.setsid()
    privileges.die_with_parent(parent)
    inside = LIBC.unshare(_NEW_PIDS) == 0
    pid = os.fork()
    if pid == 0:
        return 0
    os.closerange(3, _MOST_DESCRIPTORS)
    _, status = os.waitpid(pid, 0)
    code = os.waitstatus_to_exitcode(status) if inside else 1
    os._exit(code if code >= 0 else 128 - code)


def _sees_itself() -> bool:
    """Whether /proc is that of this process's namespace, which finding strays requires."""
    try:
        return os.readlink("/proc/self") == str(os.getpid())  # noqa: PTH115  # the text is wanted
    except OSError:
        return False


def _is_same(path: str, device: int, number: int) -> bool:
    """Whether `path` is that folder here too."""
    try:
        found = os.stat(path)  # noqa: PTH116  # both numbers are wanted
    except OSError:
        return False
    return (found.st_dev, found.st_ino) == (device, number)


def _is_refused(attempt: Callable[[], object]) -> bool:
    """Whether a layer is in force: something that it forbids is tried, and fails for that."""
    try:
        attempt()
    except PermissionError:
        return True
    return False


def _open_root() -> None:
    """Read the root folder, which no rule of `landlock` allows."""
    os.close(os.open("/", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))


def _ask_session() -> None:
    """Make a harmless system call that `seccomp` does not know."""
    os.getsid(0)


def _enter_user_namespace() -> bool:
    """Become root in a user namespace, which may make other namespaces."""
    uid, gid = os.geteuid(), os.getegid()
    if LIBC.unshare(_NEW_USER) != 0:
        return False
    return (
        write_file("/proc/self/setgroups", "deny")
        and write_file("/proc/self/uid_map", f"{uid} {uid} 1")
        and write_file("/proc/self/gid_map", f"{gid} {gid} 1")
    )


def _drop_capabilities() -> None:
    """Drop the capabilities of a namespace's root."""
    header = struct.pack("Ii", _CAPABILITY_VERSION, 0)
    LIBC.capset(header, bytes(24))


def _limit() -> None:
    """Limits beyond those of `privileges.limit`."""
    for kind, value in (
        (resource.RLIMIT_NOFILE, _OPEN_FILES),
        (resource.RLIMIT_MEMLOCK, 0),
        (resource.RLIMIT_MSGQUEUE, 0),
        (resource.RLIMIT_RTPRIO, 0),
    ):
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(kind, (value, value))
