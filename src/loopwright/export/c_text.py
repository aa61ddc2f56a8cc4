"""C text for a model as a library: its header, what is behind it, an example, its constants.

The library is the model's object code, the thread pool of `runtime/cpu/native_ir.py`, the
constants, and the text of `source`, which does in C what `runtime/cpu/model.py` and
`runtime/cpu/pool.py` do here.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from loopwright.errors import InternalError
from loopwright.ir import dtype as dt
from loopwright.runtime.cpu import native_ir as layout
from loopwright.runtime.cpu.pool import SPIN, STACK_BYTES
from loopwright.runtime.model_file import Manifest, Port
from loopwright.target.cpu import CpuTarget

C_TYPES = {
    "float32": "float",
    "float64": "double",
    "float16": "uint16_t",
    "bfloat16": "uint16_t",
    "int8": "int8_t",
    "int16": "int16_t",
    "int32": "int32_t",
    "int64": "int64_t",
    "uint8": "uint8_t",
    "uint16": "uint16_t",
    "uint32": "uint32_t",
    "uint64": "uint64_t",
    "bool": "uint8_t",
}
"""What an element is in C; of 16-bit floats their bits, of a bool 0 or 1."""
_EAX, _EBX, _ECX, _EDX = range(4)
_LEAF1, _LEAF7, _EXTENDED = "1", "7", "0x80000001"
_CPUID = {
    "sse": (_LEAF1, _EDX, 25),
    "sse2": (_LEAF1, _EDX, 26),
    "sse3": (_LEAF1, _ECX, 0),
    "ssse3": (_LEAF1, _ECX, 9),
    "fma": (_LEAF1, _ECX, 12),
    "cx16": (_LEAF1, _ECX, 13),
    "sse4.1": (_LEAF1, _ECX, 19),
    "sse4.2": (_LEAF1, _ECX, 20),
    "movbe": (_LEAF1, _ECX, 22),
    "popcnt": (_LEAF1, _ECX, 23),
    "osxsave": (_LEAF1, _ECX, 27),
    "avx": (_LEAF1, _ECX, 28),
    "f16c": (_LEAF1, _ECX, 29),
    "bmi": (_LEAF7, _EBX, 3),
    "avx2": (_LEAF7, _EBX, 5),
    "bmi2": (_LEAF7, _EBX, 8),
    "avx512f": (_LEAF7, _EBX, 16),
    "avx512dq": (_LEAF7, _EBX, 17),
    "avx512cd": (_LEAF7, _EBX, 28),
    "avx512bw": (_LEAF7, _EBX, 30),
    "avx512vl": (_LEAF7, _EBX, 31),
    "lzcnt": (_EXTENDED, _ECX, 5),
}
"""Where CPUID tells of a feature: leaf, register, bit.

Source: Intel 64 and IA-32 Architectures Software Developer's Manual, volume 2A, CPUID; AMD64
Architecture Programmer's Manual, volume 3, appendix E.
"""
_SAVED_AVX, _SAVED_AVX512 = 0x06, 0xE6  # what XCR0 says that the system saves


def identifier(name: str) -> str:
    """`name` as the stem of C names."""
    found = re.sub(r"\W", "_", name, flags=re.ASCII)
    return found if re.match(r"[A-Za-z]", found) else f"model_{found.lstrip('_')}"


def header(name: str, manifest: Manifest) -> str:
    """The header: the functions, and macros for names, shapes and sizes of what they take."""
    return _fill(
        _HEADER,
        name=name,
        NAME=name.upper(),
        model=_comment(manifest.name),
        target=manifest.target_name,
        threads=str(manifest.threads),
        inputs=str(len(manifest.inputs)),
        outputs=str(len(manifest.outputs)),
        ports="\n".join(_macros(name, manifest)),
        parameters=_parameters(name, manifest),
    )


def source(name: str, manifest: Manifest, target: CpuTarget) -> str:
    """The implementation behind the header."""
    ports = (*manifest.inputs, *manifest.outputs)
    names = _arguments(manifest)
    stage, offsets = 0, []
    for port in ports:
        offsets.append(stage)
        stage += -(-_nbytes(port) // 64) * 64
    count = len(manifest.inputs)
    staged = [
        f"    io[{n}] = aligned(memory + {at}, {name}, {_nbytes(port)}, {int(n < count)});"
        for n, (port, name, at) in enumerate(zip(ports, names, offsets, strict=True))
    ]
    back = [
        f"    if (io[{n}] != (void *){names[n]}) memcpy({names[n]}, io[{n}], {_nbytes(ports[n])});"
        for n in range(count, len(ports))
    ]
    return _fill(
        _SOURCE,
        name=name,
        NAME=name.upper(),
        threads=str(manifest.threads),
        memory=str(-(-manifest.memory // 64) * 64),
        shared=str(manifest.workspace_shared),
        each=str(manifest.workspace_per_thread),
        stage=str(stage),
        spin=str(SPIN),
        stack=str(STACK_BYTES),
        pool_threads=str(layout.THREADS),
        pool_spin=str(layout.SPIN),
        pool_most_serial=str(layout.MOST_SERIAL),
        most_serial=str(layout.LAST_SERIAL),
        pool_slots=str(layout.SLOTS),
        slot_bytes=str(layout.SLOT_BYTES),
        cpu=_cpu_check(target),
        parameters=_parameters(name, manifest),
        given=" || ".join(f"!{argument}" for argument in names) or "0",
        ports=str(max(len(ports), 1)),
        staged="\n".join(staged),
        back="\n".join(back),
    )


def example(name: str, manifest: Manifest) -> str:
    """A program that runs the model once on made-up inputs and prints what comes out."""
    lines = []
    for n, port in enumerate(manifest.inputs):
        size = f"{name.upper()}_INPUT_{n}_SIZE"
        lines += [
            f"    {_ctype(port)} *in{n} = malloc({size} * sizeof *in{n});",
            f"    for (long i = 0; i < {size}; i++) in{n}[i] = ({_ctype(port)}){_value(port)};",
        ]
    shown = []
    for n, port in enumerate(manifest.outputs):
        size = f"{name.upper()}_OUTPUT_{n}_SIZE"
        lines.append(f"    {_ctype(port)} *out{n} = malloc({size} * sizeof *out{n});")
        shown.append(
            f"    for (long i = 0; i < {size} && i < 10; i++) "
            f'printf("out{n}[%ld] = %.9g\\n", i, (double)out{n}[i]);'
        )
    return _fill(
        _EXAMPLE,
        name=name,
        arrays="\n".join(lines),
        shown="\n".join(shown),
        arguments="".join(f", {argument}" for argument in _arguments(manifest)),
    )


def constants(file: str) -> str:
    """Assembly that puts a file into the library as read-only data."""
    return _fill(_CONSTANTS, file=file)


def exports(name: str) -> str:
    """The linker's version script: only the functions of the header can be seen from outside."""
    return f"{{ global: {name}_create; {name}_run; {name}_destroy; {name}_error; local: *; }};\n"


def _cpu_check(target: CpuTarget) -> str:
    """The function that says whether the machine has what the code needs."""
    if target.arch != "x86_64":
        return "static int runs_here(void) { return 1; }"
    features = set(target.features)
    wide = any(feature.startswith("avx512") for feature in features)
    saved = _SAVED_AVX512 if wide else _SAVED_AVX if "avx" in features else 0
    masks: dict[tuple[str, int], int] = {}
    for feature in sorted(features | ({"osxsave"} if saved else set())):
        if feature not in _CPUID:
            raise InternalError(f"CPUID of feature {feature!r} is not known; add it to c_text.py")
        leaf, register, bit = _CPUID[feature]
        masks[leaf, register] = masks.get((leaf, register), 0) | 1 << bit
    rows = "\n".join(
        f"        {{{leaf}, {reg}, {mask:#x}}}," for (leaf, reg), mask in masks.items()
    )
    return _fill(_CPU_CHECK, rows=rows, saved=f"{saved:#x}")


def _macros(name: str, manifest: Manifest) -> list[str]:
    lines = []
    for kind, ports in (("INPUT", manifest.inputs), ("OUTPUT", manifest.outputs)):
        for n, port in enumerate(ports):
            stem = f"#define {name.upper()}_{kind}_{n}"
            shape = ", ".join(map(str, port.shape)) or "1"
            lines += [
                f"{stem}_NAME {_quoted(port.name)}",
                f'{stem}_DTYPE "{port.dtype}"',
                f"{stem}_RANK {len(port.shape)}",
                f"{stem}_SHAPE {{{shape}}}",
                f"{stem}_SIZE {_size(port)}",
            ]
    return lines


def _parameters(name: str, manifest: Manifest) -> str:
    given = [f"const {_ctype(p)} *in{n}" for n, p in enumerate(manifest.inputs)]
    made = [f"{_ctype(p)} *out{n}" for n, p in enumerate(manifest.outputs)]
    return ", ".join((f"{name}_model *model", *given, *made))


def _arguments(manifest: Manifest) -> list[str]:
    return [
        *(f"in{n}" for n in range(len(manifest.inputs))),
        *(f"out{n}" for n in range(len(manifest.outputs))),
    ]


def _value(port: Port) -> str:
    """C for an element of an input of the example program."""
    return "(i % 7)" if _is_whole(port.dtype) else "(i % 7 * 0.25 - 0.75)"


def _is_whole(dtype: str) -> bool:
    return dtype not in ("float32", "float64")


def _ctype(port: Port) -> str:
    return C_TYPES[port.dtype]


def _size(port: Port) -> int:
    total = 1
    for extent in port.shape:
        total *= extent
    return total


def _nbytes(port: Port) -> int:
    return _size(port) * dt.parse(port.dtype).nbytes


def _quoted(text: str) -> str:
    """`text` as a C string; what is not plain ASCII as octal escapes of its UTF-8."""
    plain = {chr(code) for code in range(32, 127)} - {'"', "\\", "?"}
    letters: Sequence[str] = [
        letter if letter in plain else "".join(f"\\{byte:03o}" for byte in letter.encode())
        for letter in text
    ]
    return f'"{"".join(letters)}"'


def _comment(text: str) -> str:
    """`text` in a C comment."""
    return " ".join(text.replace("*/", "* /").split())


def _fill(template: str, **words: str) -> str:
    """`template` with every @word@ replaced."""
    return re.sub(r"@(\w+)@", lambda found: words[found[1]], template.lstrip("\n"))


_HEADER = """
/* The model @model@ for @target@ on Linux, made by Loopwright.

   A model is made once and run as often as you like. One call at a time may run a model; threads
   that call at once need one model each. Arrays are row-major and of the sizes below; those that
   are 64-byte aligned are used where they are, others are copied. Inputs and outputs may not
   overlap. float16 and bfloat16 are passed as their bits, bool as 0 or 1. */
#ifndef @NAME@_H
#define @NAME@_H
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define @NAME@_THREADS @threads@ /* that it is made for */
#define @NAME@_INPUTS @inputs@
#define @NAME@_OUTPUTS @outputs@
@ports@

enum {
    @NAME@_OK = 0,
    @NAME@_ERROR_CPU = 1,      /* this machine lacks instructions the model is made of */
    @NAME@_ERROR_MEMORY = 2,   /* there is not enough memory */
    @NAME@_ERROR_THREADS = 3,  /* the system refuses a thread */
    @NAME@_ERROR_ARGUMENT = 4, /* a null pointer, or a number of threads that cannot be */
    @NAME@_ERROR_BUSY = 5      /* another thread runs this model */
};

typedef struct @name@_model @name@_model;

/* Make a model that runs on `threads` threads, the caller's included; 0: as many as it is made
   for. Returns an error code; `*model` is NULL unless that is @NAME@_OK. */
int @name@_create(int threads, @name@_model **model);

/* Run it. Returns an error code. */
int @name@_run(@parameters@);

/* End its threads and free its memory; it may be NULL. */
void @name@_destroy(@name@_model *model);

/* What an error code means. */
const char *@name@_error(int code);

#ifdef __cplusplus
}
#endif
#endif
"""

_CPU_CHECK = """
#include <cpuid.h>
static int runs_here(void)
{
    static const struct { unsigned leaf, reg, mask; } wanted[] = {
@rows@
    };
    for (unsigned n = 0; n < sizeof wanted / sizeof *wanted; n++) {
        unsigned r[4];
        if (!__get_cpuid_count(wanted[n].leaf, 0, r, r + 1, r + 2, r + 3)) return 0;
        if ((r[wanted[n].reg] & wanted[n].mask) != wanted[n].mask) return 0;
    }
    if (@saved@) {
        unsigned low, high;
        __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
        return (low & @saved@) == @saved@;
    }
    return 1;
}
"""

_SOURCE = """
#define _GNU_SOURCE
#include "@name@.h"
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>
#include <unistd.h>

typedef void body_t(void *closure, int64_t begin, int64_t end, int64_t thread);
typedef void parallel_t(void *pool, body_t *body, void *closure, int64_t extent);
extern parallel_t lw_parallel;
extern void *lw_worker(void *slot);
extern void lw_stop(void *pool);
extern void lw_model(void *const *io, const char *constants, char *memory, char *workspace,
                     parallel_t *parallel, void *pool);
extern const char lw_constants[];

static const size_t MEMORY = @memory@, STAGE = @stage@;

struct @name@_model {
    char *memory, *workspace, *stage, *pool;
    pthread_t *workers;
    int started, busy;
    pid_t owner;
};

@cpu@

static size_t rounded(size_t bytes) { return (bytes + 63) / 64 * 64; }

static void end_workers(@name@_model *model)
{
    if (!model->started || getpid() != model->owner) return;
    lw_stop(model->pool);
    for (int n = 0; n < model->started; n++) pthread_join(model->workers[n], NULL);
}

static int start_workers(@name@_model *model, int threads)
{
    pthread_attr_t attributes;
    *(int64_t *)(model->pool + @pool_threads@) = threads;
    *(int64_t *)(model->pool + @pool_spin@) = @spin@;
    *(int64_t *)(model->pool + @pool_most_serial@) = @most_serial@;
    if (pthread_attr_init(&attributes)) return @NAME@_ERROR_MEMORY;
    pthread_attr_setstacksize(&attributes, @stack@);
    for (int n = 1; n < threads; n++) {
        char *slot = model->pool + @pool_slots@ + (size_t)n * @slot_bytes@;
        *(void **)slot = model->pool;
        *(int32_t *)(slot + 8) = n;
        if (pthread_create(model->workers + model->started, &attributes, lw_worker, slot)) break;
        model->started++;
    }
    pthread_attr_destroy(&attributes);
    return model->started == threads - 1 ? @NAME@_OK : @NAME@_ERROR_THREADS;
}

static int fill(@name@_model *model, int threads)
{
    size_t workspace = rounded(@shared@ + (size_t)threads * @each@ + 64);
    size_t pool = threads > 1 ? rounded(@pool_slots@ + (size_t)threads * @slot_bytes@) : 0;
    void *memory;
    if (posix_memalign(&memory, 64, MEMORY + workspace + STAGE + pool + 64)) {
        return @NAME@_ERROR_MEMORY;
    }
    model->memory = memory;
    model->workspace = model->memory + MEMORY;
    model->stage = model->workspace + workspace;
    model->owner = getpid();
    if (threads == 1) return @NAME@_OK;
    model->pool = model->stage + STAGE;
    memset(model->pool, 0, pool);
    model->workers = calloc((size_t)threads, sizeof *model->workers);
    return model->workers ? start_workers(model, threads) : @NAME@_ERROR_MEMORY;
}

int @name@_create(int threads, @name@_model **model)
{
    if (!model) return @NAME@_ERROR_ARGUMENT;
    *model = NULL;
    if (threads < 0 || threads > 1024) return @NAME@_ERROR_ARGUMENT;
    if (!runs_here()) return @NAME@_ERROR_CPU;
    @name@_model *made = calloc(1, sizeof *made);
    if (!made) return @NAME@_ERROR_MEMORY;
    int code = fill(made, threads ? threads : @threads@);
    if (code) @name@_destroy(made);
    else *model = made;
    return code;
}

void @name@_destroy(@name@_model *model)
{
    if (!model) return;
    end_workers(model);
    free(model->workers);
    free(model->memory);
    free(model);
}

static void *aligned(char *copy, const void *array, size_t bytes, int is_input)
{
    if ((uintptr_t)array % 64 == 0) return (void *)array;
    if (is_input) memcpy(copy, array, bytes);
    return copy;
}

int @name@_run(@parameters@)
{
    if (!model || @given@) return @NAME@_ERROR_ARGUMENT;
    if (__atomic_exchange_n(&model->busy, 1, __ATOMIC_ACQUIRE)) return @NAME@_ERROR_BUSY;
    char *memory = model->stage;
    void *io[@ports@];
    (void)memory;
@staged@
    /* A forked child has no workers: there it runs on the calling thread. */
    lw_model(io, lw_constants, model->memory, model->workspace, lw_parallel,
             getpid() == model->owner ? model->pool : NULL);
@back@
    __atomic_store_n(&model->busy, 0, __ATOMIC_RELEASE);
    return @NAME@_OK;
}

const char *@name@_error(int code)
{
    switch (code) {
    case @NAME@_OK: return "no error";
    case @NAME@_ERROR_CPU: return "this CPU lacks instructions the model is made of";
    case @NAME@_ERROR_MEMORY: return "there is not enough memory";
    case @NAME@_ERROR_THREADS: return "the system refuses a thread; use fewer";
    case @NAME@_ERROR_ARGUMENT: return "a null pointer, or a number of threads that cannot be";
    case @NAME@_ERROR_BUSY: return "another thread runs this model; make one for each thread";
    default: return "not an error code of this library";
    }
}
"""

_EXAMPLE = """
/* Build: cc example.c -I. -L. -l@name@ -Wl,-rpath,'$ORIGIN' -o example */
#include "@name@.h"
#include <stdio.h>
#include <stdlib.h>

int main(void)
{
@arrays@
    @name@_model *model;
    int code = @name@_create(0, &model);
    if (!code) code = @name@_run(model@arguments@);
    @name@_destroy(model);
    if (code) {
        fprintf(stderr, "@name@: %s\\n", @name@_error(code));
        return code;
    }
@shown@
    return 0;
}
"""

_CONSTANTS = """
    .section .rodata
    .balign 4096
    .globl lw_constants
lw_constants:
    .incbin "@file@"
    .zero 64
    .section .note.GNU-stack,"",%progbits
"""
