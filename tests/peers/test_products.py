from __future__ import annotations

import functools

import numpy as np
import pytest

from loopwright.api.program import Program, build, example_inputs
from loopwright.deploy.model import load_model
from loopwright.peers.compare import KERNEL, PLAIN, TimingPlan, compare, peers_on
from loopwright.peers.wire import OpSpec
from loopwright.templates.task import Task


@pytest.fixture(scope="module")
def task() -> Task:
    """The smaller batch of products in the attention of bert_base; its scale is fused into it."""
    pytest.importorskip("onnx")
    found = load_model("bert_base").parts
    return next(p.task for p in found if p.task.operator == "batch_matmul")


@pytest.fixture(scope="module")
def program(task: Task) -> Program:
    row = task.space.sample(np.random.default_rng(0), 1)[0]
    return build(task, config=task.space.decode(row))


def test_a_product_of_bert_is_computed(program: Program) -> None:
    a, b = example_inputs(program.task)
    scale = 1 / np.sqrt(a.shape[-1], dtype=np.float32)
    np.testing.assert_allclose(program(a, b), a @ b * scale, rtol=1e-4, atol=1e-4)


def test_a_product_of_bert_is_timed_beside_onnxruntime(task: Task, program: Program) -> None:
    pytest.importorskip("onnxruntime")
    arrays = example_inputs(task)
    ours = {KERNEL: program.timed_call(*arrays), PLAIN: functools.partial(program, *arrays)}
    spec = OpSpec(task.operator, dict(task.attrs))
    with peers_on(["onnxruntime"], 1) as peers:
        found = compare(ours, peers, spec, task.flops, TimingPlan(1, 1e-4, peer_kernels=False))
    assert set(found.ours) == {KERNEL, PLAIN}
    assert set(found.peers) == {"onnxruntime"}
    assert found.ratio is not None
    assert found.ratio > 0
