"""Native code written by hand, and artifacts of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from loopwright.codegen.artifact import Artifact, Param
from loopwright.ir.dtype import F32
from loopwright.layout import Layout
from loopwright.runtime.cpu.native import Native, native, object_code
from loopwright.target.host import host

# `scale` computes y = 2 x on n floats in a parallel loop, through the workspace of its thread.
# `count` adds to counts[thread] how many iterations it got, and to seen[i] one for each i.
TEXT = """
@n = internal constant i64 24

define internal void @scale_body(ptr %closure, i64 %begin, i64 %end, i64 %thread) {
  %x = load ptr, ptr %closure
  %y.at = getelementptr ptr, ptr %closure, i64 1
  %y = load ptr, ptr %y.at
  %ws.at = getelementptr ptr, ptr %closure, i64 2
  %ws = load ptr, ptr %ws.at
  %mine = getelementptr float, ptr %ws, i64 %thread
  br label %loop
loop:
  %k = phi i64 [ %begin, %0 ], [ %k.next, %loop ]
  %x.p = getelementptr float, ptr %x, i64 %k
  %y.p = getelementptr float, ptr %y, i64 %k
  %v = load float, ptr %x.p
  store volatile float %v, ptr %mine
  %again = load volatile float, ptr %mine
  %w = fadd float %v, %again
  store float %w, ptr %y.p
  %k.next = add i64 %k, 1
  %more = icmp slt i64 %k.next, %end
  br i1 %more, label %loop, label %done
done:
  ret void
}

define void @scale(ptr %args, ptr %ws, ptr %parallel, ptr %pool) {
  %closure = alloca [3 x ptr]
  %x = load ptr, ptr %args
  %y.at = getelementptr ptr, ptr %args, i64 1
  %y = load ptr, ptr %y.at
  store ptr %x, ptr %closure
  %c1 = getelementptr ptr, ptr %closure, i64 1
  store ptr %y, ptr %c1
  %c2 = getelementptr ptr, ptr %closure, i64 2
  store ptr %ws, ptr %c2
  call void %parallel(ptr %pool, ptr @scale_body, ptr %closure, i64 24)
  ret void
}

define void @count(ptr %closure, i64 %begin, i64 %end, i64 %thread) {
  %counts.p = getelementptr i64, ptr %closure, i64 %thread
  %size = sub i64 %end, %begin
  %c = atomicrmw add ptr %counts.p, i64 %size seq_cst
  %some = icmp slt i64 %begin, %end
  br i1 %some, label %loop, label %done
loop:
  %k = phi i64 [ %begin, %0 ], [ %k.next, %loop ]
  %at = add i64 %k, 64
  %seen.p = getelementptr i64, ptr %closure, i64 %at
  %s = atomicrmw add ptr %seen.p, i64 1 seq_cst
  %k.next = add i64 %k, 1
  %more = icmp slt i64 %k.next, %end
  br i1 %more, label %loop, label %done
done:
  ret void
}

define void @many(ptr %parallel, ptr %pool, ptr %closure, i64 %extent, i64 %regions) {
  br label %loop
loop:
  %i = phi i64 [ 0, %0 ], [ %next, %loop ]
  call void %parallel(ptr %pool, ptr @count, ptr %closure, i64 %extent)
  %next = add i64 %i, 1
  %more = icmp ult i64 %next, %regions
  br i1 %more, label %loop, label %done
done:
  ret void
}

@outer = internal global { ptr, ptr } zeroinitializer
define void @nested_body(ptr %closure, i64 %begin, i64 %end, i64 %thread) {
  %parallel = load ptr, ptr %closure
  %pool.at = getelementptr ptr, ptr %closure, i64 1
  %pool = load ptr, ptr %pool.at
  %inner.at = getelementptr ptr, ptr %closure, i64 2
  %inner = load ptr, ptr %inner.at
  call void %parallel(ptr %pool, ptr @count, ptr %inner, i64 10)
  ret void
}
"""
N = 24


@pytest.fixture(scope="session")
def cache_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="session")
def native_code(cache_dir: Path) -> Native:
    return native(cache_dir)


@pytest.fixture(scope="session")
def code(cache_dir: Path) -> bytes:
    return object_code(TEXT, cache_dir)


@pytest.fixture
def scale(code: bytes) -> Callable[[Layout, Layout], Artifact]:
    """An artifact of `scale` on float32[2, 12] with the given layouts of x and y."""

    def make(x: Layout, y: Layout) -> Artifact:
        params = (Param("x", F32, (2, 12), x), Param("y", F32, (2, 12), y))
        return Artifact(
            code=code,
            entry="scale",
            params=params,
            n_outputs=1,
            workspace_per_thread=64,
            target_key=host().key,
        )

    return make
