"""Scatters, index_put, topk and sorts of PyTorch; skipped where torch is not installed."""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Callable, Mapping

import pytest

from loopwright.errors import UnsupportedError
from loopwright.frontends.torch.importer import from_torch

if importlib.util.find_spec("torch") is None:
    pytest.skip("torch is not installed: pip install 'loopwright[torch]'", allow_module_level=True)

from torch_oracle import Tensor, agree, normal, torch, wrapped


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(7)


def put(x: Tensor, index: object, new: Tensor) -> Tensor:
    y = x.clone()
    y[index] = new
    return y


SCATTERS: Mapping[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "scatter": lambda x, i, u: x.scatter(1, i, u),
    "scatter along -2": lambda x, i, u: x.scatter(-2, i[:, :1], u),
    "scatter of a number": lambda x, i, _u: x.scatter(0, i, 2.5),
    "scatter of too many": lambda x, i, u: x.scatter(1, i[:1], u),
    "scatter_add": lambda x, i, u: x.scatter_add(1, i // 2, u),
    "sum": lambda x, i, u: x.scatter_reduce(0, i // 2, u, "sum"),
    "prod": lambda x, i, u: x.scatter_reduce(1, i // 2, u, "prod"),
    "amax": lambda x, i, u: x.scatter_reduce(1, i // 2, u, "amax"),
    "amin": lambda x, i, u: x.scatter_reduce(1, i // 2, u, "amin"),
    "index_copy": lambda x, i, u: x.index_copy(0, i[0], u[:, :1].expand(2, 5)),
    "index_add": lambda x, i, _u: x.index_add(1, i[0] // 2, x[:, :2], alpha=3),
    "index_fill": lambda x, i, _u: x.index_fill(1, i[0], 7.0),
    "index_put": lambda x, i, u: x.index_put((i, i.flip(1)), u),
    "index_put of rows": lambda x, i, _u: x.index_put((i[0],), x[:2] * 2),
    "index_put of columns": lambda x, i, _u: put(x, (slice(None), i[0]), x[:, :2] * 2),
    "index_put that adds": lambda x, i, u: x.index_put((i // 2, i), u, accumulate=True),
    "index_put from the end": lambda x, i, u: x.index_put((i - 4,), u[0, 0]),
    "masked": lambda x, _i, u: x.index_put((x > 0,), u[0, 0]),
    "masked rows": lambda x, _i, u: x.index_put((x[:, 0] > 0,), u[0, 0]),
}


def test_scattering() -> None:
    i = torch.tensor([[0, 3], [2, 1]])
    names = tuple(SCATTERS)
    agree(lambda *a: [case(*a) for case in SCATTERS.values()], normal(4, 5), i, normal(2, 2),
          names=names)  # fmt: skip


def test_index_put_with_a_slice_between() -> None:
    x, i = normal(3, 4, 5, 3), torch.tensor([0, 2])
    agree(lambda x, i, u: put(x, (i, slice(None), i), u), x, i, normal(2, 4, 3))
    agree(lambda x, i, u: put(x, (slice(None), i, i + 1), u), x, i, normal(3, 2, 3))


def test_a_mask_with_several_values_is_refused() -> None:
    with pytest.raises(UnsupportedError, match=r"with more than one value; use torch.where"):
        from_torch(wrapped(lambda x, u: x.index_put((x[:, 0] > 9,), u)), (normal(4, 5), normal(5)))


def test_writes_by_index_become_new_values() -> None:
    def written(cache: Tensor, at: Tensor, new: Tensor) -> Tensor:
        cache = cache.clone()
        cache[:, at] = new
        cache[at] += 1
        return cache

    agree(written, normal(4, 4, 2), torch.tensor([1, 3]), normal(4, 2, 2))


@pytest.mark.parametrize("dtype", ["float32", "int64", "bool"])
def test_ordering(dtype: str) -> None:
    x = torch.randint(0, 2 if dtype == "bool" else 4, (3, 7)).to(getattr(torch, dtype))
    agree(lambda x: (x.sort(dim=1, stable=True), x.sort(dim=0, descending=True, stable=True)), x)
    agree(lambda x: x.argsort(dim=1, stable=True), x)


def test_the_largest() -> None:
    x = normal(3, 7)
    agree(lambda x: (x.topk(3), x.topk(2, 0, largest=False)), x)
    x[0, 1], x[1, 2], x[2, 0] = math.nan, math.inf, -math.inf
    agree(lambda x: (x.topk(3), x.sort(), x.sort(descending=True)), x)


def test_bits_of_integers() -> None:
    a, b = torch.randint(-9, 9, (2, 4, 5))
    agree(lambda a, b: (a & b, a | b, a ^ b, ~a, a & 6, torch.logical_and(a, b)), a, b)
    agree(lambda a, b: (a & b, a | b, a ^ b, ~a), a > 0, b > 0)


def test_inverse_functions() -> None:
    x = torch.linspace(-1, 1, 9)
    agree(lambda x: (x.asin(), x.acos(), x.atan(), x.asinh(), (x + 2).acosh(), x.atanh()), x)
