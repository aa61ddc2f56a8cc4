"""Element types: their names, widths and NumPy counterparts."""

from __future__ import annotations

import enum
from dataclasses import dataclass

import ml_dtypes
import numpy as np

from loopwright.errors import UnsupportedError


class DTypeKind(enum.Enum):
    """The family of a dtype."""

    FLOAT = "float"
    BFLOAT = "bfloat"
    INT = "int"
    UINT = "uint"
    BOOL = "bool"


@dataclass(frozen=True, slots=True)
class DType:
    """An element type; compare with `==`. bool is stored as one byte, 0 or 1."""

    kind: DTypeKind
    bits: int

    @property
    def nbytes(self) -> int:
        """Bytes of one element in memory."""
        return (self.bits + 7) // 8

    @property
    def is_float(self) -> bool:
        """True for every floating type, bfloat16 included."""
        return self.kind in (DTypeKind.FLOAT, DTypeKind.BFLOAT)

    @property
    def is_int(self) -> bool:
        """True for signed and unsigned integers, not for bool."""
        return self.kind in (DTypeKind.INT, DTypeKind.UINT)

    @property
    def is_bool(self) -> bool:
        """True for bool."""
        return self.kind is DTypeKind.BOOL

    @property
    def name(self) -> str:
        """`float32`, `int8`, `bool`, ..."""
        return "bool" if self.is_bool else f"{self.kind.value}{self.bits}"

    @property
    def numpy(self) -> np.dtype[np.generic]:
        """The NumPy dtype of the same memory format (bfloat16 comes from ml_dtypes)."""
        return (
            np.dtype(ml_dtypes.bfloat16) if self.kind is DTypeKind.BFLOAT else np.dtype(self.name)
        )

    def __str__(self) -> str:
        return self.name


F16 = DType(DTypeKind.FLOAT, 16)
F32 = DType(DTypeKind.FLOAT, 32)
F64 = DType(DTypeKind.FLOAT, 64)
BF16 = DType(DTypeKind.BFLOAT, 16)
I8 = DType(DTypeKind.INT, 8)
I16 = DType(DTypeKind.INT, 16)
I32 = DType(DTypeKind.INT, 32)
I64 = DType(DTypeKind.INT, 64)
U8 = DType(DTypeKind.UINT, 8)
U16 = DType(DTypeKind.UINT, 16)
U32 = DType(DTypeKind.UINT, 32)
U64 = DType(DTypeKind.UINT, 64)
BOOL = DType(DTypeKind.BOOL, 8)

ALL = (F16, F32, F64, BF16, I8, I16, I32, I64, U8, U16, U32, U64, BOOL)
_BY_NAME = {t.name: t for t in ALL}


def parse(name: str | DType) -> DType:
    """The dtype called `name`.

    Raises: UnsupportedError naming the known dtypes.
    """
    if isinstance(name, DType):
        return name
    found = _BY_NAME.get(str(name))
    if found is None:
        known = ", ".join(_BY_NAME)
        raise UnsupportedError(f"dtype {name!r} is not supported; use one of {known}")
    return found


def accumulator(dtype: DType) -> DType:
    """The accumulator type of `dtype`: float32 for 16-bit floats, int32 for small integers."""
    if dtype.is_float:
        return F64 if dtype.bits == 64 else F32
    if dtype.is_bool or dtype.bits < 32:
        return I32
    return dtype
