"""Graphs of PyTorch models compute what PyTorch computes; skipped where torch is not installed."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeAlias

import numpy as np
import pytest

from loopwright.errors import ModelError, UnsupportedError
from loopwright.frontends.torch.importer import (
    from_torch,
    import_torch,
    import_torch_package,
    to_numpy,
)
from loopwright.graph.evaluate import evaluate
from loopwright.graph.ir import Graph

if importlib.util.find_spec("torch") is None:
    pytest.skip("torch is not installed: pip install 'loopwright[torch]'", allow_module_level=True)

from torch_oracle import agree, normal, wrapped

Tensor: TypeAlias = Any  # tests see torch without its types
Module: TypeAlias = Any
torch: Any = import_torch_package()
nn: Any = torch.nn
F: Any = torch.nn.functional


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(7)


def ops(graph: Graph) -> list[str]:
    return [node.op for node in graph.nodes]


def randomised(module: Module) -> Module:
    """`module` with random buffers and parameters, so that a forgotten one shows."""
    for tensor in [*module.parameters(), *module.buffers()]:
        if tensor.is_floating_point():
            tensor.data = torch.rand_like(tensor) + 0.5
    return module.eval()


class Family(nn.Module):  # type: ignore[misc]
    """Several layers side by side: one export is quicker than many."""

    def __init__(self, layers: Iterable[Module]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)

    def forward(self, *inputs: Tensor) -> list[Tensor]:
        return [layer(x) for layer, x in zip(self.layers, inputs, strict=True)]


Cases: TypeAlias = Mapping[str, tuple[Any, tuple[int, ...]]]


def agree_all(cases: Cases) -> None:
    """Each layer, on an input of its shape, must compute what its graph does."""
    layers = [
        layer if isinstance(layer, nn.Module) else wrapped(layer) for layer, _ in cases.values()
    ]
    inputs = [normal(*shape) for _, shape in cases.values()]
    agree(randomised(Family(layers)), *inputs, names=tuple(cases))


ACTIVATIONS = (
    nn.ReLU(), nn.ReLU6(), nn.Hardtanh(-0.5, 2.0), nn.Sigmoid(), nn.SiLU(), nn.GELU(),
    nn.GELU(approximate="tanh"), nn.Hardswish(), nn.Hardsigmoid(), nn.Tanh(), nn.LeakyReLU(0.2),
    nn.ELU(0.7), nn.SELU(), nn.CELU(0.8), nn.Softplus(), nn.Softplus(beta=2.0), nn.Mish(),
    nn.LogSigmoid(), nn.Softsign(), nn.PReLU(3), nn.Threshold(0.1, 2.0), nn.Softmax(dim=1),
    nn.LogSoftmax(dim=-1), nn.GLU(dim=2), nn.Tanhshrink(), nn.Softmin(dim=1), nn.Dropout(0.5),
    nn.Hardshrink(0.3), nn.Softshrink(0.3),
)  # fmt: skip


def test_activations() -> None:
    agree(wrapped(lambda x: [module.eval()(x) for module in ACTIVATIONS]), normal(2, 3, 4) * 3)


def test_activations_as_layers() -> None:
    agree(nn.Sequential(nn.SiLU(), nn.PReLU(3), nn.Softplus(), nn.Dropout()), normal(2, 3, 4))


UNARY = (
    "exp", "expm1", "sin", "cos", "tan", "tanh", "erf", "neg", "abs", "sign", "floor", "ceil",
    "round", "trunc", "square", "sigmoid", "exp2", "isnan", "isinf", "frac",
)  # fmt: skip
POSITIVE = ("log", "log1p", "log2", "log10", "sqrt", "rsqrt", "reciprocal")


def test_functions() -> None:
    agree(lambda x: [getattr(torch, name)(x) for name in UNARY], normal(3, 5) * 2)


def test_functions_of_positive_numbers() -> None:
    agree(lambda x: [getattr(torch, name)(x) for name in POSITIVE], torch.rand(3, 5) + 0.5)


def test_functions_of_integers_are_floats() -> None:
    agree(lambda i: (torch.exp(i), torch.sigmoid(i), torch.floor(i)), torch.arange(4))


POWERS = (0.5, -0.5, -1, 1, 2, 3, 2.5)


def test_powers() -> None:
    agree(lambda x: [x**exponent for exponent in POWERS], torch.rand(4) + 0.5)


ARITHMETIC: dict[str, Callable[..., Any]] = {
    "tensors": lambda a, b: (a + b, a - b, a * b, a / b),
    "numbers": lambda a, _: (a + 2, a - 0.5, a * 3, a / 4, 2 - a, 1 / a, 2**a),
    "scaled": lambda a, b: (torch.add(a, b, alpha=2), torch.sub(a, b, alpha=0.5)),
    "rounded": lambda a, b: (
        a // b,
        torch.div(a, b, rounding_mode="trunc"),
        a % b,
        torch.fmod(a, b),
    ),
    "extremes": lambda a, b: (torch.maximum(a, b), torch.minimum(a, b)),
    "clamped": lambda a, b: (a.clamp(-0.5, 0.5), a.clamp(min=0.1), a.clamp(max=b), a.clamp_min(0)),
    "compared": lambda a, b: (a == b, a != b, a < b, a <= b, a > b, a >= b, a > 0.5, a != 1),
    "chosen": lambda a, b: (
        torch.where(a > b, a, b),
        torch.where(a > 0, a, 0.0),
        b.masked_fill(a > 0, -1),
    ),
    "combined": lambda a, b: ((a > 0) & (b > 0), (a > 0) | (b > 0), (a > 0) ^ (b > 0), ~(a > 0)),
    "fused": lambda a, b: (
        torch.addcmul(a, a, b, value=2),
        torch.addcdiv(a, a, b),
        torch.lerp(a, b, 0.3),
    ),
    "cast": lambda a, b: (
        (a * 5).to(torch.int32),
        (a > b).float(),
        a.double() + b,
        a.half().float(),
    ),
}


def test_arithmetic() -> None:
    agree(lambda a, b: [case(a, b) for case in ARITHMETIC.values()], normal(2, 3), normal(3))


INTEGERS: dict[str, Callable[..., Any]] = {
    "arithmetic": lambda a, b: (a + b, a - b, a * b, a / b, a * 2, a * 0.5),
    "rounded": lambda a, b: (a // b, a % b, torch.div(a, b, rounding_mode="trunc")),
    "mixed": lambda a, b: (a > 1.5, a == b, a.float() + b, a.clamp(-2, 2), a.sum(), a.prod(dim=1)),
    "extremes": lambda a, _: (a.amax(1), a.argmax(1), (a > 0).sum(), (a > 0).any(1), (a > 0).all()),
}


def test_integers() -> None:
    a, b = torch.tensor([[-5, -3, -1], [2, 4, 7]]), torch.tensor([2, -3, 4])
    agree(lambda a, b: [case(a, b) for case in INTEGERS.values()], a, b)


FOLDS: dict[str, Callable[..., Any]] = {
    "sum": lambda x: (x.sum(), x.sum(1), x.sum((0, 2), keepdim=True), x.sum(-1).double()),
    "mean": lambda x: (x.mean(), x.mean(1), x.mean((1, 2), keepdim=True)),
    "extremes": lambda x: (x.amax(1), x.amin((0, 1)), x.max(), x.min(), *x.max(1), *x.min(2)),
    "places": lambda x: (x.argmax(), x.argmax(1), x.argmin(2, keepdim=True), x.argmax(0)),
    "spread": lambda x: (x.var(), x.var(1), x.std(2), x.var(0, correction=0), *torch.var_mean(x)),
    "norms": lambda x: (x.norm(), x.norm(p=1, dim=1), F.normalize(x, dim=1), x.abs().prod(1)),
    "exponents": lambda x: (torch.logsumexp(x, 1), x.softmax(0), F.log_softmax(x, 2)),
}  # fmt: skip


def test_reductions() -> None:
    agree(lambda x: [case(x) for case in FOLDS.values()], normal(3, 4, 5))


MOVES: dict[str, Callable[..., Any]] = {
    "views": lambda x: (x.view(6, 4), x.reshape(-1), x.flatten(1), x.unflatten(2, (2, 2)), x[None]),
    "squeezed": lambda x: (x.unsqueeze(1), x[:, :1].squeeze(1), x[:1].squeeze()),
    "turned": lambda x: (x.permute(2, 0, 1), x.transpose(0, 2), x[0].t(), x.movedim(0, 2), x[0].T),
    "sliced": lambda x: (x[:, 1:], x[..., ::2], x[:, -2:], x[1], x[:, -1], x.narrow(1, 1, 2)),
    "split": lambda x: (*x.split(3, 2), *x.chunk(2, 2), *x.unbind(1), *x.split([1, 2], 1)),
    "joined": lambda x: (torch.cat([x, x * 2], 1), torch.stack([x, x], 2), torch.cat([x, x.int()])),
    "padded": lambda x: (F.pad(x, (1, 2)), F.pad(x, (0, 1, 2, 0), value=3.0), F.pad(x, (-1, 1))),
    "mirrored": lambda x: (F.pad(x, (2, 1), mode="reflect"), F.pad(x, (2, 1), mode="replicate")),
    "expanded": lambda x: (x[:, :1].expand(2, 3, 4), x.repeat(2, 1, 1), x.repeat(2, 1, 1, 2)),
    "flipped": lambda x: (x.flip(0, 2), x.roll(1, 1), x.roll((1, -2), (0, 2)), x.roll(3)),
    "same": lambda x: (x, x, x.clone(), x.contiguous().detach(), x.float()),
    "made": lambda x: (x + torch.arange(4), torch.zeros_like(x), torch.ones(2) * 3, x.new_ones(2)),
    "triangular": lambda x: x.masked_fill(torch.triu(torch.ones(3, 4), 1).bool(), 0.0),
}  # fmt: skip


def test_moves() -> None:
    agree(lambda x: [case(x) for case in MOVES.values()], normal(2, 3, 4))


def test_writes_to_parts_become_new_values() -> None:
    def written(x: Tensor) -> Tensor:
        y = x.clone()
        y[:, 1] = 0.0
        y[0, 1:] = x[1, :2] * 2
        y += 1
        return y

    agree(written, normal(2, 3, 4))


def test_pixels_are_shuffled() -> None:
    agree(lambda x: (F.pixel_shuffle(x, 2), F.pixel_unshuffle(x, 2)), normal(1, 8, 2, 4))


def test_gathering() -> None:
    x = normal(4, 5)
    i = torch.tensor([[0, 3], [2, 1]])
    agree(lambda x, i: (x[i], x.index_select(1, i[0]), x.gather(0, i), x[:, i[0]], x[i, i]), x, i)
    agree(lambda x, i: x[i], x, torch.tensor([-1, 2]))
    agree(nn.Embedding(6, 3), i)


CONVOLUTIONS: Cases = {
    "plain": (nn.Conv2d(3, 4, 3), (2, 3, 7, 6)),
    "no bias": (nn.Conv2d(3, 4, (3, 1), stride=2, padding=(1, 0), bias=False), (1, 3, 7, 6)),
    "dilated": (nn.Conv2d(2, 2, 3, padding=2, dilation=2), (1, 2, 6, 6)),
    "groups": (nn.Conv2d(4, 6, 3, groups=2), (1, 4, 5, 5)),
    "depthwise": (nn.Conv2d(4, 4, 3, padding=1, groups=4), (1, 4, 5, 5)),
    "same": (nn.Conv2d(2, 3, 4, padding="same"), (1, 2, 5, 5)),
    "reflected": (nn.Conv2d(2, 3, 3, padding=1, padding_mode="reflect"), (1, 2, 5, 5)),
    "one image": (nn.Conv2d(2, 3, 3), (2, 5, 5)),
    "1-D": (nn.Conv1d(3, 4, 3, stride=2, padding=1), (2, 3, 9)),
    "3-D": (nn.Conv3d(2, 3, 2), (1, 2, 3, 4, 3)),
    "transposed": (nn.ConvTranspose2d(3, 2, 3, 2, padding=1, output_padding=1), (1, 3, 4, 3)),
    "transposed groups": (nn.ConvTranspose2d(4, 4, 2, stride=2, groups=2), (1, 4, 3, 3)),
    "transposed 1-D": (nn.ConvTranspose1d(2, 3, 4, stride=2, padding=1), (1, 2, 5)),
}  # fmt: skip


def test_convolutions() -> None:
    agree_all(CONVOLUTIONS)


POOLS: Cases = {
    "max": (nn.MaxPool2d(3, stride=2, padding=1), (1, 2, 7, 6)),
    "max ceil": (nn.MaxPool2d(2, ceil_mode=True), (1, 2, 7, 5)),
    "max dilated": (nn.MaxPool2d(2, stride=1, dilation=2), (1, 2, 5, 5)),
    "max 1-D": (nn.MaxPool1d(2), (1, 2, 6)),
    "average": (nn.AvgPool2d(3, stride=2, padding=1), (1, 2, 7, 6)),
    "average of what is there": (nn.AvgPool2d(3, 2, 1, count_include_pad=False), (1, 2, 6, 6)),
    "average ceil": (nn.AvgPool2d(3, 2, 1, ceil_mode=True), (1, 2, 6, 6)),
    "average by 3": (nn.AvgPool2d(2, divisor_override=3), (1, 2, 6, 6)),
    "average 1-D": (nn.AvgPool1d(2), (1, 2, 6)),
    "adaptive 1": (nn.AdaptiveAvgPool2d(1), (2, 3, 5, 4)),
    "adaptive divides": (nn.AdaptiveAvgPool2d((2, 3)), (1, 2, 4, 6)),
    "adaptive uneven": (nn.AdaptiveAvgPool2d((3, 4)), (1, 2, 7, 6)),
    "adaptive larger": (nn.AdaptiveAvgPool2d(7), (1, 2, 3, 3)),
    "adaptive max": (nn.AdaptiveMaxPool2d(2), (1, 2, 4, 6)),
    "adaptive 1-D": (nn.AdaptiveAvgPool1d(3), (1, 2, 7)),
    "one image": (nn.MaxPool2d(2), (2, 6, 4)),
}  # fmt: skip


def test_pools() -> None:
    agree_all(POOLS)


RESIZES: dict[str, dict[str, object]] = {
    "nearest": {"scale_factor": 2},
    "nearest to a size": {"size": (5, 7)},
    "nearest by 1.6": {"scale_factor": 1.6},
    "nearest-exact": {"size": (5, 7), "mode": "nearest-exact"},
    "bilinear": {"scale_factor": 2, "mode": "bilinear"},
    "bilinear by 1.6": {"scale_factor": 1.6, "mode": "bilinear"},
    "bilinear to a size": {"size": (5, 2), "mode": "bilinear"},
    "bilinear corners": {"size": (5, 7), "mode": "bilinear", "align_corners": True},
}


def test_upsampling() -> None:
    agree(
        lambda x: [F.interpolate(x, **given) for given in RESIZES.values()],
        normal(1, 2, 3, 4),
        names=tuple(RESIZES),
    )


NORMS: Cases = {
    "batch 2-D": (nn.BatchNorm2d(3), (2, 3, 2, 2)),
    "batch 1-D": (nn.BatchNorm1d(3), (4, 3)),
    "batch plain": (nn.BatchNorm2d(3, affine=False), (1, 3, 2, 2)),
    "layer": (nn.LayerNorm(4), (2, 3, 4)),
    "layer of two": (nn.LayerNorm((3, 4)), (2, 3, 4)),
    "layer plain": (nn.LayerNorm(4, elementwise_affine=False), (2, 3, 4)),
    "group": (nn.GroupNorm(2, 4), (2, 4, 3, 3)),
    "instance": (nn.InstanceNorm2d(3, affine=True), (2, 3, 4, 4)),
    "rms": (nn.RMSNorm(4), (2, 3, 4)),
    "local": (nn.LocalResponseNorm(3), (1, 4, 3, 3)),
}


def test_norms() -> None:
    agree_all(NORMS)


PRODUCTS: dict[str, tuple[Callable[..., Any], tuple[int, ...], tuple[int, ...]]] = {
    "mm": (torch.mm, (2, 3), (3, 4)),
    "bmm": (torch.bmm, (2, 3, 4), (2, 4, 2)),
    "broadcast": (torch.matmul, (2, 1, 3, 4), (5, 4, 2)),
    "vector": (torch.matmul, (3, 4), (4,)),
    "dot": (torch.dot, (4,), (4,)),
    "einsum": (lambda a, b: torch.einsum("bij,bkj->bik", a, b), (2, 3, 4), (2, 5, 4)),
    "outer": (torch.outer, (3,), (4,)),
    "linear": (F.linear, (2, 3, 4), (5, 4)),
    "addmm": (lambda a, b: torch.addmm(a[0, 0], a, b, beta=0.5, alpha=2.0), (2, 3), (3, 4)),
    "baddbmm": (lambda a, b: torch.baddbmm(a[:, :, :1], a, b, beta=0.5), (2, 3, 4), (2, 4, 2)),
}


def test_products() -> None:
    functions = [function for function, _, _ in PRODUCTS.values()]
    pairs = [(normal(*a), normal(*b)) for _, a, b in PRODUCTS.values()]
    agree(
        lambda *given: [f(a, b) for f, (a, b) in zip(functions, given, strict=True)],
        *pairs,
        names=tuple(PRODUCTS),
    )


def test_a_linear_layer_is_one_gemm_of_two_matrices() -> None:
    assert ops(agree(nn.Linear(4, 3), normal(2, 4))) == ["gemm"]
    assert ops(agree(nn.Linear(4, 3), normal(2, 5, 4))) == ["matmul", "add"]


def test_attention() -> None:
    q, k, v = normal(1, 2, 3, 4), normal(1, 2, 5, 4), normal(1, 2, 5, 4)
    attend = F.scaled_dot_product_attention
    seen = torch.tensor([[True] * 5, [False] * 5, [True, False] * 2 + [True]])
    agree(lambda q, k, v: attend(q, k, v, scale=0.3), q, k, v)
    agree(lambda q, k, v: attend(q, k, v, is_causal=True), q, k, v)
    agree(lambda q, k, v, m: attend(q, k, v, attn_mask=m), q, k, v, seen)
    agree(lambda q, k, v: attend(q, k, v, attn_mask=seen), q, k, v)
    agree(lambda q, k, v, m: attend(q, k, v, attn_mask=m), q, k, v, normal(3, 5))
    agree(lambda q, k, v: attend(q, k[:, :1], v[:, :1], enable_gqa=True), q, k, v)


def test_masks_that_are_known_are_computed_at_import() -> None:
    causal = wrapped(lambda x: F.scaled_dot_product_attention(x, x, x, is_causal=True))
    graph = agree(causal, normal(1, 1, 4, 2))
    assert ops(graph) == ["transpose", "matmul", "mul", "add", "softmax", "matmul"]


class Squeeze(nn.Module):  # type: ignore[misc]
    """A squeeze-and-excitation block."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.down, self.up = nn.Conv2d(channels, 2, 1), nn.Conv2d(2, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        share = self.up(F.relu(self.down(F.adaptive_avg_pool2d(x, 1))))
        return x * F.hardsigmoid(share)


class Residual(nn.Module):  # type: ignore[misc]
    """A block of a residual net that halves the image."""

    def __init__(self, inside: int, out: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(inside, out, 3, 2, 1, bias=False)
        self.second = nn.Conv2d(out, out, 3, 1, 1, bias=False)
        self.norms = nn.ModuleList([nn.BatchNorm2d(out) for _ in range(3)])
        self.down = nn.Conv2d(inside, out, 1, 2, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.norms[0](self.first(x)))
        return F.relu(self.norms[1](self.second(y)) + self.norms[2](self.down(x)))


class Recurrent(nn.Module):  # type: ignore[misc]
    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(9, 4)
        self.cells = nn.LSTM(4, 3, bidirectional=True, batch_first=True)
        self.gates = nn.GRU(6, 2, batch_first=True)

    def forward(self, words: Tensor) -> Tensor:
        y, (h, c) = self.cells(self.words(words))
        return self.gates(y)[0], h, c


class UNet(nn.Module):  # type: ignore[misc]
    def __init__(self) -> None:
        super().__init__()
        self.down = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU())
        self.deep = nn.Sequential(nn.Conv2d(4, 6, 3, padding=1), nn.GroupNorm(2, 6), nn.SiLU())
        self.up = nn.ConvTranspose2d(6, 4, 2, stride=2)
        self.last = nn.Conv2d(14, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        wide = self.down(x)
        deep = self.deep(F.max_pool2d(wide, 2))
        smooth = F.interpolate(deep, scale_factor=2, mode="bilinear", align_corners=False)
        return self.last(torch.cat([wide, self.up(deep), smooth], 1))


def resnet() -> Module:
    stem = (
        nn.Conv2d(3, 4, 3, 2, 1, bias=False),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.MaxPool2d(3, 2, 1),
    )
    head = (nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5))
    return nn.Sequential(*stem, Residual(4, 8), *head)


def mobilenet() -> Module:
    wide = (nn.Conv2d(3, 8, 1, bias=False), nn.BatchNorm2d(8), nn.Hardswish())
    deep = (nn.Conv2d(8, 8, 3, 2, 1, groups=8, bias=False), nn.BatchNorm2d(8), nn.Hardswish())
    head = (
        nn.Conv2d(8, 4, 1),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Dropout(0.2),
        nn.Linear(4, 3),
    )
    return nn.Sequential(*wide, *deep, Squeeze(8), *head)


def encoder() -> Module:
    layer = nn.TransformerEncoderLayer(
        8, 2, 16, activation="gelu", batch_first=True, norm_first=True
    )
    return nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)


NETS: dict[str, tuple[Callable[[], Any], Callable[[], Any]]] = {
    "resnet": (resnet, lambda: normal(1, 3, 16, 16)),
    "mobilenet": (mobilenet, lambda: normal(1, 3, 8, 8)),
    "encoder": (encoder, lambda: normal(2, 5, 8)),
    "recurrent": (Recurrent, lambda: torch.tensor([[1, 8], [0, 2]])),
    "unet": (UNet, lambda: normal(1, 1, 8, 8)),
}


@pytest.mark.parametrize("name", NETS)
def test_nets(name: str) -> None:
    make, given = NETS[name]
    agree(
        randomised(make()) if name in ("resnet", "mobilenet") else make(), given(), tolerance=1e-4
    )


@pytest.mark.parametrize("name", ["mobilenet", "encoder"])
def test_a_program_that_pytorch_decomposed(name: str) -> None:
    make, given = NETS[name]
    module, x = make().eval(), given()
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        program = torch.export.export(module, (x,)).run_decompositions()
        wanted = module(x).numpy()
    graph = import_torch(program, name)
    (found,) = evaluate(graph, {graph.inputs[0]: to_numpy(x)})
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-4)


def test_shared_weights_are_one_constant() -> None:
    words, out = nn.Embedding(6, 4), nn.Linear(4, 6, bias=False)
    out.weight = words.weight
    graph = agree(wrapped(lambda i: F.linear(words(i)[0], words.weight)), torch.tensor([[1, 2]]))
    assert sum(a.shape == (6, 4) for a in graph.constants.values()) == 1


def test_parameters_keep_their_names() -> None:
    graph = from_torch(nn.Sequential(nn.Conv2d(1, 2, 3)).eval(), (normal(1, 1, 4, 4),))
    assert set(graph.constants) == {"0.weight", "0.bias"}


def test_nested_inputs_come_one_after_another() -> None:
    module = wrapped(lambda pair, c: pair[0] * pair[1] - c)
    inputs = ((normal(2), normal(2)), normal(2))
    agree(module, *inputs)


def test_all_unknown_operators_are_named() -> None:
    module = wrapped(lambda x: (x.logcumsumexp(0) + x.logcumsumexp(1), x.cummax(0)[0], x.relu()))
    message = (
        r"aten\.logcumsumexp\.default \(2, first 'logcumsumexp'\), "
        r"aten\.cummax\.default \(1, first 'cummax'\)"
    )
    with pytest.raises(UnsupportedError, match=message):
        from_torch(module, (normal(3, 3),))


def test_what_follows_an_unknown_dtype_is_not_named() -> None:
    module = wrapped(lambda x: torch.view_as_real(torch.view_as_complex(x) * 2).neg())
    with pytest.raises(UnsupportedError) as refused:
        from_torch(module, (normal(3, 2),))
    assert "view_as_complex" in str(refused.value)
    assert "mul" not in str(refused.value)


def test_indices_of_a_pool_are_refused_by_name() -> None:
    module = wrapped(lambda x: F.max_pool2d(x, 2, return_indices=True))
    with pytest.raises(UnsupportedError, match=r"aten\.max_pool2d_with_indices\.default result 1"):
        from_torch(module, (normal(1, 1, 4, 4),))


def test_a_dynamic_dimension_is_named() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        shapes = ({0: torch.export.Dim("batch", min=2, max=8)},)
        program = torch.export.export(nn.Linear(4, 3), (normal(2, 4),), dynamic_shapes=shapes)
    with pytest.raises(ModelError, match=r"dimension 0 of the input 'input' is dynamic \(s\d+\)"):
        import_torch(program)


def test_a_model_in_training_is_refused() -> None:
    with pytest.raises(ModelError, match=r"Sequential is in training; call eval\(\) on it first"):
        from_torch(nn.Sequential(nn.Dropout()), (normal(2),))


def test_a_model_that_changes_its_buffers_is_refused() -> None:
    class Counts(nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("count", torch.zeros(2))

        def forward(self, x: Tensor) -> Tensor:
            self.count += 1
            return x + self.count

    with pytest.raises(ModelError, match="it changes 'count'"):
        from_torch(Counts().eval(), (normal(2),))


def test_a_model_that_cannot_be_traced_is_refused() -> None:
    with pytest.raises(ModelError, match=r"torch\.export cannot trace it"):
        from_torch(wrapped(lambda x: x if x.sum() > 0 else -x), (normal(2),))


def test_the_importer_does_not_import_torch() -> None:
    check = (
        "import sys, loopwright.frontends.torch.importer as i; assert 'torch' not in sys.modules, i"
    )
    subprocess.run([sys.executable, "-c", check], check=True)
