"""LLVM IR text of the native runtime: the thread pool, the timing loop and the fault reporter.

Written in IR because a machine that runs Loopwright needs no C compiler. Functions:

    lw_serial(pool, body, closure, extent)             parallel_for on the calling thread only
    lw_parallel(pool, body, closure, extent)           parallel_for of `codegen/artifact.py`
    lw_worker(slot) -> null                            what a thread of the pool runs
    lw_stop(pool)                                      tells the workers to return
    lw_repeat(entry, args, ws, parallel, pool, count)  calls a kernel's entry `count` times
    lw_watch(report, probe)                            where faults are reported to, see below
    lw_on_fault(signal, info, context)                 SA_SIGINFO handler
    lw_canary(args, ws, parallel, pool)                a kernel that always takes the same cycles

A pool is 64-byte aligned memory, one cache line for each word that threads write (byte offsets
below), followed by one slot {pool, thread index, claimed} a thread, of 8, 4 and 4 bytes. A region
is one step of `generation`: the caller stores what to run, sets `pending`, steps `generation`, runs
chunk 0, then each chunk that its worker has not begun, and waits until `pending` is 0. Whoever
moves `claimed` of a slot to this generation runs the chunk. Workers spin on `generation`, then
sleep on it (futex). A caller that finds `lock` taken runs serially.

Beside a busy process a worker can lose its core in the middle of a chunk, for milliseconds, and
nobody can finish that chunk for it. A region that the caller waited for longer than it worked
itself, and for `STALL_NS` at least, is a stall: the next regions run serially, twice as many after
each further stall, up to what the pool has at `MOST_SERIAL` (0 where times are measured: regions
run as they are meant to). `CALM` regions without a stall forget it.

The canary is one chain of dependent integer operations in registers, so that nothing but the core's
clock, and who shares it, changes how long it takes.

The fault report is four int64: signal, faulting address, 1 if `probe` more bytes of address space
could not be had at the time of the fault (that is: memory was exhausted), si_code.
"""

from __future__ import annotations

LOCK = 64
PENDING = 128
WAITING = 192
PARKED = 256
STOP = 320
THREADS = 328
SPIN = 336
MOST_SERIAL = 344
BODY = 384
CLOSURE = 392
EXTENT = 400
SERIAL = 408
BACKOFF = 416
SINCE_STALL = 424
SLOTS = 448
SLOT_BYTES = 16
CLAIMED = 12

_PAUSE = {
    "x86_64": ("declare void @llvm.x86.sse2.pause()", "call void @llvm.x86.sse2.pause()"),
    "aarch64": ("declare void @llvm.aarch64.hint(i32)", "call void @llvm.aarch64.hint(i32 1)"),
}
_FUTEX = {"x86_64": 202, "aarch64": 98}
ARCHITECTURES = tuple(_FUTEX)
_FUTEX_WAIT_PRIVATE = 128
_FUTEX_WAKE_PRIVATE = 129
CANARY = "lw_canary"
CANARY_STEPS = 200_000  # of 4 cycles: a quarter of a millisecond at 3 GHz
STALL_NS = 200_000
"""A caller that waited less was not stalled: workers that slept take up to 100 us to wake."""
FIRST_SERIAL, LAST_SERIAL = 64, 8192
"""Regions that run serially after a first stall, and at the most: of a small model, 2 to 250 ms."""
CALM = 1024
_CLOCK_MONOTONIC = 1
_CALLER_PATIENCE = 16  # a caller waits this many times longer than a worker before it sleeps


def text(arch: str) -> str:
    """The module for `arch`, one of ARCHITECTURES."""
    declare, pause = _PAUSE[arch]
    return _TEMPLATE.format(
        declare_pause=declare,
        pause=pause,
        futex=_FUTEX[arch],
        wait=_FUTEX_WAIT_PRIVATE,
        wake=_FUTEX_WAKE_PRIVATE,
        patience=_CALLER_PATIENCE,
        lock=LOCK,
        pending=PENDING,
        waiting=WAITING,
        parked=PARKED,
        stop=STOP,
        threads=THREADS,
        spin=SPIN,
        serial=SERIAL,
        backoff=BACKOFF,
        since_stall=SINCE_STALL,
        slot_bytes=SLOT_BYTES,
        claimed=SLOTS + CLAIMED,
        stall_ns=STALL_NS,
        first_serial=FIRST_SERIAL,
        most_serial=MOST_SERIAL,
        calm=CALM,
        clock=_CLOCK_MONOTONIC,
        body=BODY,
        closure=CLOSURE,
        extent=EXTENT,
        canary=CANARY,
        steps=CANARY_STEPS,
    )


_TEMPLATE = """
{declare_pause}
declare i64 @syscall(i64, ...)
declare ptr @mmap(ptr, i64, i32, i32, i32, i64)
declare i32 @munmap(ptr, i64)
declare i32 @clock_gettime(i32, ptr)

@report = internal global ptr null
@probe = internal global i64 0

define void @lw_serial(ptr %pool, ptr %body, ptr %closure, i64 %extent) {{
  call void %body(ptr %closure, i64 0, i64 %extent, i64 0)
  ret void
}}

define internal i64 @nanoseconds() {{
  %time = alloca {{ i64, i64 }}, align 8
  %failed = call i32 @clock_gettime(i32 {clock}, ptr %time)
  %more.p = getelementptr i8, ptr %time, i64 8
  %s = load i64, ptr %time
  %ns = load i64, ptr %more.p
  %scaled = mul i64 %s, 1000000000
  %sum = add i64 %scaled, %ns
  ret i64 %sum
}}

define internal i1 @claim(ptr %pool, i64 %thread, i32 %generation) {{
  %place = mul i64 %thread, {slot_bytes}
  %offset = add i64 %place, {claimed}
  %claimed.p = getelementptr i8, ptr %pool, i64 %offset
  %old = load atomic i32, ptr %claimed.p acquire, align 4
  %behind = sub i32 %generation, %old
  %open = icmp sgt i32 %behind, 0
  br i1 %open, label %try, label %lost
try:
  %pair = cmpxchg ptr %claimed.p, i32 %old, i32 %generation seq_cst seq_cst
  %won = extractvalue {{ i32, i1 }} %pair, 1
  ret i1 %won
lost:
  ret i1 false
}}

define internal void @chunk(ptr %pool, i64 %thread) {{
  %threads.p = getelementptr i8, ptr %pool, i64 {threads}
  %body.p = getelementptr i8, ptr %pool, i64 {body}
  %closure.p = getelementptr i8, ptr %pool, i64 {closure}
  %extent.p = getelementptr i8, ptr %pool, i64 {extent}
  %threads = load i64, ptr %threads.p
  %body = load ptr, ptr %body.p
  %closure = load ptr, ptr %closure.p
  %extent = load i64, ptr %extent.p
  %each = udiv i64 %extent, %threads
  %rest = urem i64 %extent, %threads
  %start = mul i64 %each, %thread
  %early = icmp ult i64 %thread, %rest
  %extra = select i1 %early, i64 %thread, i64 %rest
  %begin = add i64 %start, %extra
  %one = zext i1 %early to i64
  %size = add i64 %each, %one
  %end = add i64 %begin, %size
  %some = icmp ne i64 %size, 0
  br i1 %some, label %run, label %done
run:
  call void %body(ptr %closure, i64 %begin, i64 %end, i64 %thread)
  br label %done
done:
  ret void
}}

define void @lw_parallel(ptr %pool, ptr %body, ptr %closure, i64 %extent) {{
  %none = icmp eq ptr %pool, null
  %small = icmp sle i64 %extent, 1
  %alone = or i1 %none, %small
  br i1 %alone, label %serial, label %try
try:
  %lock.p = getelementptr i8, ptr %pool, i64 {lock}
  %got = cmpxchg ptr %lock.p, i32 0, i32 1 acquire monotonic
  %free = extractvalue {{ i32, i1 }} %got, 1
  br i1 %free, label %locked, label %serial
locked:
  %serial.p = getelementptr i8, ptr %pool, i64 {serial}
  %left.serial = load i64, ptr %serial.p
  %backs = icmp ne i64 %left.serial, 0
  br i1 %backs, label %back, label %region
back:
  %left.less = sub i64 %left.serial, 1
  store i64 %left.less, ptr %serial.p
  store atomic i32 0, ptr %lock.p release, align 4
  br label %serial
serial:
  call void %body(ptr %closure, i64 0, i64 %extent, i64 0)
  ret void
region:
  %pending.p = getelementptr i8, ptr %pool, i64 {pending}
  %waiting.p = getelementptr i8, ptr %pool, i64 {waiting}
  %parked.p = getelementptr i8, ptr %pool, i64 {parked}
  %threads.p = getelementptr i8, ptr %pool, i64 {threads}
  %spin.p = getelementptr i8, ptr %pool, i64 {spin}
  %body.p = getelementptr i8, ptr %pool, i64 {body}
  %closure.p = getelementptr i8, ptr %pool, i64 {closure}
  %extent.p = getelementptr i8, ptr %pool, i64 {extent}
  %threads = load i64, ptr %threads.p
  %threads32 = trunc i64 %threads to i32
  %helpers = sub i32 %threads32, 1
  %spin = load i64, ptr %spin.p
  %patience = mul i64 %spin, {patience}
  %started = call i64 @nanoseconds()
  store ptr %body, ptr %body.p
  store ptr %closure, ptr %closure.p
  store i64 %extent, ptr %extent.p
  store atomic i32 0, ptr %waiting.p monotonic, align 4
  store atomic i32 %helpers, ptr %pending.p monotonic, align 4
  %before = atomicrmw add ptr %pool, i32 1 seq_cst
  %generation = add i32 %before, 1
  %asleep = load atomic i32, ptr %parked.p seq_cst, align 4
  %any = icmp ne i32 %asleep, 0
  br i1 %any, label %wake, label %work
wake:
  %woken = call i64 (i64, ...) @syscall(i64 {futex}, ptr %pool, i64 {wake}, i64 2147483647)
  br label %work
work:
  call void @chunk(ptr %pool, i64 0)
  br label %others
others:
  %other = phi i64 [ 1, %work ], [ %other.next, %taken ]
  %more = icmp ult i64 %other, %threads
  br i1 %more, label %ask, label %worked
ask:
  %mine = call i1 @claim(ptr %pool, i64 %other, i32 %generation)
  br i1 %mine, label %take, label %taken
take:
  call void @chunk(ptr %pool, i64 %other)
  %fewer = atomicrmw sub ptr %pending.p, i32 1 seq_cst
  br label %taken
taken:
  %other.next = add i64 %other, 1
  br label %others
worked:
  %ended = call i64 @nanoseconds()
  br label %spinning
spinning:
  %i = phi i64 [ 0, %worked ], [ %i.next, %again ]
  %left = load atomic i32, ptr %pending.p acquire, align 4
  %finished = icmp eq i32 %left, 0
  br i1 %finished, label %calm, label %again
again:
  {pause}
  %i.next = add i64 %i, 1
  %tired = icmp uge i64 %i.next, %patience
  br i1 %tired, label %announce, label %spinning
announce:
  store atomic i32 1, ptr %waiting.p seq_cst, align 4
  br label %sleeping
sleeping:
  %still = load atomic i32, ptr %pending.p seq_cst, align 4
  %over = icmp eq i32 %still, 0
  br i1 %over, label %judge, label %sleep
sleep:
  %still64 = zext i32 %still to i64
  %slept = call i64 (i64, ...)
    @syscall(i64 {futex}, ptr %pending.p, i64 {wait}, i64 %still64, ptr null)
  br label %sleeping
judge:
  %come = call i64 @nanoseconds()
  %waited = sub i64 %come, %ended
  %busy = sub i64 %ended, %started
  %least = add i64 %busy, {stall_ns}
  %stalled = icmp ugt i64 %waited, %least
  br i1 %stalled, label %stall, label %calm
stall:
  %since.p = getelementptr i8, ptr %pool, i64 {since_stall}
  %backoff.p = getelementptr i8, ptr %pool, i64 {backoff}
  %backoff = load i64, ptr %backoff.p
  %doubled = mul i64 %backoff, 2
  %raised = call i64 @llvm.umax.i64(i64 %doubled, i64 {first_serial})
  %most.p = getelementptr i8, ptr %pool, i64 {most_serial}
  %most = load i64, ptr %most.p
  %capped = call i64 @llvm.umin.i64(i64 %raised, i64 %most)
  store i64 %capped, ptr %backoff.p
  store i64 %capped, ptr %serial.p
  store i64 0, ptr %since.p
  br label %leave
calm:
  %calm.p = getelementptr i8, ptr %pool, i64 {since_stall}
  %reset.p = getelementptr i8, ptr %pool, i64 {backoff}
  %count = load i64, ptr %calm.p
  %count.next = add i64 %count, 1
  store i64 %count.next, ptr %calm.p
  %quiet = icmp uge i64 %count.next, {calm}
  br i1 %quiet, label %forget, label %leave
forget:
  store i64 0, ptr %reset.p
  br label %leave
leave:
  store atomic i32 0, ptr %lock.p release, align 4
  ret void
}}

declare i64 @llvm.umax.i64(i64, i64)
declare i64 @llvm.umin.i64(i64, i64)

define ptr @lw_worker(ptr %slot) {{
  %pool = load ptr, ptr %slot
  %index.p = getelementptr i8, ptr %slot, i64 8
  %index32 = load i32, ptr %index.p
  %index = zext i32 %index32 to i64
  %pending.p = getelementptr i8, ptr %pool, i64 {pending}
  %waiting.p = getelementptr i8, ptr %pool, i64 {waiting}
  %parked.p = getelementptr i8, ptr %pool, i64 {parked}
  %stop.p = getelementptr i8, ptr %pool, i64 {stop}
  %spin.p = getelementptr i8, ptr %pool, i64 {spin}
  %spin = load i64, ptr %spin.p
  br label %next
next:
  %seen = phi i32 [ 0, %0 ], [ %now, %arrive ], [ %now, %wake ]
  br label %spinning
spinning:
  %i = phi i64 [ 0, %next ], [ %i.next, %again ]
  %peek = load atomic i32, ptr %pool acquire, align 4
  %moved = icmp ne i32 %peek, %seen
  br i1 %moved, label %go, label %again
again:
  {pause}
  %i.next = add i64 %i, 1
  %tired = icmp uge i64 %i.next, %spin
  br i1 %tired, label %park, label %spinning
park:
  %p0 = atomicrmw add ptr %parked.p, i32 1 seq_cst
  br label %sleeping
sleeping:
  %look = load atomic i32, ptr %pool seq_cst, align 4
  %changed = icmp ne i32 %look, %seen
  br i1 %changed, label %unpark, label %sleep
sleep:
  %seen64 = zext i32 %seen to i64
  %slept = call i64 (i64, ...) @syscall(i64 {futex}, ptr %pool, i64 {wait}, i64 %seen64, ptr null)
  br label %sleeping
unpark:
  %p1 = atomicrmw sub ptr %parked.p, i32 1 seq_cst
  br label %go
go:
  %now = load atomic i32, ptr %pool acquire, align 4
  %stop = load atomic i32, ptr %stop.p acquire, align 4
  %end = icmp ne i32 %stop, 0
  br i1 %end, label %return, label %ask
ask:
  %mine = call i1 @claim(ptr %pool, i64 %index, i32 %now)
  br i1 %mine, label %work, label %arrive
work:
  call void @chunk(ptr %pool, i64 %index)
  br label %arrive0
arrive0:
  %left = atomicrmw sub ptr %pending.p, i32 1 seq_cst
  %last = icmp eq i32 %left, 1
  br i1 %last, label %tell, label %arrive
arrive:
  br label %next
tell:
  %waits = load atomic i32, ptr %waiting.p seq_cst, align 4
  %must = icmp ne i32 %waits, 0
  br i1 %must, label %wake, label %arrive
wake:
  %woken = call i64 (i64, ...) @syscall(i64 {futex}, ptr %pending.p, i64 {wake}, i64 2147483647)
  br label %next
return:
  ret ptr null
}}

define void @lw_stop(ptr %pool) {{
  %stop.p = getelementptr i8, ptr %pool, i64 {stop}
  store atomic i32 1, ptr %stop.p seq_cst, align 4
  %before = atomicrmw add ptr %pool, i32 1 seq_cst
  %woken = call i64 (i64, ...) @syscall(i64 {futex}, ptr %pool, i64 {wake}, i64 2147483647)
  ret void
}}

define void @lw_repeat(ptr %entry, ptr %args, ptr %ws, ptr %parallel, ptr %pool, i64 %count) {{
  br label %loop
loop:
  %i = phi i64 [ 0, %0 ], [ %i.next, %loop ]
  call void %entry(ptr %args, ptr %ws, ptr %parallel, ptr %pool)
  %i.next = add i64 %i, 1
  %more = icmp ult i64 %i.next, %count
  br i1 %more, label %loop, label %done
done:
  ret void
}}

define void @{canary}(ptr %args, ptr %ws, ptr %parallel, ptr %pool) {{
  %keep = alloca i64
  br label %loop
loop:
  %k = phi i64 [ 0, %0 ], [ %k.next, %loop ]
  %x = phi i64 [ 1, %0 ], [ %x.next, %loop ]
  %y = mul i64 %x, 6364136223846793005
  %x.next = xor i64 %y, %k
  %k.next = add i64 %k, 1
  %more = icmp ult i64 %k.next, {steps}
  br i1 %more, label %loop, label %done
done:
  store volatile i64 %x.next, ptr %keep
  ret void
}}

define void @lw_watch(ptr %where, i64 %bytes) {{
  store ptr %where, ptr @report
  store i64 %bytes, ptr @probe
  ret void
}}

define void @lw_on_fault(i32 %signal, ptr %info, ptr %context) {{
  %where = load ptr, ptr @report
  %nowhere = icmp eq ptr %where, null
  br i1 %nowhere, label %done, label %tell
tell:
  %signal64 = sext i32 %signal to i64
  store i64 %signal64, ptr %where
  %address.p = getelementptr i8, ptr %info, i64 16
  %address = load i64, ptr %address.p
  %w1 = getelementptr i8, ptr %where, i64 8
  store i64 %address, ptr %w1
  %code.p = getelementptr i8, ptr %info, i64 8
  %code = load i32, ptr %code.p
  %code64 = sext i32 %code to i64
  %w3 = getelementptr i8, ptr %where, i64 24
  store i64 %code64, ptr %w3
  %bytes = load i64, ptr @probe
  %memory = call ptr @mmap(ptr null, i64 %bytes, i32 0, i32 34, i32 -1, i64 0)
  %memory.i = ptrtoint ptr %memory to i64
  %refused = icmp eq i64 %memory.i, -1
  %flag = zext i1 %refused to i64
  %w2 = getelementptr i8, ptr %where, i64 16
  store i64 %flag, ptr %w2
  br i1 %refused, label %done, label %give
give:
  %gone = call i32 @munmap(ptr %memory, i64 %bytes)
  br label %done
done:
  ret void
}}
"""
