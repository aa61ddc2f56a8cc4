"""Code for AArch64 run in an emulator: templates, the thread pool, linking, whole models.

The other tests of this folder run arithmetic and loops there too, where they name that target.
"""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import aarch64
import numpy as np
import pytest
from c_example import example_input
from graphs import Sketch, example
from running import differences, random_inputs

from loopwright.build.compile import compile_config, compile_schedule
from loopwright.codegen.artifact import Artifact
from loopwright.deploy.assemble import Assembled
from loopwright.deploy.choose import Chooser, ModelOptions
from loopwright.deploy.make import compile_graph
from loopwright.export import library as export
from loopwright.graph.evaluate import evaluate as evaluate_graph
from loopwright.graph.ir import Graph
from loopwright.ir.dtype import F32, I32
from loopwright.ir.expr import Buffer, Cast, Load, Var
from loopwright.ir.kernel import Kernel
from loopwright.ir.stmt import For, LoopKind, Store
from loopwright.layout import Array
from loopwright.ops.registry import build
from loopwright.runtime.cpu import native
from loopwright.runtime.cpu.model import CONSTANTS
from loopwright.runtime.cpu.native import SYMBOLS, runtime_object
from loopwright.runtime.object import elf
from loopwright.te.reference import evaluate
from loopwright.templates.apply import scheduled
from loopwright.templates.registry import template_for
from loopwright.templates.task import Task, make
from operators import OPERATORS

pytestmark = aarch64.needs_emulator

Compile = Callable[..., Artifact]
Linked = tuple[aarch64.Emulated, aarch64.Code]
Run = Callable[..., tuple[Array, ...]]
SHAPES = [
    ("conv2d", "odd channels"),
    ("conv2d", "first layer"),
    ("conv2d", "strided epilogue"),
    ("conv2d", "float64"),
    ("conv2d", "small groups"),
    ("conv2d", "odd epilogue"),
    ("depthwise_conv2d", "odd channels"),
    ("separable_conv2d", "stride"),
    ("dense", "epilogue"),
    ("matmul", "tails"),
    ("matmul", "packed"),
    ("batch_matmul", "epilogue"),
]
SERIAL, PARALLEL = LoopKind.SERIAL, LoopKind.PARALLEL

# Reaches data of every size, functions and words by every relocation that our objects have.
REACHING = """
@bytes = dso_local global [4 x i8] c"\01\02\03\07"
@short = dso_local global i16 300
@int = dso_local global i32 70000
@long = dso_local global i64 5000000000
@vector = dso_local global <4 x i32> <i32 1, i32 2, i32 3, i32 4>
@shared = global i64 11
@zeros = dso_local global [9 x i64] zeroinitializer
@table = dso_local global [2 x ptr] [ptr @double, ptr @cos]
@near = internal constant i32 trunc (i64 sub (i64 ptrtoint (ptr @long to i64),
  i64 ptrtoint (ptr @near to i64)) to i32)
@wide = internal constant i64 sub (i64 ptrtoint (ptr @long to i64), i64 ptrtoint (ptr @wide to i64))
declare double @cos(double)
declare i64 @elsewhere(i64)
define i64 @double(i64 %i) {
  %v = add i64 %i, %i
  ret i64 %v
}
define i64 @sum() {
  %third = getelementptr i8, ptr @bytes, i64 3
  %byte = load i8, ptr %third
  %a = zext i8 %byte to i64
  %short = load i16, ptr @short
  %b = zext i16 %short to i64
  %int = load i32, ptr @int
  %c = zext i32 %int to i64
  %d = load i64, ptr @long
  %vector = load <4 x i32>, ptr @vector
  %v = call i32 @llvm.vector.reduce.add.v4i32(<4 x i32> %vector)
  %e = zext i32 %v to i64
  %f = load i64, ptr @shared
  %last = getelementptr i64, ptr @zeros, i64 8
  %g = load i64, ptr %last
  %ab = add i64 %a, %b
  %cd = add i64 %c, %d
  %ef = add i64 %e, %f
  %abcd = add i64 %ab, %cd
  %efg = add i64 %ef, %g
  %all = add i64 %abcd, %efg
  store i64 %all, ptr %last
  ret i64 %all
}
define i64 @through_table(i64 %i) {
  %p = load ptr, ptr @table
  %v = call i64 %p(i64 %i)
  ret i64 %v
}
define i64 @same_cosine() {
  %p = getelementptr ptr, ptr @table, i64 1
  %a = load volatile ptr, ptr %p
  %same = icmp eq ptr %a, @cos
  %v = zext i1 %same to i64
  ret i64 %v
}
define i64 @cosine(i64 %bits) {
  %x = bitcast i64 %bits to double
  %y = call double @cos(double %x)
  %v = bitcast double %y to i64
  ret i64 %v
}
define i64 @apart() {
  %near = load volatile i32, ptr @near
  %a = sext i32 %near to i64
  %wide = load volatile i64, ptr @wide
  %p = getelementptr i8, ptr @near, i64 %a
  %q = getelementptr i8, ptr @wide, i64 %wide
  %x = load i64, ptr %p
  %y = load i64, ptr %q
  %v = add i64 %x, %y
  ret i64 %v
}
define i64 @tail(i64 %i) {
  %n = add i64 %i, 1
  %v = tail call i64 @elsewhere(i64 %n)
  ret i64 %v
}
declare i32 @llvm.vector.reduce.add.v4i32(<4 x i32>)
"""
ELSEWHERE = """
declare i64 @double(i64)
define i64 @elsewhere(i64 %i) {
  %v = call i64 @double(i64 %i)
  %n = add i64 %v, 1
  ret i64 %n
}
"""
KINDS = {257, 260, 261, 275, 277, 278, 282, 283, 284, 285, 286, 299, 311, 312}
# Raises a signal that the runtime's handler reports; a kernel for lw_repeat that counts.
CALLING = """
declare void @lw_watch(ptr, i64)
declare void @lw_on_fault(i32, ptr, ptr)
declare i32 @sigaction(i32, ptr, ptr)
declare i32 @raise(i32)
@report = internal global [4 x i64] zeroinitializer
@count = internal global i64 0
define i64 @reported(i64 %signal, i64 %probe, i64 %place) {
  %action = alloca [152 x i8], align 16
  call void @llvm.memset.p0.i64(ptr %action, i8 0, i64 152, i1 false)
  store ptr @lw_on_fault, ptr %action
  %flags = getelementptr i8, ptr %action, i64 136
  store i32 4, ptr %flags ; SA_SIGINFO
  %number = trunc i64 %signal to i32
  %a = call i32 @sigaction(i32 %number, ptr %action, ptr null)
  call void @lw_watch(ptr @report, i64 %probe)
  %b = call i32 @raise(i32 %number)
  %p = getelementptr i64, ptr @report, i64 %place
  %v = load i64, ptr %p
  ret i64 %v
}
define void @kernel(ptr %args, ptr %ws, ptr %parallel, ptr %pool) {
  %given = ptrtoint ptr %args to i64
  %v = load i64, ptr @count
  %n = add i64 %v, %given
  store i64 %n, ptr @count
  ret void
}
define i64 @counted() {
  %v = load i64, ptr @count
  ret i64 %v
}
declare void @llvm.memset.p0.i64(ptr, i8, i64, i1)
"""
# A model's entry as that of a kernel: its constants, inputs, outputs, times, and its memory.
WHOLE = """
declare void @lw_model_timed(ptr, ptr, ptr, ptr, ptr, ptr, ptr)
define void @whole(ptr %args, ptr %ws, ptr %parallel, ptr %pool) {{
  %constants = load ptr, ptr %args
  %memory.p = getelementptr ptr, ptr %args, i64 1
  %memory = load ptr, ptr %memory.p
  %io = getelementptr ptr, ptr %args, i64 2
  %ns.p = getelementptr ptr, ptr %io, i64 {ports}
  %ns = load ptr, ptr %ns.p
  call void @lw_model_timed(ptr %io, ptr %constants, ptr %memory, ptr %ws, ptr %parallel,
    ptr %pool, ptr %ns)
  ret void
}}
"""
REACHED = ("sum", "through_table", "same_cosine", "cosine", "apart", "tail")


def task_for(operator: str, shape: str) -> Task:
    workload = build(operator, **OPERATORS[operator][shape])
    return make(
        workload,
        template_for(operator, workload, aarch64.TARGET),
        aarch64.TARGET,
        operator=operator,
    )


def memory_of(artifact: Artifact, inputs: Sequence[Array]) -> list[Array]:
    """All arguments of a kernel as they are in memory, its outputs empty."""
    packed = [p.pack(a) for p, a in zip(artifact.params, inputs, strict=False)]
    outputs = artifact.params[len(inputs) :]
    return packed + [np.zeros(p.physical_shape, p.dtype.numpy) for p in outputs]


def plain_of(artifact: Artifact, outputs: Sequence[Array]) -> list[Array]:
    params = artifact.params[len(artifact.params) - len(outputs) :]
    return [p.layout.unpack(a, p.shape) for p, a in zip(params, outputs, strict=True)]


@pytest.mark.parametrize(("operator", "shape"), SHAPES)
def test_templates_compute_the_operator(
    operator: str, shape: str, compiler: ProcessPoolExecutor, run_emulated: Run
) -> None:
    task = task_for(operator, shape)
    inputs = random_inputs(task.workload)
    expected = evaluate(task.workload, inputs)
    for number, point in enumerate(task.space.sample(np.random.default_rng(3), 2)):
        config = task.space.decode(point)
        artifact = compiler.submit(compile_config, task, config).result()
        found = run_emulated(artifact, memory_of(artifact, inputs), threads=number + 1)
        wrong = differences(task.workload, plain_of(artifact, found), expected)
        assert not wrong, f"{wrong}\n{task.name}\n{config}"


@pytest.fixture(scope="module")
def runtime(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return runtime_object(tmp_path_factory.mktemp("cache"), "aarch64")


def regions(times: int, extent: int) -> Kernel:
    """`times` parallel loops in a row; each adds to element i what tells if it ran once for it."""
    out = Buffer("out", I32, (extent,))
    r, i = Var("r"), Var("i")
    body = Store(out, (i,), Load(out, (i,)) + Cast(I32, r * (i + 1)))
    return Kernel("regions", (out,), 1, For(r, times, SERIAL, For(i, extent, PARALLEL, body)))


@pytest.mark.parametrize("spin", [0, 2000], ids=["sleeping", "spinning"])
@pytest.mark.parametrize("threads", [2, 3])
def test_the_thread_pool_runs_each_part_once(
    threads: int, spin: int, compile_kernel: Compile, run_emulated: Run
) -> None:
    artifact = compile_kernel(regions(200, 10), aarch64.TARGET)
    (found,) = run_emulated(artifact, [np.zeros(10, np.int32)], threads=threads, spin=spin)
    np.testing.assert_array_equal(found, sum(range(200)) * np.arange(1, 11))


@pytest.fixture(scope="module")
def static(
    compiler: ProcessPoolExecutor,
    compile_kernel: Compile,
    runtime: bytes,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[tuple[aarch64.Emulated, dict[str, Artifact]]]:
    """A static program that GNU's linker made of kernels and the runtime, and the kernels."""
    found = {"regions": compile_kernel(regions(50, 7), aarch64.TARGET)}
    for operator, shape in (("matmul", "tails"), ("conv2d", "odd channels")):
        task = task_for(operator, shape)
        assert task.template.default is not None
        schedule = scheduled(task, task.template.default(task.workload, task.target))
        artifact = compiler.submit(compile_schedule, schedule, task.target, operator).result()
        found[operator] = artifact
    program = aarch64.Emulated(
        tmp_path_factory.mktemp("static"),
        [runtime, *(a.code for a in found.values())],
        (*SYMBOLS, *(a.entry for a in found.values())),
    )
    yield program, found
    program.close()


@pytest.mark.parametrize(("operator", "shape"), [("matmul", "tails"), ("conv2d", "odd channels")])
def test_kernels_run_in_a_static_program(
    operator: str, shape: str, static: tuple[aarch64.Emulated, dict[str, Artifact]]
) -> None:
    program, kernels = static
    task, artifact = task_for(operator, shape), kernels[operator]
    inputs = random_inputs(task.workload)
    found = program.run(program.linked, artifact, memory_of(artifact, inputs), threads=2)
    expected = evaluate(task.workload, inputs)
    assert differences(task.workload, plain_of(artifact, found), expected) == []


def test_the_thread_pool_runs_in_a_static_program(
    static: tuple[aarch64.Emulated, dict[str, Artifact]],
) -> None:
    program, kernels = static
    zeros = np.zeros(7, np.int32)
    (found,) = program.run(program.linked, kernels["regions"], [zeros], threads=2, spin=10)
    np.testing.assert_array_equal(found, sum(range(50)) * np.arange(1, 8))


@pytest.fixture(scope="module", params=["our linker", "the linker of GNU"])
def reaching(
    request: pytest.FixtureRequest,
    emulated: aarch64.Emulated,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Linked]:
    """The functions of REACHING, by either linker."""
    objects = [native.compile_ir(text, arch="aarch64") for text in (REACHING, ELSEWHERE)]
    if request.param == "our linker":
        with emulated.link(objects, REACHED) as code:
            yield emulated, code
    else:
        program = aarch64.Emulated(tmp_path_factory.mktemp("gnu"), objects, REACHED)
        yield program, program.linked
        program.close()


def test_the_object_has_every_relocation_that_there_is() -> None:
    objects = [native.compile_ir(text, arch="aarch64") for text in (REACHING, ELSEWHERE)]
    assert {r.kind for code in objects for r in elf.parse(code).relocations} >= KINDS


def test_data_of_every_size_is_reached(reaching: Linked) -> None:
    machine, code = reaching
    total = 7 + 300 + 70000 + 5000000000 + 10 + 11
    assert machine.call(code.addresses["sum"]) == total
    assert machine.call(code.addresses["sum"]) == 2 * total


def test_functions_are_reached(reaching: Linked) -> None:
    machine, code = reaching
    assert machine.call(code.addresses["through_table"], 21) == 42
    assert machine.call(code.addresses["tail"], 4) == 11


def test_functions_of_the_c_library_are_reached(reaching: Linked) -> None:
    machine, code = reaching
    bits = int(np.float64(1.0).view(np.int64))
    assert machine.call(code.addresses["same_cosine"]) == 1
    found = np.int64(machine.call(code.addresses["cosine"], bits)).view(np.float64)
    np.testing.assert_allclose(found, np.cos(1.0), rtol=1e-15)


def test_distances_between_sections_are_right(reaching: Linked) -> None:
    machine, code = reaching
    assert machine.call(code.addresses["apart"]) == 2 * 5000000000


@pytest.fixture(scope="module")
def calling(emulated: aarch64.Emulated, runtime: bytes) -> Iterator[aarch64.Code]:
    own = native.compile_ir(CALLING, arch="aarch64")
    with emulated.link([own, runtime], ("reported", "kernel", "counted", *SYMBOLS)) as code:
        yield code


@pytest.mark.parametrize(("probe", "exhausted"), [(1 << 12, 0), (1 << 60, 1)])
def test_the_handler_reports_a_signal(
    emulated: aarch64.Emulated, calling: aarch64.Code, probe: int, exhausted: int
) -> None:
    reported = calling.addresses["reported"]
    found = [emulated.call(reported, signal.SIGSEGV, probe, place) for place in (0, 2, 3)]
    assert found == [signal.SIGSEGV, exhausted, -6]  # SI_TKILL: from a thread of its own


def test_a_kernel_is_repeated(emulated: aarch64.Emulated, calling: aarch64.Code) -> None:
    where = calling.addresses
    emulated.call(where["lw_repeat"], where["kernel"], 3, 0, 0, 0, 5)
    assert emulated.call(where["counted"]) == 15


def test_products_are_contracted(compile_kernel: Compile, run_emulated: Run) -> None:
    a, out = Buffer("a", F32, (6,)), Buffer("out", F32, (6,))
    i = Var("i")
    body = Store(out, (i,), Load(a, (i,)) * Load(a, (i,)) - 1.0)
    kernel = Kernel("square", (a, out), 1, For(i, 6, LoopKind.VECTORIZED, body))
    values = np.full(6, 1 + 2**-12, np.float32)
    artifact = compile_kernel(kernel, aarch64.TARGET)
    (found,) = run_emulated(artifact, [values, np.zeros_like(values)])
    np.testing.assert_array_equal(found, np.float32(values.astype(np.float64) ** 2 - 1))


def network() -> Graph:
    """Two inputs, two outputs, one of them of whole numbers."""
    sketch = Sketch()
    x, y = sketch.input(1, 8, 10, 10), sketch.input(1, 16, 10, 10)
    z = sketch.node("add", sketch.node("sigmoid", sketch.conv(x, 16)), y)
    flat = sketch.node("reduce_mean", z, axes=(2, 3), keepdims=0)
    scores = sketch.node("gemm", flat, sketch.weight(10, 16), trans_b=1)
    return sketch.graph(scores, sketch.node("argmax", z, axis=1, keepdims=0, select_last=0))


@pytest.fixture(scope="module")
def model() -> Assembled:
    """`network` compiled on this machine, which cannot run it."""
    options = ModelOptions(aarch64.TARGET, threads=2)
    return compile_graph(network(), Chooser(options, use_records=False)).assembled


def test_a_model_runs_and_its_kernels_are_timed(
    emulated: aarch64.Emulated, model: Assembled
) -> None:
    manifest = model.manifest
    inputs = example(network())
    expected = evaluate_graph(network(), inputs)
    times = np.zeros(len(manifest.calls) + 1, np.int64)
    outputs = [*(np.zeros_like(a) for a in expected), times]
    arrays = [
        np.frombuffer(bytes(model.sections[CONSTANTS]), np.uint8),
        np.zeros(manifest.memory, np.uint8),
    ]
    text = WHOLE.format(ports=len(inputs) + len(expected))
    objects = [bytes(code) for name, code in model.sections.items() if name != CONSTANTS]
    objects.append(native.compile_ir(text, arch="aarch64"))
    whole = Artifact(
        code=b"",
        entry="whole",
        params=(),
        n_outputs=len(outputs),
        target_key="",
        workspace_shared=manifest.workspace_shared,
        workspace_per_thread=manifest.workspace_per_thread,
    )
    with emulated.link(objects, ("whole", *SYMBOLS)) as code:
        *found, ns = emulated.run(code, whole, [*arrays, *inputs.values(), *outputs], threads=2)
    for have, want in zip(found, expected, strict=True):
        np.testing.assert_allclose(have, want, rtol=1e-5, atol=1e-6)
    assert (np.diff(ns) >= 0).all()
    assert ns[0] > 0


def test_a_model_exported_for_c_runs(
    model: Assembled, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export, "host", lambda: aarch64.TARGET)
    made = export.export_sections(
        model.manifest, model.sections, tmp_path, compiler=aarch64.COMPILER
    )
    strict = ("-std=c99", "-Wall", "-Wextra", "-Werror", "-pedantic")
    subprocess.run([*made.command, *strict], cwd=tmp_path, check=True, timeout=60)
    command = [aarch64.QEMU, "-L", "/usr/aarch64-linux-gnu", "./example"]
    done = subprocess.run(
        command, cwd=tmp_path, check=True, capture_output=True, text=True, timeout=60
    )
    inputs = {port.name: example_input(port.shape, port.dtype) for port in model.manifest.inputs}
    expected = [a.reshape(-1)[:10] for a in evaluate_graph(network(), inputs)]
    printed = [float(line.split("=")[1]) for line in done.stdout.splitlines()]
    np.testing.assert_allclose(printed, np.concatenate(expected), rtol=1e-5, atol=1e-6)
