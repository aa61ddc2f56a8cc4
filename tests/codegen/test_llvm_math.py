from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest

from loopwright.ir import dtype as dt
from loopwright.ir.expr import Call, Fn
from loopwright.target.presets import PRESETS

Mapped = Callable[..., list[np.ndarray]]

ULPS = 2.0
SMALLEST = 2.0**-125
"""Powers of e that are smaller are 0."""


def everywhere(seed: int) -> np.ndarray:
    """Floats of every exponent and both signs, special values, and more of them near one."""
    rng = np.random.default_rng(seed)
    bits = rng.integers(0, 1 << 32, 20000, dtype=np.uint64).astype(np.uint32).view(np.float32)
    bits = np.where(np.isnan(bits), np.float32(1.0), bits)
    special = [
        0.0,
        -0.0,
        np.inf,
        -np.inf,
        np.nan,
        1.0,
        -1.0,
        1e-45,
        -1e-45,
        88.7228,
        88.73,
        -103.9,
        -104.1,
    ]
    near = rng.uniform(-12, 12, 20000).astype(np.float32)
    return np.concatenate([bits, np.array(special, np.float32), near])


ERF = np.vectorize(math.erf, otypes=[np.float64])
EXACT = {
    Fn.EXP: np.exp,
    Fn.LOG: np.log,
    Fn.TANH: np.tanh,
    Fn.ERF: ERF,
    Fn.SIN: np.sin,
    Fn.COS: np.cos,
}


@pytest.mark.parametrize("fn", [Fn.EXP, Fn.LOG, Fn.TANH, Fn.ERF])
def test_float32_functions_are_within_two_ulps(mapped: Mapped, fn: Fn) -> None:
    a = everywhere(1)
    with np.errstate(all="ignore"):
        want = EXACT[fn](a.astype(np.float64))
        rounded = want.astype(np.float32)
        ulp = np.spacing(np.abs(rounded)).astype(np.float64)
    for got in mapped(lambda x: Call(fn, (x,)), a):
        np.testing.assert_array_equal(np.isnan(got), np.isnan(want))
        infinite = np.isinf(rounded)
        np.testing.assert_array_equal(got[infinite], rounded[infinite])
        finite = np.isfinite(rounded)
        error = np.abs(got[finite].astype(np.float64) - want[finite])
        error = np.where((fn is Fn.EXP) & (error < SMALLEST), 0.0, error) / ulp[finite]
        assert error.max() <= ULPS, (error.max(), a[finite][error.argmax()])


@pytest.mark.parametrize("fn", [Fn.EXP, Fn.LOG, Fn.TANH, Fn.ERF])
def test_functions_work_without_fused_multiply_add(mapped_for: Mapped, fn: Fn) -> None:
    a = np.linspace(0.01, 10, 200).astype(np.float32)
    want = EXACT[fn](a.astype(np.float64))
    for got in mapped_for(lambda x: Call(fn, (x,)), a, target=PRESETS["x86-64-sse4"]):
        np.testing.assert_allclose(got, want, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("fn", [Fn.SIN, Fn.COS])
def test_functions_of_libm_by_lane(mapped: Mapped, fn: Fn) -> None:
    a = np.linspace(-20, 20, 45).astype(np.float32)
    for got in mapped(lambda x: Call(fn, (x,)), a):
        np.testing.assert_allclose(got, EXACT[fn](a.astype(np.float64)), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("fn", [Fn.EXP, Fn.LOG, Fn.TANH, Fn.ERF, Fn.SIN, Fn.COS])
def test_float64_functions_have_float64_accuracy(mapped: Mapped, fn: Fn) -> None:
    a = np.linspace(0.1, 5, 21)
    for got in mapped(lambda x: Call(fn, (x,)), a, out=dt.F64):
        np.testing.assert_allclose(got, EXACT[fn](a), rtol=1e-14)


def test_power(mapped: Mapped) -> None:
    a, b = np.linspace(0.1, 4, 20).astype(np.float32), np.linspace(-3, 3, 20).astype(np.float32)
    for got in mapped(lambda x, y: Call(Fn.POW, (x, y)), a, b):
        np.testing.assert_allclose(got, a.astype(np.float64) ** b, rtol=1e-6)


@pytest.mark.parametrize(
    ("fn", "numpy"),
    [
        (Fn.FLOOR, np.floor),
        (Fn.CEIL, np.ceil),
        (Fn.ROUND, np.rint),
        (Fn.ABS, np.abs),
        (Fn.NEG, np.negative),
    ],
)
@pytest.mark.parametrize("dtype", [dt.F32, dt.F64, dt.F16, dt.I32], ids=str)
def test_exact_functions_as_numpy(mapped: Mapped, fn: Fn, numpy: np.ufunc, dtype: dt.DType) -> None:
    a = np.array([-2.5, -1.5, -0.5, 0.5, 1.5, 2.5, 3.2, -3.7]).astype(dtype.numpy)
    for got in mapped(lambda x: Call(fn, (x,)), a, out=dtype):
        np.testing.assert_array_equal(got, numpy(a).astype(dtype.numpy))


def test_square_roots_are_correctly_rounded(mapped: Mapped) -> None:
    a = np.linspace(0, 9, 50).astype(np.float32)
    for got in mapped(lambda x: Call(Fn.SQRT, (x,)), a):
        np.testing.assert_array_equal(got, np.sqrt(a))
    with np.errstate(divide="ignore"):
        want = np.float32(1) / np.sqrt(a)
    for got in mapped(lambda x: Call(Fn.RSQRT, (x,)), a):
        np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("dtype", [dt.F16, dt.BF16], ids=str)
def test_halves_are_computed_in_float32(mapped: Mapped, dtype: dt.DType) -> None:
    a = np.linspace(-4, 4, 33).astype(dtype.numpy)
    want = np.tanh(a.astype(np.float64)).astype(np.float32).astype(dtype.numpy)
    for got in mapped(lambda x: Call(Fn.TANH, (x,)), a, out=dtype):
        np.testing.assert_allclose(got.astype(np.float32), want.astype(np.float32), rtol=1e-2)
        assert (got == want).mean() > 0.9
