"""What objects may use of the C library: the functions that generated code needs, by name.

Code that is measured comes from strangers. What a linker looks up for it in a process that also
holds an interpreter is therefore a list, not whatever is loaded. The list keeps names from code,
not addresses: machine code that searches its own memory for a function is confined by the sandbox.
"""

from __future__ import annotations

_MATH = """
acos acosh asin asinh atan atan2 atanh cbrt ceil copysign cos cosh erf erfc exp exp2 exp10 expm1
fabs fdim floor fma fmax fmin fmod hypot ldexp log log10 log1p log2 lrint lround llrint llround
nearbyint pow remainder rint round roundeven scalbn sin sincos sinh sqrt tan tanh tgamma trunc
"""
_MEMORY = "memcpy memmove memset memcmp"
# What compilers call for conversions of 16-bit floats and division of 128-bit integers.
_COMPILER = """
__extendhfsf2 __extendhfdf2 __truncsfhf2 __truncdfhf2 __gnu_h2f_ieee __gnu_f2h_ieee __truncsfbf2
__truncdfbf2 __extendbfsf2 __udivti3 __umodti3 __divti3 __modti3
"""

KERNEL_SYMBOLS = frozenset(
    [name + suffix for name in _MATH.split() for suffix in ("", "f")]
    + _MEMORY.split()
    + _COMPILER.split()
)
"""What kernels may use: pure functions of libm, copying, and the helpers of compilers."""
RUNTIME_SYMBOLS = KERNEL_SYMBOLS | {"syscall", "mmap", "munmap", "clock_gettime"}
"""What a native runtime may use: it waits on futexes, notices a caller that waits long, and looks
whether there is memory left."""
MODEL_SYMBOLS = RUNTIME_SYMBOLS
"""What a whole model may use: it brings its runtime, and reads the clock between its kernels."""
