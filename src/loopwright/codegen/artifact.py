"""The result of code generation: a kernel's code with everything needed to run it.

`Artifact.form` says what the code is. The entry point of an object has this ABI (C):

    void entry(void *const *args, char *workspace, parallel_for_t parallel, void *pool);
    typedef void (*parallel_for_t)(void *pool, void (*body)(void *closure, int64_t begin,
                                   int64_t end, int64_t thread), void *closure, int64_t extent);

`args` holds one pointer per parameter, inputs first, each aligned and laid out as the parameter's
`Param` says. `workspace` is 64-byte aligned, `workspace_shared + threads *
workspace_per_thread` bytes, contents undefined. `parallel` runs `body` over disjoint ranges that
cover [0, extent), each on some thread 0 <= thread < threads; a serial one calls `body(closure, 0,
extent, 0)`. The object needs only symbols of libc and libm.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from loopwright import weights
from loopwright.ir.dtype import DType
from loopwright.kernel_call import CPU, Form, Launch, Loadable, WireParam
from loopwright.layout import Array, Layout


@dataclass(frozen=True, slots=True)
class Param:
    """One argument: its plain (logical) shape and how it is laid out in memory.

    `transform` names what is done to the caller's plain array before it is laid out (see
    `loopwright.weights`; empty: nothing); `shape` is that of the caller's array, `stored_shape` the
    one that is laid out. `alignment` is bytes, a power of two of at most 64.
    """

    name: str
    dtype: DType
    shape: tuple[int, ...]
    layout: Layout
    alignment: int = 64
    transform: str = ""

    @property
    def stored_shape(self) -> tuple[int, ...]:
        """The logical shape after the transform."""
        return weights.stored_shape(self.transform, self.shape)

    @property
    def physical_shape(self) -> tuple[int, ...]:
        """The shape of the memory, blocked dimensions included."""
        return self.layout.physical_shape(self.stored_shape)

    @property
    def wire(self) -> WireParam:
        """The same, with the dtype by its name."""
        layout = tuple((p.dim, p.stride, p.extent) for p in self.layout.parts)
        return WireParam(self.name, self.dtype.name, self.shape, layout, self.transform)

    def pack(self, array: Array) -> Array:
        """The caller's plain `array`, transformed and laid out."""
        return self.layout.pack(weights.apply(self.transform, array))

    @property
    def nbytes(self) -> int:
        """Bytes of the memory, padding of blocked dimensions included."""
        total = self.dtype.nbytes
        for extent in self.physical_shape:
            total *= extent
        return total


@dataclass(frozen=True, slots=True, kw_only=True)
class Artifact:
    """A kernel in the form that its device takes. The last `n_outputs` params are written.

    `kind` is the kind of the device, `requires` the features that the code uses, by the target's
    names. An object needs no `launches`: its entry point is called.
    """

    code: bytes
    entry: str
    params: tuple[Param, ...]
    n_outputs: int
    target_key: str
    workspace_shared: int = 0
    workspace_per_thread: int = 0
    kind: str = CPU
    form: Form = Form.OBJECT
    launches: tuple[Launch, ...] = ()
    requires: tuple[str, ...] = ()

    @property
    def digest(self) -> str:
        """SHA-256 of the code, hexadecimal."""
        return hashlib.sha256(self.code).hexdigest()

    def workspace(self, threads: int) -> int:
        """Bytes that a call on `threads` threads may use besides its arguments."""
        return self.workspace_shared + threads * self.workspace_per_thread

    def loadable(self, threads: int = 1) -> Loadable:
        """The kernel as a device loads it, to be run on `threads` threads."""
        return Loadable(
            code=self.code,
            form=self.form,
            entry=self.entry,
            params=tuple(param.wire for param in self.params),
            n_outputs=self.n_outputs,
            workspace=self.workspace(threads),
            launches=self.launches,
        )
