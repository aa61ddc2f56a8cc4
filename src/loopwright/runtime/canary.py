"""A canary: a kernel that always takes the same number of cycles, to see whether a core is as fast
as it was. It is one chain of dependent integer operations in registers, so nothing but the core's
clock, and who shares it, changes how long it takes.
"""

from __future__ import annotations

from pathlib import Path

from loopwright.runtime.native import object_code

ENTRY = "lw_canary"
STEPS = 200_000  # of 4 cycles: a quarter of a millisecond at 3 GHz
_TEXT = f"""
define void @{ENTRY}(ptr %args, ptr %ws, ptr %parallel, ptr %pool) {{
  %keep = alloca i64
  br label %loop
loop:
  %k = phi i64 [ 0, %0 ], [ %k.next, %loop ]
  %x = phi i64 [ 1, %0 ], [ %x.next, %loop ]
  %y = mul i64 %x, 6364136223846793005
  %x.next = xor i64 %y, %k
  %k.next = add i64 %k, 1
  %more = icmp ult i64 %k.next, {STEPS}
  br i1 %more, label %loop, label %done
done:
  store volatile i64 %x.next, ptr %keep
  ret void
}}
"""


def canary(cache_dir: Path) -> bytes:
    """The object code of the canary for this machine."""
    return object_code(_TEXT, cache_dir)
