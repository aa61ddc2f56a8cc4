"""Operators in the shapes that break templates: tails, odd channels, groups, strides, one row."""

from __future__ import annotations

from collections.abc import Mapping

Attrs = Mapping[str, object]

CONV2D: Mapping[str, Attrs] = {
    "3x3": {"data": (1, 16, 10, 10), "weight": (32, 16, 3, 3), "padding": (1, 1, 1, 1)},
    "odd channels": {"data": (1, 13, 9, 11), "weight": (19, 13, 3, 3), "padding": (1, 1, 1, 1)},
    "half a block": {"data": (1, 24, 6, 6), "weight": (8, 24, 3, 3), "padding": (1, 1, 1, 1)},
    "few channels": {"data": (1, 5, 6, 6), "weight": (3, 5, 2, 2)},
    "first layer": {
        "data": (1, 3, 22, 22),
        "weight": (20, 3, 7, 7),
        "strides": (2, 2),
        "padding": (3, 3, 3, 3),
    },
    "stride": {"data": (2, 16, 11, 11), "weight": (24, 16, 3, 3), "strides": (2, 2)},
    "1x1": {"data": (1, 32, 7, 9), "weight": (17, 32, 1, 1)},
    "1x1 stride": {"data": (1, 16, 8, 8), "weight": (16, 16, 1, 1), "strides": (2, 2)},
    "dilation": {"data": (1, 8, 12, 12), "weight": (16, 8, 3, 3), "dilation": (2, 3)},
    "asymmetric": {"data": (1, 16, 8, 9), "weight": (16, 16, 3, 2), "padding": (0, 1, 2, 0)},
    "batch": {"data": (2, 16, 7, 7), "weight": (33, 16, 3, 3), "bias": True, "relu": True},
    "one pixel": {"data": (1, 16, 3, 3), "weight": (16, 16, 3, 3)},
    "one row": {"data": (1, 7, 1, 30), "weight": (9, 7, 1, 5), "bias": True},
    "groups": {
        "data": (1, 32, 8, 8),
        "weight": (48, 16, 3, 3),
        "groups": 2,
        "padding": (1, 1, 1, 1),
        "relu": True,
    },
    "small groups": {"data": (1, 12, 7, 7), "weight": (18, 4, 3, 3), "groups": 3},
    "strided epilogue": {
        "data": (1, 17, 9, 9),
        "weight": (16, 17, 3, 3),
        "strides": (2, 1),
        "padding": (1, 0, 1, 2),
        "bias": True,
        "relu": True,
    },
    "float64": {"data": (1, 8, 6, 6), "weight": (12, 8, 3, 3), "dtype": "float64", "relu": True},
    "residual": {
        "data": (1, 16, 6, 7),
        "weight": (24, 16, 3, 3),
        "padding": (1, 1, 1, 1),
        "bias": True,
        "epilogue": "add",
        "relu": True,
    },
    "odd epilogue": {
        "data": (1, 9, 7, 7),
        "weight": (13, 9, 1, 1),
        "bias": True,
        "epilogue": "silu,add,prelu,scale,clip(-1,1)",
    },
}
DEPTHWISE: Mapping[str, Attrs] = {
    "3x3": {"data": (1, 32, 9, 9), "weight": (32, 1, 3, 3), "padding": (1, 1, 1, 1)},
    "odd channels": {"data": (2, 13, 8, 7), "weight": (13, 1, 3, 3), "padding": (1, 1, 1, 1)},
    "stride": {
        "data": (1, 16, 11, 11),
        "weight": (16, 1, 5, 5),
        "strides": (2, 2),
        "padding": (2, 2, 1, 1),
        "bias": True,
        "relu": True,
    },
    "multiplier": {"data": (1, 6, 8, 8), "weight": (18, 1, 3, 3), "padding": (1, 1, 1, 1)},
    "dilation": {"data": (1, 20, 9, 10), "weight": (20, 1, 3, 3), "dilation": (2, 2)},
    "no padding": {"data": (1, 5, 4, 4), "weight": (5, 1, 2, 3), "bias": True},
    "epilogue": {
        "data": (1, 16, 7, 7),
        "weight": (16, 1, 3, 3),
        "padding": (1, 1, 1, 1),
        "bias": True,
        "epilogue": "hard_swish,add,clip(0,6)",
    },
}
SEPARABLE: Mapping[str, Attrs] = {
    "3x3": {
        "data": (1, 32, 9, 9),
        "depthwise": (32, 1, 3, 3),
        "weight": (24, 32, 1, 1),
        "padding": (1, 1, 1, 1),
        "depthwise_bias": True,
        "depthwise_epilogue": "clip(0,6)",
        "bias": True,
        "epilogue": "add",
    },
    "one column": {
        "data": (1, 16, 5, 1),
        "depthwise": (16, 1, 3, 1),
        "weight": (16, 16, 1, 1),
        "padding": (1, 0, 1, 0),
    },
    "one channel": {"data": (1, 1, 6, 5), "depthwise": (1, 1, 3, 3), "weight": (4, 1, 1, 1)},
    "bare": {"data": (2, 16, 6, 7), "depthwise": (16, 1, 3, 2), "weight": (33, 16, 1, 1)},
    "odd channels": {
        "data": (1, 13, 8, 7),
        "depthwise": (13, 1, 3, 3),
        "weight": (9, 13, 1, 1),
        "padding": (1, 1, 1, 1),
        "depthwise_epilogue": "hard_swish",
        "relu": True,
    },
    "stride": {
        "data": (1, 16, 11, 11),
        "depthwise": (16, 1, 5, 5),
        "weight": (40, 16, 1, 1),
        "strides": (2, 2),
        "padding": (2, 2, 1, 1),
        "bias": True,
    },
    "dilation": {
        "data": (1, 20, 9, 10),
        "depthwise": (20, 1, 3, 3),
        "weight": (16, 20, 1, 1),
        "dilation": (2, 2),
        "depthwise_bias": True,
        "relu": True,
    },
}
DENSE: Mapping[str, Attrs] = {
    "one row": {"data": (1, 64), "weight": (50, 64)},
    "tails": {"data": (7, 37), "weight": (21, 37), "bias": True, "relu": True},
    "one column": {"data": (9, 16), "weight": (1, 16), "bias": True},
    "float64": {"data": (5, 24), "weight": (20, 24), "dtype": "float64"},
    "epilogue": {"data": (5, 24), "weight": (20, 24), "bias": True, "epilogue": "gelu,add,prelu"},
}
MATMUL: Mapping[str, Attrs] = {
    "tails": {"a": (13, 29), "b": (29, 35)},
    "even": {"a": (32, 64), "b": (64, 48)},
    "packed": {"a": (20, 128), "b": (128, 40), "constant_b": True},
    "transposed a": {"a": (24, 17), "b": (24, 33), "transpose_a": True},
    "transposed b": {"a": (17, 24), "b": (33, 24), "transpose_b": True},
    "both": {"a": (24, 17), "b": (33, 24), "transpose_a": True, "transpose_b": True},
    "one row": {"a": (1, 40), "b": (40, 70)},
    "one column": {"a": (40, 30), "b": (30, 1)},
    "one step": {"a": (9, 1), "b": (1, 18)},
    "epilogue": {"a": (13, 20), "b": (20, 27), "bias": True, "relu": True, "epilogue": "add"},
}
BATCH_MATMUL: Mapping[str, Attrs] = {
    "tails": {"a": (3, 10, 22), "b": (3, 22, 19)},
    "transposed": {"a": (2, 16, 12), "b": (2, 24, 16), "transpose_a": True, "transpose_b": True},
    "one batch": {"a": (1, 8, 16), "b": (1, 16, 32)},
    "one weight": {"a": (3, 9, 16), "b": (1, 16, 19), "bias": True, "constant_b": True},
    "epilogue": {"a": (1, 9, 16), "b": (2, 16, 20), "epilogue": "mulc(0.125),add,tanh"},
}
OPERATORS: Mapping[str, Mapping[str, Attrs]] = {
    "conv2d": CONV2D,
    "depthwise_conv2d": DEPTHWISE,
    "separable_conv2d": SEPARABLE,
    "dense": DENSE,
    "matmul": MATMUL,
    "batch_matmul": BATCH_MATMUL,
}
CASES = [(name, shape) for name, shapes in OPERATORS.items() for shape in shapes]
