"""Intrinsic functions, built from operations.

Those that targets have instructions for are left to the language; float32 exp, log, tanh and erf
are polynomials written here, so that they stay in vectors; the rest are libm calls per lane.

Source: the range reductions are the textbook ones (J.-M. Muller, Elementary Functions): exp(x) =
2**n exp(r) with n = round(x / ln 2); log(x) = e ln 2 + log(m) with m in [sqrt(1/2), sqrt(2)); away
from zero tanh(x) = 1 - 2 / (exp(2x) + 1) and erf(x) = 1 - exp(log erfc(x)), near it odd
polynomials. Coefficients are minimax fits of the relative error (Lawson's iteration on Chebyshev
nodes, float64), rounded to float32. Error measured against float64 over all exponents, with fused
multiply-add: exp 1.0 (down to 2**-125), log 0.8, tanh 1.3, erf 1.0 units in the last place
(`tests/codegen/test_llvm_math.py` holds them to 2).
"""

from __future__ import annotations

import math
from collections.abc import Callable

from loopwright.codegen.operations import Operations
from loopwright.codegen.values import CodeValue
from loopwright.ir.dtype import F32, F64, I32, DTypeKind
from loopwright.ir.expr import Fn, Op

_ROUNDING = {Fn.FLOOR: "floor", Fn.CEIL: "ceil", Fn.ROUND: "roundeven"}

_EXP = (
    0.4999999403953552,
    0.1666652113199234,
    0.04166838899254799,
    0.008368715643882751,
    0.0013814602280035615,
)
"""(exp(r) - 1 - r) / r**2 for |r| <= ln(2) / 2."""
_LOG = (
    0.3333331346511841,
    -0.25000008940696716,
    0.2000211924314499,
    -0.1666799634695053,
    0.14219552278518677,
    -0.1240558922290802,
    0.11888162046670914,
    -0.11675652116537094,
    0.06746640801429749,
)
"""(log(1 + f) - f + f**2 / 2) / f**3 for sqrt(1/2) - 1 <= f <= sqrt(2) - 1."""
_TANH = (
    -0.33333298563957214,
    0.13331924378871918,
    -0.053783830255270004,
    0.020795971155166626,
    -0.005895158275961876,
)
"""(tanh(x) - x) / x**3 in powers of x**2, |x| <= 0.6."""
_ERF = (
    0.12837916612625122,
    -0.3761262595653534,
    0.1128358542919159,
    -0.026853812858462334,
    0.005188328213989735,
    -0.000801019836217165,
    7.853876013541594e-05,
)
"""erf(x) / x - 1 in powers of x**2, |x| <= 1."""
_LOG_ERFC = (
    0.00018245934916194528,
    -1.1295520067214966,
    -0.6332724094390869,
    -0.10836154222488403,
    0.025171803310513496,
    -0.004190853331238031,
    0.000438529415987432,
    -2.1445519450935535e-05,
)
"""log(erfc(x)) for 0.95 <= x <= 4."""

_EXP_LIMITS = -86.98, 89.0
"""Below the first, exp is less than 2**-125 and taken as 0; above the second, infinity."""
_EXPONENT_ONE = 127 << 23
"""The bits of 1.0."""
_LN2_HIGH, _LN2_LOW = 0.693359375, -2.12194440e-4
"""ln 2 in two parts; the first is short enough that its product with an exponent is exact."""
_MAGIC = 12582912.0
"""1.5 * 2**23: adding it rounds a small number to an integer, in the low bits of the sum."""
_SQRT_HALF_BITS = 0x3F3504F3
_SMALLEST_NORMAL = 2.0**-126
_TANH_SMALL, _TANH_ONE = 0.6, 10.0
"""tanh is an odd polynomial up to the first, and 1 in float32 from the second on."""
_ERF_SMALL, _ERF_ONE = 0.96, 4.0
"""erf is an odd polynomial up to the first, and 1 in float32 from the second on."""


class Functions:
    """Emits calls of `Fn` on values."""

    def __init__(self, ops: Operations) -> None:
        self._ops = ops
        self._own: dict[Fn, Callable[[CodeValue], CodeValue]] = {
            Fn.EXP: self._exp,
            Fn.LOG: self._log,
            Fn.TANH: self._tanh,
            Fn.ERF: self._erf,
        }

    def call(self, fn: Fn, args: list[CodeValue]) -> CodeValue:
        """`fn(args)`; float16 and bfloat16 are computed in float32 and rounded."""
        first = args[0]
        if fn is Fn.NEG:
            return self._ops.negate(first)
        if fn is Fn.NOT:
            return self._ops.invert(first)
        if fn is Fn.ABS:
            return self._abs(first)
        if not first.dtype.is_float:
            if fn in _ROUNDING:
                return first
            wide = [self._ops.cast(a, F64) for a in args]
            return self._ops.cast(self._float(fn, wide), first.dtype)
        if first.dtype.bits == 16:
            single = self._float(fn, [a._replace(dtype=F32) for a in args])
            return self._ops.round(single._replace(dtype=first.dtype))
        return self._float(fn, args)

    def _abs(self, value: CodeValue) -> CodeValue:
        dtype = value.dtype
        if dtype.is_float:
            return self._ops.intrinsic("fabs", value)
        if dtype.kind is not DTypeKind.INT:
            return value
        positive = self._ops.binary(Op.GE, value, self._ops.literal(0, dtype))
        return self._ops.select(positive, value, self._ops.negate(value))

    def _float(self, fn: Fn, args: list[CodeValue]) -> CodeValue:
        first = args[0]
        if fn in _ROUNDING:
            return self._ops.intrinsic(_ROUNDING[fn], first)
        if fn is Fn.SQRT:
            return self._ops.intrinsic("sqrt", first)
        if fn is Fn.RSQRT:
            root = self._ops.intrinsic("sqrt", first)
            return self._ops.binary(Op.DIV, self._ops.literal(1.0, first.dtype), root)
        if fn in self._own and first.dtype == F32:
            return self._own[fn](first)
        return self._ops.libm(fn, args)

    def _exp(self, x: CodeValue) -> CodeValue:
        low, high = _EXP_LIMITS
        do, select = self._ops.binary, self._ops.select
        # Comparisons that are false for NaN keep it.
        kept = select(do(Op.LT, x, self._f(low)), self._f(low), x)
        kept = select(do(Op.GT, kept, self._f(high)), self._f(high), kept)
        # 2**n may not be a float, where n is 128, but half of it is.
        half = self._exp_within(kept, _EXPONENT_ONE - (1 << 23))
        return select(do(Op.LT, x, self._f(low)), self._f(0.0), do(Op.ADD, half, half))

    def _exp_within(self, x: CodeValue, one: int = _EXPONENT_ONE) -> CodeValue:
        """exp(x) for x in -87..88; half of it where `one` has the bits of a half."""
        do, fma = self._ops.binary, self._ops.multiply_add
        shifted = fma(x, self._f(1 / math.log(2)), self._f(_MAGIC))
        whole = do(Op.SUB, shifted, self._f(_MAGIC))
        r = fma(whole, self._f(_LN2_LOW), fma(whole, self._f(_LN2_HIGH), x, minus=True), minus=True)
        result = fma(do(Op.MUL, r, r), self._polynomial(_EXP, r), r)
        result = do(Op.ADD, result, self._f(1.0))
        # The low bits of `shifted` are n; all others leave when they become the exponent.
        power = do(Op.ADD, self._shift("shl", self._bits(shifted), 23), self._i(one))
        return do(Op.MUL, result, self._float_of(power))

    def _log(self, x: CodeValue) -> CodeValue:
        do, fma, select = self._ops.binary, self._ops.multiply_add, self._ops.select
        tiny = do(Op.LT, x, self._f(_SMALLEST_NORMAL))
        scaled = select(tiny, do(Op.MUL, x, self._f(2.0**23)), x)
        bits = self._bits(scaled)
        exponent = self._shift("ashr", do(Op.SUB, bits, self._i(_SQRT_HALF_BITS)), 23)
        mantissa = do(Op.SUB, bits, self._shift("shl", exponent, 23))
        exponent = do(Op.ADD, exponent, select(tiny, self._i(-23), self._i(0)))
        f = do(Op.SUB, self._float_of(mantissa), self._f(1.0))
        e = self._ops.cast(exponent, F32)
        square = do(Op.MUL, f, f)
        cubic = do(Op.MUL, do(Op.MUL, square, f), self._polynomial(_LOG, f))
        tail = fma(e, self._f(_LN2_LOW), fma(square, self._f(0.5), cubic, minus=True))
        result = fma(e, self._f(_LN2_HIGH), do(Op.ADD, f, tail))
        infinite = do(Op.EQ, x, self._f(math.inf))
        result = select(infinite, x, result)
        result = select(do(Op.EQ, x, self._f(0.0)), self._f(-math.inf), result)
        valid = do(Op.GE, x, self._f(0.0))
        return select(valid, result, self._f(math.nan))

    def _tanh(self, x: CodeValue) -> CodeValue:
        do, fma = self._ops.binary, self._ops.multiply_add
        size = self._ops.intrinsic("fabs", x)
        square = do(Op.MUL, x, x)
        near = fma(do(Op.MUL, square, x), self._polynomial(_TANH, square), x)
        capped = self._ops.select(do(Op.GT, size, self._f(_TANH_ONE)), self._f(_TANH_ONE), size)
        grown = do(Op.ADD, self._exp_within(do(Op.ADD, capped, capped)), self._f(1.0))
        far = do(Op.SUB, self._f(1.0), do(Op.DIV, self._f(2.0), grown))
        signed = self._ops.intrinsic("copysign", far, x)
        return self._ops.select(do(Op.LT, size, self._f(_TANH_SMALL)), near, signed)

    def _erf(self, x: CodeValue) -> CodeValue:
        do, fma = self._ops.binary, self._ops.multiply_add
        size = self._ops.intrinsic("fabs", x)
        square = do(Op.MUL, x, x)
        near = fma(x, self._polynomial(_ERF, square), x)
        capped = self._ops.select(do(Op.GT, size, self._f(_ERF_ONE)), self._f(_ERF_ONE), size)
        rest = self._exp_within(self._polynomial(_LOG_ERFC, capped))
        signed = self._ops.intrinsic("copysign", do(Op.SUB, self._f(1.0), rest), x)
        return self._ops.select(do(Op.LT, size, self._f(_ERF_SMALL)), near, signed)

    def _polynomial(self, coefficients: tuple[float, ...], x: CodeValue) -> CodeValue:
        """`coefficients[0] + coefficients[1] x + ...` by Horner's rule."""
        total = self._f(coefficients[-1])
        for coefficient in reversed(coefficients[:-1]):
            total = self._ops.multiply_add(total, x, self._f(coefficient))
        return total

    def _shift(self, op: str, value: CodeValue, count: int) -> CodeValue:
        return self._ops.plain(op, value, self._i(count), I32)

    def _bits(self, value: CodeValue) -> CodeValue:
        return self._ops.bitcast(value, I32)

    def _float_of(self, bits: CodeValue) -> CodeValue:
        return self._ops.bitcast(bits, F32)

    def _f(self, value: float) -> CodeValue:
        return self._ops.literal(value, F32)

    def _i(self, value: int) -> CodeValue:
        return self._ops.literal(value, I32)
