"""The native thread pool: every iteration once, whoever calls, however many threads."""

from __future__ import annotations

import ctypes
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

import llvmlite.binding as llvm
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loopwright.errors import ConfigError
from loopwright.runtime.cpu import native_ir
from loopwright.runtime.cpu.native import Native
from loopwright.runtime.cpu.pool import ThreadPool
from loopwright.runtime.object.link import Linked, link

SLOTS = 64


@pytest.fixture(scope="module")
def linked(code: bytes) -> Linked:
    return link(code, ("count", "many", "nested_body"))


class Tally:
    """Iterations by thread, and how often each was run."""

    def __init__(self, extent: int) -> None:
        self.words = (ctypes.c_int64 * (SLOTS + max(extent, 1)))()
        self.extent = extent

    @property
    def address(self) -> int:
        return ctypes.addressof(self.words)

    @property
    def by_thread(self) -> list[int]:
        return list(self.words[:SLOTS])

    @property
    def seen(self) -> list[int]:
        return list(self.words[SLOTS : SLOTS + self.extent])


@settings(max_examples=40, deadline=None)
@given(threads=st.integers(1, 5), extent=st.integers(0, 40))
def test_every_iteration_runs_once(
    native_code: Native, linked: Linked, threads: int, extent: int
) -> None:
    tally = Tally(extent)
    with ThreadPool(threads, native_code) as pool:
        pool.run(linked["count"], tally.address, extent)

    assert tally.seen == [1] * extent
    assert sum(tally.by_thread[threads:]) == 0


def test_chunks_differ_by_one_at_most(native_code: Native, linked: Linked) -> None:
    tally = Tally(11)
    with ThreadPool(4, native_code) as pool:
        pool.run(linked["count"], tally.address, 11)

    assert tally.by_thread[:4] == [3, 3, 3, 2]


@pytest.mark.parametrize("spin", [0, 50])
def test_many_regions_in_a_row_lose_nothing(native_code: Native, linked: Linked, spin: int) -> None:
    regions = 300
    tally = Tally(7)
    with ThreadPool(3, native_code, spin=spin) as pool:
        run_many(pool, linked, tally, 7, regions)

    assert tally.seen == [regions] * 7


def test_workers_that_slept_wake_up(native_code: Native, linked: Linked) -> None:
    tally = Tally(4)
    with ThreadPool(2, native_code, spin=0) as pool:
        for _ in range(20):
            pool.run(linked["count"], tally.address, 4)

    assert tally.seen == [20] * 4


def test_the_caller_runs_what_no_worker_began(native_code: Native, linked: Linked) -> None:
    pid = os.fork()
    if pid == 0:  # in a process of its own, as threads of a pool that is held end with theirs
        tally = Tally(9)
        pool = ThreadPool(3, native_code, held=True)
        for _ in range(50):
            pool.run(linked["count"], tally.address, 9)
        os._exit(0 if (tally.seen, tally.by_thread[:3]) == ([50] * 9, [150] * 3) else 1)
    _, status = os.waitpid(pid, 0)

    assert status == 0


def test_regions_after_a_stall_run_serially(native_code: Native, linked: Linked) -> None:
    body = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64, ctypes.c_int64)
    with ThreadPool(2, native_code, yields=True) as pool:
        waiting = ctypes.c_int32.from_address(pool.address + native_ir.WAITING)
        serial = ctypes.c_int64.from_address(pool.address + native_ir.SERIAL)
        begun, start = threading.Event(), time.perf_counter()

        def late(_closure: int, _begin: int, _end: int, thread: int) -> None:
            """The worker's chunk lasts until the caller has waited longer than it worked."""
            if thread == 0:
                begun.wait()
                return
            begun.set()
            while not waiting.value:
                pass
            asleep = time.perf_counter()
            while time.perf_counter() - asleep < asleep - start + 1e-3:
                pass

        native_late = body(late)
        pool.run(ctypes.cast(native_late, ctypes.c_void_p).value or 0, 0, 2)
        assert serial.value == native_ir.FIRST_SERIAL
        tally = Tally(4)
        for _ in range(native_ir.FIRST_SERIAL):
            pool.run(linked["count"], tally.address, 4)
        assert tally.by_thread[:2] == [4 * native_ir.FIRST_SERIAL, 0]
        pool.run(linked["count"], tally.address, 4)
        assert tally.by_thread[1] == 2


def test_idle_workers_sleep(native_code: Native, linked: Linked) -> None:
    tally = Tally(4)
    others = thread_ids()
    with ThreadPool(3, native_code) as pool:
        workers = thread_ids() - others
        pool.run(linked["count"], tally.address, 4)
        wait_until_parked(pool, 2)
        # Between counting itself as parked and sleeping a worker has a few instructions to go.
        asleep = any(states_of(workers) == "SS" for _ in range(10_000))

    assert asleep


def test_several_callers_get_their_own_work_done(native_code: Native, linked: Linked) -> None:
    tallies = [Tally(9) for _ in range(4)]
    with ThreadPool(2, native_code) as pool:
        callers = [
            threading.Thread(target=run_many, args=(pool, linked, tally, 9, 500))
            for tally in tallies
        ]
        for caller in callers:
            caller.start()
        for caller in callers:
            caller.join()

    assert [tally.seen for tally in tallies] == [[500] * 9] * 4


def test_a_region_within_a_region_runs_serially(native_code: Native, linked: Linked) -> None:
    inner = Tally(10)
    with ThreadPool(2, native_code) as pool:
        closure = (ctypes.c_void_p * 3)(pool.parallel, pool.address, inner.address)
        pool.run(linked["nested_body"], ctypes.addressof(closure), 2)

    assert inner.seen == [2] * 10
    assert inner.by_thread[0] == 20


def test_a_closed_pool_runs_serially(native_code: Native, linked: Linked) -> None:
    tally = Tally(6)
    pool = ThreadPool(3, native_code)
    pool.close()
    pool.close()
    pool.run(linked["count"], tally.address, 6)

    assert tally.by_thread[:3] == [6, 0, 0]


def test_workers_are_pinned_to_their_cores(native_code: Native) -> None:
    others = thread_ids()
    core = max(os.sched_getaffinity(0))
    with ThreadPool(3, native_code, cores=(0, core, core)):
        workers = thread_ids() - others
        pinned = [os.sched_getaffinity(worker) for worker in workers]

    assert pinned == [{core}, {core}]


def test_closing_ends_the_threads(native_code: Native) -> None:
    before = threads_of_this_process()
    pool = ThreadPool(4, native_code)
    during = threads_of_this_process()
    pool.close()

    assert during == before + 3
    assert threads_of_this_process() == before


def test_a_dropped_pool_ends_its_threads(native_code: Native) -> None:
    before = threads_of_this_process()
    pool = ThreadPool(4, native_code)
    del pool

    assert threads_of_this_process() == before


def test_a_forked_child_runs_serially_and_ends(native_code: Native, linked: Linked) -> None:
    tally = Tally(6)
    with ThreadPool(2, native_code) as pool:
        pid = os.fork()
        if pid == 0:
            pool.run(linked["count"], tally.address, 6)
            right = tally.by_thread[:2] == [6, 0]
            pool.close()
            os._exit(0 if right else 1)
        _, status = os.waitpid(pid, 0)
        pool.run(linked["count"], tally.address, 6)

    assert status == 0
    assert tally.by_thread[:2] == [3, 3]


@pytest.mark.parametrize("threads", [0, -1, 100_000])
def test_an_impossible_number_of_threads_is_refused(native_code: Native, threads: int) -> None:
    with pytest.raises(ConfigError, match=f"a pool of {threads} threads: use 1 to"):
        ThreadPool(threads, native_code)


@pytest.mark.parametrize("arch", native_ir.ARCHITECTURES)
def test_the_native_module_verifies_for_every_architecture(arch: str) -> None:
    llvm.initialize_all_targets()
    llvm.initialize_all_asmprinters()
    machine = llvm.Target.from_triple(f"{arch}-unknown-linux-gnu").create_target_machine()
    module = llvm.parse_assembly(native_ir.text(arch), context=llvm.create_context())
    module.verify()

    assert machine.emit_object(module)[:4] == b"\x7fELF"


def test_region_cost_is_shown(
    native_code: Native, linked: Linked, record_property: Callable[[str, object], None]
) -> None:
    tally = Tally(2)
    with ThreadPool(2, native_code) as pool:
        run_many(pool, linked, tally, 2, 200)
        start = time.perf_counter()
        run_many(pool, linked, tally, 2, 1000)
        cost_us = (time.perf_counter() - start) * 1e3
    print(f"a region on two threads: {cost_us:.2f} us")  # noqa: T201  # shown with -s
    record_property("region_us", cost_us)

    assert tally.seen == [1200, 1200]


def run_many(pool: ThreadPool, linked: Linked, tally: Tally, extent: int, regions: int) -> None:
    pointer, integer = ctypes.c_void_p, ctypes.c_int64
    many = ctypes.CFUNCTYPE(None, pointer, pointer, pointer, integer, integer)(linked["many"])
    many(pool.parallel, pool.address, tally.address, extent, regions)


def wait_until_parked(pool: ThreadPool, workers: int) -> None:
    parked = ctypes.c_int32.from_address(pool.address + native_ir.PARKED)
    while parked.value < workers:
        pass


def thread_ids() -> set[int]:
    return {int(entry.name) for entry in Path("/proc/self/task").iterdir()}


def threads_of_this_process() -> int:
    return len(thread_ids())


def states_of(threads: set[int]) -> str:
    """The scheduler's letter for each thread: S sleeps, R runs."""
    stats = [Path(f"/proc/self/task/{tid}/stat").read_text() for tid in sorted(threads)]
    return "".join(stat.rpartition(")")[2].split()[0] for stat in stats)
